"""Tensor's methods, by PyTorch's names. Each is a function of torch_api, with the tensor as its first argument."""

from __future__ import annotations

from typing import Any

from tinylora.tensor import Tensor
from tinylora.torch_api import (
    activations,
    comparison,
    conversion,
    diagonals,
    elementwise,
    functional,
    hooks,
    joining,
    new,
    products,
    rearranging,
    sampling,
    scans,
    scattering,
    scientific,
    shaping,
    statistics,
)
from tinylora.torch_api.aliases import Aliases
from tinylora.torch_api.in_place_methods import InPlaceMethods
from tinylora.torch_api.operators import Operators


class TensorMethods(Operators, InPlaceMethods, Aliases):
    """`x.sum(dim=0)` calls `sum(x, dim=0)`.

    For type checkers this is the base class of Tensor. At run time Tensor is defined first, since the functions need it,
    and `attach` below gives it these methods.
    """

    __slots__ = ()

    # facts
    size = conversion.size
    dim = conversion.dim
    numel = conversion.numel
    element_size = conversion.element_size
    is_floating_point = conversion.is_floating_point
    is_contiguous = conversion.is_contiguous

    @property
    def ndim(self: Any) -> int:
        """The number of axes."""
        return self.array.ndim

    # to Python and NumPy, dtypes, devices, copies
    numpy = conversion.numpy
    tolist = conversion.tolist
    item = conversion.item
    to = conversion.to
    type_as = conversion.type_as
    cpu = conversion.cpu
    cuda = conversion.cuda
    float = conversion.to_float
    double = conversion.to_double
    half = conversion.to_half
    long = conversion.to_long
    int = conversion.to_int
    bool = conversion.to_bool
    clone = conversion.clone
    contiguous = conversion.contiguous

    # element by element
    abs = elementwise.abs
    add = elementwise.add
    clamp = elementwise.clamp
    cos = elementwise.cos
    div = elementwise.div
    erf = elementwise.erf
    exp = elementwise.exp
    log = elementwise.log
    masked_fill = elementwise.masked_fill
    maximum = elementwise.maximum
    minimum = elementwise.minimum
    mul = elementwise.mul
    neg = elementwise.neg
    pow = elementwise.pow
    relu = elementwise.relu
    rsqrt = elementwise.rsqrt
    sigmoid = elementwise.sigmoid
    sin = elementwise.sin
    sqrt = elementwise.sqrt
    sub = elementwise.sub
    tanh = elementwise.tanh

    # comparison, logic, bits, rounding
    eq = comparison.eq
    ne = comparison.ne
    lt = comparison.lt
    le = comparison.le
    gt = comparison.gt
    ge = comparison.ge
    isnan = comparison.isnan
    isinf = comparison.isinf
    isfinite = comparison.isfinite
    equal = comparison.equal
    allclose = comparison.allclose
    any = comparison.any
    all = comparison.all
    logical_and = comparison.logical_and
    logical_or = comparison.logical_or
    logical_not = comparison.logical_not
    bitwise_and = comparison.bitwise_and
    bitwise_or = comparison.bitwise_or
    bitwise_xor = comparison.bitwise_xor
    bitwise_not = comparison.bitwise_not
    sign = comparison.sign
    floor = comparison.floor
    ceil = comparison.ceil
    round = comparison.round
    floor_divide = comparison.floor_divide
    remainder = comparison.remainder

    # reductions and products
    amax = functional.amax
    amin = functional.amin
    cumsum = functional.cumsum
    log_softmax = functional.log_softmax
    matmul = functional.matmul
    mean = functional.mean
    prod = functional.prod
    softmax = functional.softmax
    std = functional.std
    sum = functional.sum
    var = functional.var
    max = shaping.max
    min = shaping.min
    argmax = shaping.argmax

    # shapes and order
    argsort = shaping.argsort
    chunk = shaping.chunk
    expand = shaping.expand
    expand_as = shaping.expand_as
    flatten = shaping.flatten
    gather = shaping.gather
    index_select = shaping.index_select
    permute = shaping.permute
    reshape = shaping.reshape
    scatter_add = shaping.scatter_add
    sort = shaping.sort
    split = shaping.split
    squeeze = shaping.squeeze
    t = shaping.t
    topk = shaping.topk
    transpose = shaping.transpose
    tril = shaping.tril
    triu = shaping.triu
    unbind = shaping.unbind
    unsqueeze = shaping.unsqueeze
    view = shaping.reshape
    view_as = shaping.view_as

    hardshrink = activations.hardshrink
    prelu = activations.prelu

    def where(self: Any, condition: Tensor, other: Any) -> Tensor:
        """The elements of this tensor where condition is true, else those of other."""
        return elementwise.where(condition, self, other)

    @property
    def T(self: Any) -> Tensor:
        """All axes in reverse order."""
        return shaping.permute(self, *range(self.array.ndim)[::-1])

    @property
    def mT(self: Any) -> Tensor:
        """The last two axes swapped."""
        return shaping.transpose(self, -1, -2)

    # elementwise.py
    absolute = elementwise.absolute
    clamp_max = elementwise.clamp_max
    clamp_min = elementwise.clamp_min
    clip = elementwise.clip
    divide = elementwise.divide
    multiply = elementwise.multiply
    negative = elementwise.negative
    subtract = elementwise.subtract
    true_divide = elementwise.true_divide

    # scientific.py
    acos = scientific.acos
    acosh = scientific.acosh
    addcdiv = scientific.addcdiv
    addcmul = scientific.addcmul
    arccos = scientific.arccos
    arccosh = scientific.arccosh
    arcsin = scientific.arcsin
    arcsinh = scientific.arcsinh
    arctan = scientific.arctan
    arctan2 = scientific.arctan2
    arctanh = scientific.arctanh
    asin = scientific.asin
    asinh = scientific.asinh
    atan = scientific.atan
    atan2 = scientific.atan2
    atanh = scientific.atanh
    copysign = scientific.copysign
    cosh = scientific.cosh
    deg2rad = scientific.deg2rad
    erfc = scientific.erfc
    erfinv = scientific.erfinv
    exp2 = scientific.exp2
    expm1 = scientific.expm1
    fix = scientific.fix
    float_power = scientific.float_power
    fmax = scientific.fmax
    fmin = scientific.fmin
    fmod = scientific.fmod
    frac = scientific.frac
    heaviside = scientific.heaviside
    hypot = scientific.hypot
    ldexp = scientific.ldexp
    lerp = scientific.lerp
    log10 = scientific.log10
    log1p = scientific.log1p
    log2 = scientific.log2
    logaddexp = scientific.logaddexp
    logaddexp2 = scientific.logaddexp2
    logit = scientific.logit
    nan_to_num = scientific.nan_to_num
    positive = scientific.positive
    rad2deg = scientific.rad2deg
    reciprocal = scientific.reciprocal
    sinh = scientific.sinh
    square = scientific.square
    tan = scientific.tan
    trunc = scientific.trunc
    xlogy = scientific.xlogy

    # comparison.py
    bitwise_left_shift = comparison.bitwise_left_shift
    bitwise_right_shift = comparison.bitwise_right_shift
    greater = comparison.greater
    greater_equal = comparison.greater_equal
    isclose = comparison.isclose
    isneginf = comparison.isneginf
    isposinf = comparison.isposinf
    less = comparison.less
    less_equal = comparison.less_equal
    logical_xor = comparison.logical_xor
    not_equal = comparison.not_equal
    signbit = comparison.signbit

    # products.py
    addbmm = products.addbmm
    addmm = products.addmm
    addmv = products.addmv
    addr = products.addr
    baddbmm = products.baddbmm
    bmm = products.bmm
    cross = products.cross
    dot = products.dot
    ger = products.ger
    inner = products.inner
    kron = products.kron
    matrix_power = products.matrix_power
    mm = products.mm
    mv = products.mv
    outer = products.outer
    vdot = products.vdot

    # shaping.py
    argmin = shaping.argmin
    msort = shaping.msort
    ravel = shaping.ravel
    reshape_as = shaping.reshape_as
    split_with_sizes = shaping.split_with_sizes
    swapaxes = shaping.swapaxes
    swapdims = shaping.swapdims

    # rearranging.py
    broadcast_to = rearranging.broadcast_to
    flip = rearranging.flip
    fliplr = rearranging.fliplr
    flipud = rearranging.flipud
    moveaxis = rearranging.moveaxis
    movedim = rearranging.movedim
    narrow = rearranging.narrow
    repeat = rearranging.repeat
    repeat_interleave = rearranging.repeat_interleave
    roll = rearranging.roll
    rot90 = rearranging.rot90
    select = rearranging.select
    tile = rearranging.tile
    unflatten = rearranging.unflatten
    unfold = rearranging.unfold

    # diagonals.py
    diag = diagonals.diag
    diag_embed = diagonals.diag_embed
    diagflat = diagonals.diagflat
    diagonal = diagonals.diagonal
    trace = diagonals.trace

    # joining.py
    dsplit = joining.dsplit
    hsplit = joining.hsplit
    tensor_split = joining.tensor_split
    vsplit = joining.vsplit

    # statistics.py
    aminmax = statistics.aminmax
    bincount = statistics.bincount
    corrcoef = statistics.corrcoef
    count_nonzero = statistics.count_nonzero
    cov = statistics.cov
    dist = statistics.dist
    histc = statistics.histc
    kthvalue = statistics.kthvalue
    logsumexp = statistics.logsumexp
    median = statistics.median
    nanmean = statistics.nanmean
    nansum = statistics.nansum
    norm = statistics.norm
    quantile = statistics.quantile
    unique = statistics.unique
    unique_consecutive = statistics.unique_consecutive

    # scans.py
    cummax = scans.cummax
    cummin = scans.cummin
    cumprod = scans.cumprod
    diff = scans.diff
    logcumsumexp = scans.logcumsumexp

    # scattering.py
    argwhere = scattering.argwhere
    diagonal_scatter = scattering.diagonal_scatter
    index_add = scattering.index_add
    index_copy = scattering.index_copy
    index_fill = scattering.index_fill
    index_put = scattering.index_put
    masked_scatter = scattering.masked_scatter
    masked_select = scattering.masked_select
    nonzero = scattering.nonzero
    scatter = scattering.scatter
    scatter_reduce = scattering.scatter_reduce
    select_scatter = scattering.select_scatter
    slice_scatter = scattering.slice_scatter
    take = scattering.take
    take_along_dim = scattering.take_along_dim

    # sampling.py
    bernoulli = sampling.bernoulli
    multinomial = sampling.multinomial

    # new.py
    new_empty = new.new_empty
    new_full = new.new_full
    new_ones = new.new_ones
    new_tensor = new.new_tensor
    new_zeros = new.new_zeros
    # gradients
    register_hook = hooks.register_hook
    retain_grad = hooks.retain_grad


def attach() -> None:
    """Give Tensor the methods above. The one place that does."""
    for name, member in (vars(Operators) | vars(InPlaceMethods) | vars(Aliases) | vars(TensorMethods)).items():
        if callable(member) or isinstance(member, property):
            setattr(Tensor, name, member)


attach()
