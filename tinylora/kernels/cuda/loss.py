"""Cross-entropy on a GPU: two launches forward, one backward, no log-probabilities kept."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cuda.compile import THREADS, kernel, ready


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
