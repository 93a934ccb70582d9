"""Tensor's methods, by PyTorch's names. Each is a function of torch_api, with the tensor as its first argument."""

from __future__ import annotations

from typing import Any

from tinylora.tensor import Tensor
from tinylora.torch_api import comparison, conversion, elementwise, functional, in_place, shaping
from tinylora.torch_api.operators import Operators


class TensorMethods(Operators):
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

    @property
    def T(self: Any) -> Tensor:
        """All axes in reverse order."""
        return shaping.permute(self, *range(self.array.ndim)[::-1])

    @property
    def mT(self: Any) -> Tensor:
        """The last two axes swapped."""
        return shaping.transpose(self, -1, -2)

    # in place
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


def attach() -> None:
    """Give Tensor the methods above. The one place that does."""
    for name, member in (vars(Operators) | vars(TensorMethods)).items():
        if callable(member) or isinstance(member, property):
            setattr(Tensor, name, member)


attach()
