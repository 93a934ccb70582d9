"""Head and cross-entropy in chunks of rows, so that the logits are never all in memory."""

from __future__ import annotations

import numpy as np

from tinylora import ops
from tinylora.kernels.cpu.blocks import in_blocks
from tinylora.kernels.cpu.linear import plain
from tinylora.kernels.cpu.products import product

LOGITS = 2**24  # logits in a chunk: 64 MB of float32


@ops.linear_cross_entropy.tune("numpy")
def linear_cross_entropy(xp, x, weight, target, ignore_index=-100, d_x_too=True):
    """dL/dx is computed with L, from a chunk's logits, and kept; for dL/dW the logits are recomputed from x.

    Ignored rows are left out of all products. Declines if all rows are ignored.
    """
    if not plain(x, weight) or x.ndim != 2 or type(target) is not np.ndarray or 0 in (*x.shape, *weight.shape):
        return NotImplemented
    counting = np.flatnonzero(target != ignore_index)
    N, shape, step = len(counting), x.shape, max(1, LOGITS // len(weight))
    if not N:
        return NotImplemented
    if len(x) > N:
        x, target = x[counting], target[counting]
    chunks = [slice(start, min(start + step, N)) for start in range(0, N, step)]
    losses = np.empty(N, x.dtype)
    found = np.empty_like(x[: N if d_x_too else 0], order="C")

    def d_logits(rows, losses):
        z = product(x[rows], weight.T)
        to_gradient(z, target[rows], N, losses)
        return z

    for rows in chunks:  # frees a chunk before the next is made
        if d_x_too:
            found[rows] = product(d_logits(rows, losses[rows]), weight)
        else:
            d_logits(rows, losses[rows])

    def d_x(g):
        if len(found) == shape[0]:
            return found * g
        d = np.zeros(shape, found.dtype)
        d[counting] = found * g
        return d

    def d_weight(g):
        total = np.zeros_like(weight, order="C")
        for rows in chunks:
            total += product(d_logits(rows, np.empty_like(losses[rows])).T, x[rows])
        total *= g
        return total

    loss = (losses.sum(dtype=np.float64) / N).astype(x.dtype)
    return loss, (d_x if d_x_too else None, d_weight, None)


def to_gradient(z, target, N, losses):
    """Overwrite logits z (n, classes) by (softmax z - onehot target) / N, and store the losses."""

    def work(b):
        some, place = z[b], (np.arange(b.stop - b.start), target[b])
        some -= some.max(axis=-1, keepdims=True)
        losses[b] = -some[place]
        np.exp(some, out=some)
        total = some.sum(axis=1, keepdims=True)
        losses[b] += np.log(total[:, 0])
        some *= 1 / (N * total)
        some[place] -= 1 / N

    in_blocks(work, z.shape, z.dtype)
