"""Tensor's in-place methods, by PyTorch's names: `x.exp_()` writes into the memory of x, and returns x."""

from __future__ import annotations

from typing import Any

from tinylora.tensor import Tensor
from tinylora.torch_api import in_place, overwriting


class InPlaceMethods:
    """`x.add_(y)` calls `add_(x, y)`. Part of `TensorMethods`."""

    __slots__ = ()

    @property
    def data(self: Any) -> Tensor:
        """`detach()`; assigning to it replaces the values and leaves the graph as it is."""
        return self.detach()

    @data.setter
    def data(self: Any, new: Tensor) -> None:
        in_place.set_data(self, new)

    add_ = in_place.add_
    clamp_ = in_place.clamp_
    copy_ = in_place.copy_
    div_ = in_place.div_
    fill_ = in_place.fill_
    masked_fill_ = in_place.masked_fill_
    mul_ = in_place.mul_
    pow_ = in_place.pow_
    normal_ = in_place.normal_
    requires_grad_ = in_place.requires_grad_
    sub_ = in_place.sub_
    uniform_ = in_place.uniform_
    zero_ = in_place.zero_

    # overwriting.py
    abs_ = overwriting.abs_
    acos_ = overwriting.acos_
    acosh_ = overwriting.acosh_
    addbmm_ = overwriting.addbmm_
    addcdiv_ = overwriting.addcdiv_
    addcmul_ = overwriting.addcmul_
    addmm_ = overwriting.addmm_
    addmv_ = overwriting.addmv_
    addr_ = overwriting.addr_
    asin_ = overwriting.asin_
    asinh_ = overwriting.asinh_
    atan2_ = overwriting.atan2_
    atan_ = overwriting.atan_
    atanh_ = overwriting.atanh_
    baddbmm_ = overwriting.baddbmm_
    bernoulli_ = overwriting.bernoulli_
    ceil_ = overwriting.ceil_
    clamp_max_ = overwriting.clamp_max_
    clamp_min_ = overwriting.clamp_min_
    cos_ = overwriting.cos_
    cosh_ = overwriting.cosh_
    cumprod_ = overwriting.cumprod_
    cumsum_ = overwriting.cumsum_
    erf_ = overwriting.erf_
    erfc_ = overwriting.erfc_
    erfinv_ = overwriting.erfinv_
    exp2_ = overwriting.exp2_
    exp_ = overwriting.exp_
    expm1_ = overwriting.expm1_
    exponential_ = overwriting.exponential_
    fill_diagonal_ = overwriting.fill_diagonal_
    floor_ = overwriting.floor_
    floor_divide_ = overwriting.floor_divide_
    fmod_ = overwriting.fmod_
    frac_ = overwriting.frac_
    hypot_ = overwriting.hypot_
    index_add_ = overwriting.index_add_
    index_copy_ = overwriting.index_copy_
    index_fill_ = overwriting.index_fill_
    lerp_ = overwriting.lerp_
    log10_ = overwriting.log10_
    log1p_ = overwriting.log1p_
    log2_ = overwriting.log2_
    log_ = overwriting.log_
    logical_and_ = overwriting.logical_and_
    logical_not_ = overwriting.logical_not_
    logical_or_ = overwriting.logical_or_
    logical_xor_ = overwriting.logical_xor_
    logit_ = overwriting.logit_
    masked_scatter_ = overwriting.masked_scatter_
    nan_to_num_ = overwriting.nan_to_num_
    neg_ = overwriting.neg_
    random_ = overwriting.random_
    reciprocal_ = overwriting.reciprocal_
    relu_ = overwriting.relu_
    remainder_ = overwriting.remainder_
    round_ = overwriting.round_
    rsqrt_ = overwriting.rsqrt_
    scatter_ = overwriting.scatter_
    scatter_add_ = overwriting.scatter_add_
    scatter_reduce_ = overwriting.scatter_reduce_
    sigmoid_ = overwriting.sigmoid_
    sign_ = overwriting.sign_
    sin_ = overwriting.sin_
    sinh_ = overwriting.sinh_
    sqrt_ = overwriting.sqrt_
    square_ = overwriting.square_
    tan_ = overwriting.tan_
    tanh_ = overwriting.tanh_
    tril_ = overwriting.tril_
    triu_ = overwriting.triu_
    trunc_ = overwriting.trunc_
