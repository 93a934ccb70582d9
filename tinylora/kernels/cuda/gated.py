"""The gated product of a feed-forward on a GPU: one pass forward, and one backward for both gradients."""

from __future__ import annotations

from tinylora import ops
from tinylora.kernels.cuda.again import cheap
from tinylora.kernels.cuda.compile import NAMES, blocks, kernel, or_null, packs, spaced


@ops.swiglu.tune("cupy")
def swiglu(xp, gate, up):
    """Keeps gate and up; y is cheap to compute again, in one pass with the gradients, which are adjacent: (.., 2, n).

    Declines broadcasting.
    """
    if gate.shape != up.shape or not gate.ndim or gate.dtype not in NAMES or up.dtype != gate.dtype:
        return NotImplemented
    shape, width = gate.shape, gate.shape[-1]
    if not gate.size or width * gate.itemsize % 16:
        return NotImplemented
    (gate, gate_step), (up, up_step) = spaced(gate), spaced(up)

    latest = [None, None]  # the last g, and its gradients

    def product(g=None):
        y = xp.empty(shape, gate.dtype)
        if g is None:
            kernel("elementwise", "swiglu", gate.dtype)(*blocks(packs(y)), (gate, up, y, y.size, width, gate_step, up_step))
        else:
            gradients(g, y)
        return y

    def gradients(g, y=None):
        if latest[0] is not g or y is not None:
            latest[:] = g, (d := xp.empty((*shape[:-1], 2, width), gate.dtype))
            g, step = spaced(g)
            arguments = gate, up, g, or_null(y), d, gate.size, width, gate_step, up_step, step
            kernel("elementwise", "swiglu_backward", gate.dtype)(*blocks(packs(gate)), arguments)
        return latest[1]

    def d_gate(g):
        return gradients(g)[..., 0, :]

    def d_up(g):
        return gradients(g)[..., 1, :]

    return cheap(product(), product), (d_gate, d_up)
