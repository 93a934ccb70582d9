"""In-place forms of functions: `x.exp_()` is `exp(x)`, written into the memory of x. (add_, mul_, .. are in in_place.py)"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import numpy as np

from tinylora import backend
from tinylora.backend import device_of, to_device
from tinylora.tensor import Tensor
from tinylora.torch_api import (
    comparison,
    elementwise,
    functional,
    products,
    sampling,
    scans,
    scattering,
    scientific,
    shaping,
)
from tinylora.torch_api.in_place import _before, store
from tinylora.torch_api.views import assign

P = ParamSpec("P")
Function = Callable[Concatenate[Tensor, P], Tensor]


def in_place(function: Function[P]) -> Function[P]:
    """The form of `function` that writes its result into its first argument, and returns that."""

    @functools.wraps(function)
    def written(input: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return store(input, function(_before(input, *args, *kwargs.values()), *args, **kwargs))

    return written


# elementwise.py
abs_ = in_place(elementwise.abs)
exp_ = in_place(elementwise.exp)
log_ = in_place(elementwise.log)
sqrt_ = in_place(elementwise.sqrt)
rsqrt_ = in_place(elementwise.rsqrt)
sin_ = in_place(elementwise.sin)
cos_ = in_place(elementwise.cos)
neg_ = in_place(elementwise.neg)
tanh_ = in_place(elementwise.tanh)
sigmoid_ = in_place(elementwise.sigmoid)
relu_ = in_place(elementwise.relu)
erf_ = in_place(elementwise.erf)
clamp_min_ = in_place(elementwise.clamp_min)
clamp_max_ = in_place(elementwise.clamp_max)

# scientific.py
square_ = in_place(scientific.square)
reciprocal_ = in_place(scientific.reciprocal)
expm1_ = in_place(scientific.expm1)
exp2_ = in_place(scientific.exp2)
log1p_ = in_place(scientific.log1p)
log2_ = in_place(scientific.log2)
log10_ = in_place(scientific.log10)
logit_ = in_place(scientific.logit)
tan_ = in_place(scientific.tan)
asin_ = in_place(scientific.asin)
acos_ = in_place(scientific.acos)
atan_ = in_place(scientific.atan)
sinh_ = in_place(scientific.sinh)
cosh_ = in_place(scientific.cosh)
asinh_ = in_place(scientific.asinh)
acosh_ = in_place(scientific.acosh)
atanh_ = in_place(scientific.atanh)
atan2_ = in_place(scientific.atan2)
hypot_ = in_place(scientific.hypot)
erfc_ = in_place(scientific.erfc)
erfinv_ = in_place(scientific.erfinv)
fmod_ = in_place(scientific.fmod)
trunc_ = in_place(scientific.trunc)
frac_ = in_place(scientific.frac)
lerp_ = in_place(scientific.lerp)
addcmul_ = in_place(scientific.addcmul)
addcdiv_ = in_place(scientific.addcdiv)
nan_to_num_ = in_place(scientific.nan_to_num)

# comparison.py
floor_ = in_place(comparison.floor)
ceil_ = in_place(comparison.ceil)
round_ = in_place(comparison.round)
sign_ = in_place(comparison.sign)
floor_divide_ = in_place(comparison.floor_divide)
remainder_ = in_place(comparison.remainder)
logical_and_ = in_place(comparison.logical_and)
logical_or_ = in_place(comparison.logical_or)
logical_xor_ = in_place(comparison.logical_xor)
logical_not_ = in_place(comparison.logical_not)

# products.py
addmm_ = in_place(products.addmm)
addmv_ = in_place(products.addmv)
addr_ = in_place(products.addr)
baddbmm_ = in_place(products.baddbmm)
addbmm_ = in_place(products.addbmm)

# functional.py
cumsum_ = in_place(functional.cumsum)

# scans.py
cumprod_ = in_place(scans.cumprod)

# shaping.py
tril_ = in_place(shaping.tril)
triu_ = in_place(shaping.triu)
scatter_add_ = in_place(shaping.scatter_add)

# scattering.py
scatter_ = in_place(scattering.scatter)
scatter_reduce_ = in_place(scattering.scatter_reduce)
index_add_ = in_place(scattering.index_add)
index_copy_ = in_place(scattering.index_copy)
index_fill_ = in_place(scattering.index_fill)
masked_scatter_ = in_place(scattering.masked_scatter)


# ------------------------------------------------------------------------------------ random numbers
def bernoulli_(input: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with 1 with probability p, a number or a tensor, else 0."""
    chance = p.detach().expand(input.shape) if isinstance(p, Tensor) else input.detach()
    drawn = sampling.bernoulli(chance, None if isinstance(p, Tensor) else p, generator=generator)
    return assign(input, drawn.array.astype(input.dtype))


def exponential_(input: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with random numbers of density lambd e^(-lambd x)."""
    drawn = -np.log1p(-sampling.uniform(input.shape, generator)) / lambd
    return assign(input, to_device(drawn.astype(input.dtype), device_of(input.array)))


def random_(input: Tensor, low: int = 0, high: int | None = None) -> Tensor:
    """Fill with random integers in [low, high), or [0, low) if called with one number."""
    low, high = (0, low) if high is None else (low, high)
    return assign(input, backend.random_integers(low, high, input.shape, input.device).astype(input.dtype))


def fill_diagonal_(input: Tensor, fill_value: float) -> Tensor:
    """Set the diagonal of a matrix to a number."""
    if input.array.ndim != 2:
        raise RuntimeError(f"fill_diagonal_ takes a matrix, and the shape is {input.shape}")
    input.diagonal().fill_(fill_value)
    return input
