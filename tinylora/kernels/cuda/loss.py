"""Cross-entropy on a GPU, also with the head: two launches forward, one backward, no log-probabilities kept."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.compile import THREADS, kernel, ready
from tinylora.op import once


@ops.cross_entropy.tune("cupy")
def cross_entropy(xp, logits, target, weight=None, ignore_index=-100, reduction="mean"):
    """Keeps the logits and two numbers per row. An invalid target gives NaN, since a CUDA graph cannot raise."""
    if logits.dtype != np.float32 or not logits.size or (weight is not None and weight.dtype != np.float32):
        return NotImplemented
    rows, classes = logits.shape
    z, target = ready(xp, logits), ready(xp, target.astype(np.int64, copy=False))
    lse, w, losses = xp.empty((3, rows), np.float32)
    w_class = np.uint64(0) if weight is None else ready(xp, weight)
    one_a_row = ((rows,), (min(THREADS, max(32, -(-classes // 32) * 32)),))
    kernel("loss", "row_losses")(*one_a_row, (z, target, w_class, ignore_index, classes, lse, w, losses))
    y, total = losses, np.uint64(0)
    if reduction != "none":
        y, total = xp.empty((), np.float32), xp.empty((), np.float32)
        kernel("loss", "total_loss")((1,), (THREADS,), (losses, w, rows, int(reduction == "mean"), y, total))

    def d_logits(g):
        d = xp.empty_like(z)
        step = int(reduction == "none")
        kernel("loss", "cross_entropy_backward")(*one_a_row, (z, target, lse, w, ready(xp, g), step, total, classes, d))
        return d

    return y, (d_logits, None, None)


@ops.linear_cross_entropy.tune("cupy")
def linear_cross_entropy(xp, x, weight, target, ignore_index=-100, d_x_too=True):
    """The tuned linear, then the tuned loss, in float32 for bfloat16 and float16. Keeps the logits."""
    logits, (through_x, through_weight, _) = ops.linear(x, weight, None)
    dtype = logits.dtype
    wide = logits.astype(np.float32) if dtype.itemsize < 4 else logits
    loss, (through_logits, *_) = ops.cross_entropy(wide, target, ignore_index=ignore_index)
    d_logits = once(lambda g: through_logits(g).astype(dtype, copy=False))

    def d_x(g):
        return through_x(d_logits(g))

    def d_weight(g):
        return through_weight(d_logits(g))

    return loss, (d_x if d_x_too else None, d_weight, None)
