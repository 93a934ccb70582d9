"""bfloat16 for ops without a kernel for it: the definition in float32, with rounded results.

CuPy computes in bfloat16 too, but promotes it to float32 beside Python numbers, which definitions use a lot.
"""

from __future__ import annotations

import functools
from typing import Any

from tinylora import ops
from tinylora.backend import bfloat16, float32
from tinylora.op import Op

COMPUTING = """add sub mul div pow neg abs exp log sqrt rsqrt sin cos tanh sigmoid silu relu erf where maximum minimum clamp
    sum mean var std amax amin prod cumsum softmax log_softmax gelu swiglu layer_norm rms_norm rope dropout
    attention attention_at""".split()


def _as(dtype: Any, x: Any) -> Any:
    """x as `dtype` if it is bfloat16 or float32; anything else unchanged."""
    return x.astype(dtype) if getattr(x, "dtype", None) in (bfloat16, float32) else x


def _rounded(op: Op) -> Any:
    def rounded(xp: Any, *inputs: Any, **options: Any) -> Any:
        """The definition in float32, for inputs in bfloat16."""
        if not any(getattr(x, "dtype", None) == bfloat16 for x in inputs):
            return NotImplemented
        y, vjps = op.definition(xp, *(_as(float32, x) for x in inputs), **options)
        return _as(bfloat16, y), tuple(vjp and _narrow(vjp) for vjp in vjps)

    return rounded


def _narrow(vjp: Any) -> Any:
    @functools.wraps(vjp)
    def narrow(g: Any) -> Any:
        return _as(bfloat16, vjp(_as(float32, g)))

    return narrow


def _scattered(op: Op) -> Any:
    def scattered(xp: Any, x: Any, *inputs: Any, **options: Any) -> Any:
        """The definition, with the gradient of x accumulated in float32: CuPy cannot scatter-add bfloat16."""
        if x.dtype != bfloat16:
            return NotImplemented
        of_its_shape = xp.broadcast_to(xp.zeros((), float32), x.shape)  # one number in memory
        _, vjps = op.definition(xp, of_its_shape, *inputs, **options)
        return op.definition(xp, x, *inputs, **options)[0], tuple(vjp and _narrow(vjp) for vjp in vjps)

    return scattered


ops.getitem.tune("cupy")(_scattered(ops.getitem))
ops.gather.tune("cupy")(_scattered(ops.gather))
for _name in COMPUTING:
    getattr(ops, _name).tune("cupy")(_rounded(getattr(ops, _name)))
