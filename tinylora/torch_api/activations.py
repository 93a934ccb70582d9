"""Activation functions, as torch.nn.functional has them; `inplace=True` overwrites the input. (gelu is in elementwise.py)"""

from __future__ import annotations

import math
from typing import Any

from tinylora import ops
from tinylora.tensor import Tensor, record
from tinylora.torch_api import elementwise
from tinylora.torch_api.elementwise import abs, add, div, mul, neg, sub, tanh, where
from tinylora.torch_api.functional import sigmoid, softmax
from tinylora.torch_api.in_place import _before, store
from tinylora.torch_api.promote import need_float
from tinylora.torch_api.shaping import chunk, reshape

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017


def _stored(input: Tensor, y: Tensor, inplace: bool) -> Tensor:
    return store(input, y) if inplace else y


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    x = _before(input) if inplace else input
    return _stored(input, elementwise.relu(x), inplace)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · sigmoid(x)."""
    x = _before(input) if inplace else input
    return _stored(input, elementwise.silu(x), inplace)


def _floating(name: str, input: Tensor) -> Tensor:
    need_float(name, input)
    return input


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + eᵇˣ) / b, b = beta; x itself where b x > threshold.  Gradient: sigmoid(b x)."""
    return record(ops.softplus, _floating("softplus", input), beta=float(beta), threshold=float(threshold))


def logsigmoid(input: Tensor) -> Tensor:
    """ln sigmoid x = -softplus(-x)."""
    return neg(softplus(neg(input), threshold=math.inf))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope · x."""
    x = _before(input) if inplace else input
    return _stored(input, record(ops.leaky_relu, _floating("leaky_relu", x), slope=float(negative_slope)), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (eˣ - 1).  Clevert, Unterthiner, Hochreiter 2015."""
    x = _before(input) if inplace else input
    return _stored(input, record(ops.elu, _floating("elu", x), alpha=float(alpha)), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale · (x where x > 0, else alpha (eˣ - 1)), which keeps mean 0 and variance 1.  Klambauer et al. 2017."""
    x = _before(input) if inplace else input
    return _stored(input, record(ops.elu, _floating("selu", x), alpha=SELU_ALPHA, scale=SELU_SCALE), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (e^(x/alpha) - 1).  Barron 2017."""
    x = _before(input) if inplace else input
    if alpha == 0:
        raise RuntimeError("celu: alpha cannot be 0")
    return _stored(input, record(ops.elu, _floating("celu", x), alpha=float(alpha), rate=1 / alpha), inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]; the gradient is 0 at the limits, too."""
    x = _before(input) if inplace else input
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is larger than max_val {max_val}")
    number = int if input.dtype.kind in "iu" else float
    return _stored(input, record(ops.hardtanh, x, low=number(min_val), high=number(max_val)), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]."""
    x = _before(input) if inplace else input
    return _stored(input, hardtanh(x, 0, 6), inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    x = _before(input) if inplace else input
    return _stored(input, div(relu6(add(_floating("hardsigmoid", x), 3.0)), 6.0), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · hardsigmoid(x).  Howard et al. 2019."""
    x = _before(input) if inplace else input
    return _stored(input, mul(x, hardsigmoid(x)), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus x).  Misra 2019."""
    x = _before(input) if inplace else input
    return _stored(input, record(ops.mish, _floating("mish", x)), inplace)


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh x."""
    return sub(input, tanh(input))


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return div(input, add(abs(input), 1))


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by lambd, and 0 where |x| ≤ lambd."""
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambd is at least 0, not {lambd}")
    return sub(input, hardtanh(input, -lambd, lambd))


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x, and 0 where |x| ≤ lambd."""
    return where((input <= lambd) & (input >= -lambd), 0.0, _floating("hardshrink", input))


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else value."""
    x = _before(input) if inplace else input
    return _stored(input, where(x <= threshold, x.array.dtype.type(value).item(), x), inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight · x; weight has one number, or one for each channel (dim 1).  He et al. 2015."""
    _floating("prelu", input)
    channels = input.shape[1] if input.array.ndim > 1 else 1
    if weight.array.size not in (1, channels) or weight.array.ndim > 1 or input.dtype != weight.dtype:
        raise RuntimeError(f"prelu: {weight.dtype} weight of shape {weight.shape} does not fit {input.dtype} {input.shape}")
    slope = reshape(weight, [-1 if i == 1 else 1 for i in range(input.array.ndim)] if weight.array.size > 1 else [])
    return where(input > 0, input, mul(slope, input))


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a · sigmoid(b), a and b the halves of an axis.  Dauphin et al. 2016."""
    if not input.array.ndim or input.shape[dim] % 2:
        raise RuntimeError(f"glu: dim {dim} of shape {input.shape} cannot be halved")
    a, b = chunk(input, 2, dim)
    return mul(a, sigmoid(b))


def softmin(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """softmax(-x)."""
    return softmax(neg(input), dim, dtype=dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, dim: int = -1) -> Tensor:
    """softmax((logits + g) / tau) with g Gumbel noise: a sample whose gradient flows.  Jang, Gu, Poole 2017.

    hard=True gives a one-hot sample in the forward pass, and the soft one's gradient.
    """
    from tinylora.torch_api.creation import rand_like

    _floating("gumbel_softmax", logits)
    uniform = rand_like(logits.detach())
    soft = softmax(sub(logits, (-(uniform + 1e-20).log() + 1e-20).log()) / tau, dim)
    if not hard:
        return soft
    one = (soft.detach() == soft.detach().amax(dim, keepdim=True)).to(soft.dtype)
    return add(sub(soft, soft.detach()), one)
