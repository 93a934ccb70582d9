"""Adam on all parameters at once: each number is read and written once, and the state is updated where it stands.

Written out as in `optim.py`, a step makes a dozen passes over every array and allocates most of them anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinylora.backend import Array
from tinylora.kernels.cpu.blocks import BLOCK
from tinylora.kernels.cpu.linear import plain
from tinylora.kernels.cpu.threads import get_num_threads, spread
from tinylora.op import this_thread

Row = tuple[Array, Array, dict[str, Any], dict[str, Any]]  # a weight, its gradient, its state, the options of its group
Piece = tuple[Row, Array, slice]  # a row, where its new weight goes, and the part of it to work on


def adam(rows: Sequence[Row], apart: bool) -> list[Array] | None:
    """The new values of all weights by Adam, with the weight decay `apart` from the gradient (AdamW) or added to it.

    The same arithmetic as the definition in the same order, so the same numbers. Overwrites the state's m and v, and never
    a weight. None while kernels are off, and unless all arrays are NumPy's and the weights in row order.
    """
    if not this_thread.tuned or not all(plain(w, g) and w.flags.c_contiguous for w, g, *_ in rows):
        return None
    new = [np.empty_like(w) for w, *_ in rows]
    rows = [(w, np.asarray(g, order="C"), state, group) for w, g, state, group in rows]
    for w, _, state, _ in rows:
        state["step"] = state.get("step", 0) + 1
        for name in ("m", "v"):  # in row order, so that parts of them are views
            state[name] = np.asarray(state[name], order="C") if name in state else np.zeros_like(w)
    spread(functools.partial(_update, apart=apart), _shares(list(_pieces(rows, new))))
    return new


def _pieces(rows: Sequence[Row], new: list[Array]) -> Iterator[Piece]:
    for row, out in zip(rows, new, strict=True):
        for start in range(0, out.size, BLOCK):
            yield row, out, slice(start, min(start + BLOCK, out.size))


def _shares(pieces: list[Piece]) -> list[list[Piece]]:
    """All of them, dealt out to the threads; in one share if there is little to do."""
    count = get_num_threads() if len(pieces) > 1 and sum(b.stop - b.start for *_, b in pieces) > BLOCK else 1
    return [pieces[i::count] for i in range(min(count, len(pieces)))]


def _update(share: list[Piece], apart: bool) -> None:
    """w ← (1 - lr · λ) w - lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + ε) on parts of weights."""
    for row, new, part in share:
        w, g, m, v, out = (x.reshape(-1)[part] for x in (row[0], row[1], row[2]["m"], row[2]["v"], new))
        t, (b1, b2), lr, decay = row[2]["step"], row[3]["betas"], row[3]["lr"], row[3]["weight_decay"]
        g = g + decay * w if decay and not apart else g
        scratch = np.empty_like(out)
        m *= b1
        m += np.multiply(g, 1 - b1, out=scratch)
        v *= b2
        np.multiply(g, 1 - b2, out=scratch)
        scratch *= g
        v += scratch
        np.multiply(v, 1 / (1 - b2**t), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += row[3]["eps"]
        np.multiply(m, lr / (1 - b1**t), out=out)
        np.divide(out, scratch, out=scratch)
        np.multiply(w, 1 - lr * decay if apart else 1.0, out=out)
        out -= scratch
