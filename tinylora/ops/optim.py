"""What an optimizer does to many arrays at once. These ops work outside of any graph and have no vjps."""

from __future__ import annotations

from tinylora.op import op


@op
def adam(xp, *arrays, numbers, apart):
    """One step of Adam: n weights, their n gradients, n m and n v in a row -> new weights, m and v, 3n in a row.

    m ← β₁ m + (1 - β₁) g      v ← β₂ v + (1 - β₂) g²      w ← w - lr · m̂ / (√v̂ + ε),  m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)

    Weight decay λ is `apart` from the gradient, w ← (1 - lr λ) w first (AdamW), or added to it, g ← g + λ w. `numbers()` is
    called once for each step, and gives per weight (t, lr, β₁, β₂, ε, λ): now, or in a captured step before each replay.
    Tuned versions may overwrite m and v, which belong to the optimizer alone. In a captured step they overwrite the weights,
    since the next replay reads what this one wrote.
    """
    n = len(arrays) // 4
    weights, ms, vs = [], [], []
    rows = zip(arrays[:n], arrays[n : 2 * n], arrays[2 * n : 3 * n], arrays[3 * n :], numbers(), strict=True)
    for w, g, m, v, (t, lr, b1, b2, eps, decay) in rows:
        g = g + decay * w if decay and not apart else g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        step = lr / (1 - b1**t) * m / (xp.sqrt(v * (1 / (1 - b2**t))) + eps)
        weights.append((w * (1 - lr * decay) if apart else w) - step)
        ms.append(m)
        vs.append(v)
    return tuple(map(xp.asarray, (*weights, *ms, *vs))), (None,) * len(arrays)


@op
def clip_norm(xp, *gradients, max_norm):
    """Their joint 2-norm ‖g‖, and each g · min(1, max_norm / ‖g‖): 1 + n outputs."""
    norm = xp.sqrt(sum((g * g).sum() for g in gradients))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    scaled = [g * factor.astype(g.dtype) for g in gradients]
    return tuple(map(xp.asarray, (norm, *scaled))), (None,) * len(gradients)
