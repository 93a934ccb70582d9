"""Adam's step and gradient clipping, on many arrays at once. These ops have no vjps."""

from __future__ import annotations

from typing import Any

from tinylora.backend import total, wide
from tinylora.op import every_dtype


@every_dtype
def adam(xp, *arrays, numbers, apart):
    """One step of Adam: n weights, their n gradients, n m and n v in a row -> new weights, m and v, 3n in a row.

    m ← β₁ m + (1 - β₁) g      v ← β₂ v + (1 - β₂) g²      w ← w - lr · m̂ / (√v̂ + ε),  m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)

    Weight decay λ is `apart` from the gradient, w ← (1 - lr λ) w first (AdamW), or added to it, g ← g + λ w. `numbers()` is
    called once per step, and returns (t, lr, β₁, β₂, ε, λ) for each weight; in a captured step, before each replay.
    Tuned versions may overwrite the weights, m and v, and return the same arrays.
    """
    n = len(arrays) // 4
    weights: list[Any] = []
    ms: list[Any] = []
    vs: list[Any] = []
    rows = zip(arrays[:n], arrays[n : 2 * n], arrays[2 * n : 3 * n], arrays[3 * n :], numbers(), strict=True)
    for w, g, m, v, (t, lr, b1, b2, eps, decay) in rows:
        dtype, w, g, m, v = w.dtype, *map(wide, (w, g, m, v))
        g = g + decay * w if decay and not apart else g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        step = lr / (1 - b1**t) * m / (xp.sqrt(v * (1 / (1 - b2**t))) + eps)
        w = (w * (1 - lr * decay) if apart else w) - step
        for new, found in ((weights, w), (ms, m), (vs, v)):
            new.append(found.astype(dtype, copy=False))
    return tuple(map(xp.asarray, (*weights, *ms, *vs))), (None,) * len(arrays)


@every_dtype
def clip_norm(xp, *gradients, max_norm):
    """Their joint 2-norm ‖g‖, and each g · min(1, max_norm / ‖g‖): 1 + n outputs.

    The squares are float64: in float32 they overflow from 2e19 on, in float16 from 256 on. Tuned versions may overwrite the
    gradients, and return the same arrays.
    """
    norm = xp.sqrt(sum(total(xp.square(g.astype(xp.float64))) for g in gradients))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    scaled = [(wide(g) * factor.astype(wide(g).dtype)).astype(g.dtype) for g in gradients]
    return tuple(map(xp.asarray, (norm.astype(gradients[0].dtype), *scaled))), (None,) * len(gradients)
