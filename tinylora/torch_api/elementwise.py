"""Element-wise functions with a gradient. Inputs broadcast, are promoted to one dtype, and may be Python numbers."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import Array, is_floating
from tinylora.op import Op
from tinylora.tensor import Node, Tensor, grad_enabled, record
from tinylora.torch_api.promote import number, promote, tensor


def _apply(op: Op, *inputs: Any, floating: bool = False) -> Tensor:
    operands = promote(*inputs, floating=floating)
    if not any(isinstance(x, Tensor) for x in operands):
        raise TypeError(f"{op.name}: expected a tensor, got {', '.join(type(x).__name__ for x in inputs)}")
    try:
        return record(op, *operands)
    except TypeError:  # NumPy's, for - of booleans
        dtypes = [str(x.dtype) for x in inputs if isinstance(x, Tensor)]
        raise RuntimeError(f"{op.name} is not defined for {' and '.join(dtypes)}") from None
    except ValueError:
        shapes = [tuple(x.shape) for x in inputs if hasattr(x, "shape")]
        raise RuntimeError(f"{op.name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None


def without_derivative(name: str, y: Array, *inputs: Any) -> Tensor:
    """The array y, computed from `inputs`, as a tensor whose backward raises, as in PyTorch."""

    def refuse(g: Array) -> Array:
        raise RuntimeError(f"the derivative of {name} is not implemented: detach() its result, or its input")

    nodes = [x.node for x in inputs if isinstance(x, Tensor) and x.node is not None and grad_enabled()]
    return Tensor(y, node=Node(y.shape, tuple((node, refuse) for node in nodes)) if nodes else None)


# ------------------------------------------------------------------------------------- two inputs
def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """input + alpha · other."""
    return _apply(ops.add, input, other if alpha == 1 else other * alpha)


def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """input - alpha · other."""
    return _apply(ops.sub, input, other if alpha == 1 else other * alpha)


def mul(input: Any, other: Any) -> Tensor:
    """input · other."""
    return _apply(ops.mul, input, other)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; integers are divided as float32. rounding_mode "floor" or "trunc" rounds; then the gradient is 0."""
    if rounding_mode is not None:
        return _rounded_quotient(input, other, rounding_mode)
    return _apply(ops.div, input, other, floating=True)


def _rounded_quotient(input: Any, other: Any, mode: str) -> Tensor:
    if mode not in ("floor", "trunc"):
        raise RuntimeError(f"div: rounding_mode is None, 'floor' or 'trunc', not {mode!r}")
    a, b = promote(input, other)
    numbers = [x.dtype.kind in "iub" if isinstance(x, Tensor) else not isinstance(x, float) for x in (a, b)]
    if builtins.all(numbers) and not (b.array.all() if isinstance(b, Tensor) else b):
        raise RuntimeError("div: an integer is divided by 0")
    return record(ops.quotient, a, b, towards_zero=mode == "trunc")


def rsub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """other - alpha · input."""
    return sub(other, input, alpha=alpha)


def maximum(input: Any, other: Any) -> Tensor:
    """The larger of the two. Ties share the gradient."""
    return _apply(ops.maximum, input, other)


def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of the two. Ties share the gradient."""
    return _apply(ops.minimum, input, other)


def pow(input: Any, exponent: Any) -> Tensor:
    """inputᵉˣᵖᵒⁿᵉⁿᵗ. As in PyTorch, integers to a negative number raise, and to negative integers in a tensor give 0, ±1."""
    base, e = promote(input, exponent)
    dtype = (base if isinstance(base, Tensor) else e).dtype
    if dtype.kind not in "iu":
        return _apply(ops.pow, base, e)
    if isinstance(e, int) and e < 0:
        raise RuntimeError("integers to negative integer powers are not allowed: use .float() first")
    if isinstance(e, int):
        return _apply(ops.pow, base, number(exponent, dtype))
    if not e.array.size or e.array.min() >= 0:
        return _apply(ops.pow, base, e)
    base = base if isinstance(base, Tensor) else tensor(base, dtype, e.device)
    rounded = where(base == 1, 1, where(base == -1, 1 - 2 * (e % 2), 0))  # 1 / base⁻ᵉ, toward 0
    return where(e < 0, rounded, _apply(ops.pow, base, maximum(e, 0)))


# -------------------------------------------------------------------------------------- one input
def neg(input: Tensor) -> Tensor:
    """-input."""
    return _apply(ops.neg, input)


def abs(input: Tensor) -> Tensor:
    """|input|, with gradient 0 at 0."""
    return _apply(ops.abs, input)


def exp(input: Tensor) -> Tensor:
    """eˣ."""
    return _apply(ops.exp, input, floating=True)


def log(input: Tensor) -> Tensor:
    """The natural logarithm."""
    return _apply(ops.log, input, floating=True)


def sqrt(input: Tensor) -> Tensor:
    """√x."""
    return _apply(ops.sqrt, input, floating=True)


def rsqrt(input: Tensor) -> Tensor:
    """1 / √x."""
    return _apply(ops.rsqrt, input, floating=True)


def sin(input: Tensor) -> Tensor:
    """sin x, x in radians."""
    return _apply(ops.sin, input, floating=True)


def cos(input: Tensor) -> Tensor:
    """cos x, x in radians."""
    return _apply(ops.cos, input, floating=True)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return _apply(ops.tanh, input, floating=True)


def erf(input: Tensor) -> Tensor:
    """The error function: 2/√π ∫₀ˣ exp(-t²) dt."""
    return _apply(ops.erf, input, floating=True)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)."""
    return _apply(ops.sigmoid, input, floating=True)


def relu(input: Tensor) -> Tensor:
    """max(x, 0)."""
    return _apply(ops.relu, input)


def silu(input: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return _apply(ops.silu, input, floating=True)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, in one op."""
    return _apply(ops.swiglu, gate, up, floating=True)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit: x Φ(x), or with approximate="tanh" the form GPT-2 uses."""
    if approximate == "tanh":
        return _apply(ops.gelu, input, floating=True)
    if approximate != "none":
        raise RuntimeError(f"approximate is 'none' or 'tanh', not {approximate!r}")
    return input * 0.5 * (1.0 + erf(input * math.sqrt(0.5)))


# ------------------------------------------------------------------------------ choosing and limiting
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """input where condition is true, else other. The side not chosen gets a gradient of exactly 0, even for inf and NaN.

    where(condition) alone is `condition.nonzero(as_tuple=True)`: the indices of what is true, one tensor for each axis.
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    a, b = promote(input, other)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = tensor(a, device=condition.device)
    for x in (input, other):
        if type(x) is int:
            number(x, (a if isinstance(a, Tensor) else b).dtype)  # raises if it is out of range
    return record(ops.where, condition.array.astype(bool), a, b)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """A copy of input with `value` where mask is true."""
    if mask.dtype != bool:
        raise RuntimeError(f"masked_fill: the mask must be boolean, and this one is {mask.dtype}")
    if isinstance(value, Tensor) and value.array.ndim:
        raise RuntimeError(f"masked_fill: value is a number or a 0-d tensor, and its shape is {value.shape}")
    return where(mask, value if isinstance(value, Tensor) else number(value, input.dtype), input)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """input limited to [min, max], two numbers or tensors; one of the two may be None."""
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        low = input if min is None else maximum(input, min)
        return low if max is None else minimum(low, max)
    if min is None and max is None:
        raise RuntimeError("clamp: give min, max or both")
    input = promote(input, *(limit for limit in (min, max) if limit is not None))[0]
    if not is_floating(input.dtype):
        limits = np.iinfo(input.dtype)
        ends = limits.min if min is None else min, limits.max if max is None else max
        return record(ops.clamp, input, *(number(end, input.dtype) for end in ends))
    return record(ops.clamp, input, -math.inf if min is None else float(min), math.inf if max is None else float(max))


def clamp_min(input: Tensor, min: Any) -> Tensor:
    """input, but at least min, a number or a tensor."""
    return clamp(input, min=min)


def clamp_max(input: Tensor, max: Any) -> Tensor:
    """input, but at most max, a number or a tensor."""
    return clamp(input, max=max)


# PyTorch's other names for these
absolute, clip, divide, multiply, negative, subtract, true_divide = abs, clamp, div, mul, neg, sub, div
