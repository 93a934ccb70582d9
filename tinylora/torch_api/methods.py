"""PyTorch's methods and operators, attached to Tensor. Each is a function of another room under the name people type."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import array_module, is_device, is_floating, known, to_device
from tinylora.tensor import Tensor, grad_enabled, no_grad, record
from tinylora.torch_api import creation, indexing, shaping
from tinylora.torch_api import functional as F
from tinylora.torch_api.promote import operand, promote

METHODS: dict[str, Any] = {}


def method(function: Callable[..., Any]) -> Callable[..., Any]:
    METHODS[function.__name__] = function
    return function


# -------------------------------------------------------------------------------- out to Python and NumPy
@method
def numpy(self: Tensor) -> np.ndarray:
    """The NumPy array. Raises if the tensor requires grad (`.detach()` first) or is on the GPU (`.cpu()` first)."""
    if self.requires_grad:
        raise RuntimeError("numpy() on a tensor that requires grad: use .detach().numpy()")
    if self.device != "cpu":
        raise TypeError(f"numpy() on a tensor on {self.device}: use .cpu().numpy()")
    return self.data


@method
def __array__(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(numpy(self), dtype=dtype, copy=copy)


@method
def tolist(self: Tensor) -> Any:
    """Nested Python lists of numbers, or one number for a 0-d tensor."""
    return to_device(self.data, "cpu").tolist()


@method
def item(self: Tensor) -> Any:
    """The one number in the tensor."""
    if self.data.size != 1:
        raise RuntimeError(f"item() needs exactly one element, and the shape is {self.shape}")
    return to_device(self.data, "cpu").item()


@method
def __repr__(self: Tensor) -> str:
    notes = [] if self.device == "cpu" else [f"device='{self.device}'"]
    if self.device == "meta":
        text, notes = "...", [f"size={self.shape}", *notes]
    else:
        text = np.array2string(to_device(self.data, "cpu"), precision=4, separator=", ", prefix="tensor(", threshold=200)
    if self.dtype not in (np.float32, np.int64, np.bool_):
        notes.append(f"dtype={self.dtype}")
    if self.requires_grad:
        notes.append("requires_grad=True")
    return f"tensor({', '.join([text, *notes])})"


@method
def __format__(self: Tensor, spec: str) -> str:
    return format(item(self), spec) if self.data.ndim == 0 and spec else repr(self)


@method
def __bool__(self: Tensor) -> bool:
    if self.data.size != 1:
        raise RuntimeError(f"a tensor of shape {self.shape} is neither true nor false: use .any() or .all()")
    return bool(item(self))


@method
def __len__(self: Tensor) -> int:
    if not self.data.ndim:
        raise TypeError("len() of a 0-d tensor")
    return self.shape[0]


@method
def __iter__(self: Tensor) -> Iterator[Tensor]:
    if not self.data.ndim:
        raise TypeError("a 0-d tensor cannot be iterated over")
    return iter(shaping.unbind(self))


@method
def __deepcopy__(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """A leaf with memory and a gradient of its own."""
    if not self.is_leaf:
        raise RuntimeError("only leaf tensors can be deep-copied; use .detach() or .clone()")
    made = memo[id(self)] = object.__new__(type(self))
    made.data, made.grad, made.node = self.data.copy(), copy.deepcopy(self.grad, memo), None
    made.requires_grad = self.requires_grad
    return made


METHODS["__float__"] = lambda self: float(item(self))
METHODS["__int__"] = lambda self: int(item(self))
METHODS["__index__"] = lambda self: item(self).__index__()
METHODS["__hash__"] = lambda self: id(self)


# ---------------------------------------------------------------------------------------- facts about it
@method
def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one axis."""
    return self.shape if dim is None else self.shape[F.axes_of(dim, self.data.ndim)]


METHODS["dim"] = lambda self: self.data.ndim
METHODS["numel"] = lambda self: self.data.size
METHODS["element_size"] = lambda self: self.data.itemsize
METHODS["is_floating_point"] = lambda self: is_floating(self.dtype)
METHODS["is_contiguous"] = lambda self: bool(self.data.flags.c_contiguous)


# ------------------------------------------------------------------------------------- dtypes and devices
@method
def to(self: Tensor, *where: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """On another device, in another dtype, or both: to("cuda"), to(float64), to("cuda", float64), to(other)."""
    for w in where:
        if isinstance(w, Tensor):
            dtype, device = w.dtype, w.device
        elif is_device(w):
            device = w
        else:
            dtype = w
    if dtype is not None and known(dtype) != self.dtype:
        self = record(ops.cast, self, dtype=known(dtype))
    if device is not None and self.device != device:
        self = record(ops.move, self, device=str(device))
    return self


for _name, _dtype in {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}.items():
    METHODS[_name] = lambda self, dtype=np.dtype(_dtype): to(self, dtype)
METHODS["bool"] = lambda self: to(self, np.dtype("bool"))
METHODS["type_as"] = lambda self, other: to(self, other.dtype)
METHODS["cpu"] = lambda self: to(self, "cpu")
METHODS["cuda"] = lambda self: to(self, "cuda")


@method
def clone(self: Tensor) -> Tensor:
    """A copy with memory of its own; gradients flow through."""
    same = record(ops.cast, self, dtype=self.dtype)
    same.data = self.data.copy() if same.data is self.data else same.data
    return same


@method
def contiguous(self: Tensor) -> Tensor:
    """The same numbers in row order, copied if they are not."""
    return self if self.data.flags.c_contiguous else clone(self)


@method
def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Set requires_grad, and return the tensor."""
    self.requires_grad = requires_grad
    return self


# ------------------------------------------------------------------------------------------- operators
METHODS["__getitem__"] = indexing.getitem
METHODS["__setitem__"] = indexing.setitem
METHODS["__neg__"] = F.neg
METHODS["__pos__"] = lambda self: self
METHODS["__abs__"] = F.abs

for _name, _function in {
    "add": F.add, "sub": F.sub, "mul": F.mul, "truediv": F.div, "pow": F.pow, "matmul": F.matmul,
}.items():  # fmt: skip
    METHODS[f"__{_name}__"] = lambda self, other, f=_function: f(self, other)
    METHODS[f"__r{_name}__"] = lambda self, other, f=_function: f(other, self)
    METHODS[f"__i{_name}__"] = lambda self, other, f=_function: self.replace_(_same(self, f(self, other)))


def _same(old: Tensor, new: Tensor) -> Tensor:
    """What an in-place operator may store: the shape of the tensor, and its dtype."""
    if new.shape != old.shape:
        raise RuntimeError(f"in place, a tensor of shape {old.shape} cannot become {new.shape}")
    if is_floating(new.dtype) and not is_floating(old.dtype):
        raise RuntimeError(f"in place, a tensor of {old.dtype} cannot become {new.dtype}")
    return to(new, old.dtype)


def _untracked(name: str, compute: Callable[..., Any]) -> Callable[..., Tensor]:
    """A function whose result has no gradient: comparisons, logic, rounding."""

    def function(self: Any, *others: Any) -> Tensor:
        with no_grad():
            x = promote(self, *others)
            arrays = [v.data if isinstance(v, Tensor) else v for v in x]
            return Tensor(compute(array_module(*arrays), *arrays))

    function.__name__ = name
    return function


UNTRACKED = {
    name: _untracked(name, lambda xp, *x, f=f: getattr(xp, f)(*x))
    for name, f in {
        "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
        "logical_and": "logical_and", "logical_or": "logical_or", "logical_not": "logical_not",
        "bitwise_and": "bitwise_and", "bitwise_or": "bitwise_or", "bitwise_xor": "bitwise_xor", "bitwise_not": "invert",
        "isnan": "isnan", "isinf": "isinf", "isfinite": "isfinite", "sign": "sign", "floor": "floor", "ceil": "ceil",
        "round": "round", "floor_divide": "floor_divide", "remainder": "remainder",
    }.items()
}  # fmt: skip
METHODS.update(UNTRACKED)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    METHODS[f"__{_name}__"] = UNTRACKED[_name]
for _name, _base in {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "floordiv": "floor_divide",
                     "mod": "remainder"}.items():  # fmt: skip
    METHODS[f"__{_name}__"] = UNTRACKED[_base]
    METHODS[f"__r{_name}__"] = lambda self, other, f=UNTRACKED[_base]: f(other, self)
for _name in ("eq", "ne"):  # with what is no number, Python's own answer: x == None is False
    METHODS[f"__{_name}__"] = lambda self, other, f=UNTRACKED[_name]: (
        f(self, other) if isinstance(other, Tensor | bool | int | float | np.ndarray | np.generic) else NotImplemented
    )
METHODS["__invert__"] = UNTRACKED["bitwise_not"]


@method
def any(self: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Is any element true?"""
    return Tensor(self.data.any(axis=F.axes_of(dim, self.data.ndim), keepdims=keepdim))


@method
def all(self: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Are all elements true?"""
    return Tensor(self.data.all(axis=F.axes_of(dim, self.data.ndim), keepdims=keepdim))


@method
def equal(self: Tensor, other: Tensor) -> bool:
    """Same shape and same numbers?"""
    return self.shape == other.shape and bool((self.data == other.data).all())


@method
def allclose(self: Tensor, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Is |self - other| ≤ atol + rtol · |other| everywhere?"""
    a, b = promote(self, operand(other))
    close = array_module(a.data).isclose(a.data, getattr(b, "data", b), rtol=rtol, atol=atol, equal_nan=equal_nan)
    return bool(close.all())


# ------------------------------------------------------------------------------------ in-place spellings
@method
def replace_(self: Tensor, new: Tensor) -> Tensor:
    """Take over the array and the node of `new`. All in-place spellings end here: no array is ever overwritten.

    A leaf that requires grad keeps its own node, and may only be replaced under `no_grad()`.
    """
    if self.node is not None and self.is_leaf:
        if grad_enabled():
            raise RuntimeError("a leaf tensor that requires grad cannot be changed in place outside no_grad()")
    else:
        self.node = new.node
    self.data = new.data
    return self


@method
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Fill with `value` where mask is true."""
    return self.replace_(_same(self, F.masked_fill(self, mask, value)))


@method
def copy_(self: Tensor, source: Tensor) -> Tensor:
    """Take over the numbers of `source`, broadcast to this shape."""
    return self.replace_(_same(self, to(shaping.expand(source, self.shape), self.device, self.dtype)))


@method
def fill_(self: Tensor, value: float) -> Tensor:
    """Set every element to `value`."""
    return self.replace_(creation.full_like(self, value))


@method
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal random numbers."""
    return self.replace_(creation.randn_like(self) * std + mean)


@method
def uniform_(self: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fill with random numbers from [low, high)."""
    return self.replace_(creation.rand_like(self) * (high - low) + low)


METHODS["zero_"] = lambda self: fill_(self, 0)
for _name in ("add", "sub", "mul", "div", "clamp"):
    METHODS[f"{_name}_"] = lambda self, *a, f=getattr(F, _name), **k: self.replace_(_same(self, f(self, *a, **k)))

# ----------------------------------------------------------------- functions that are methods just as they are
for _name in """abs add clamp cos cumsum div erf exp log log_softmax masked_fill matmul maximum mean minimum mul neg pow
    prod relu rsqrt sigmoid sin softmax sqrt std sub sum tanh var amax amin""".split():
    METHODS[_name] = getattr(F, _name)
for _name in """argmax argsort chunk expand flatten gather index_select max min permute reshape scatter_add sort split
    squeeze topk transpose tril triu unbind unsqueeze view""".split():
    METHODS[_name] = getattr(shaping, _name)
METHODS["view_as"] = lambda self, other: shaping.reshape(self, other.shape)
METHODS["expand_as"] = lambda self, other: shaping.expand(self, other.shape)
METHODS["t"] = lambda self: shaping.transpose(self, 0, 1) if self.data.ndim > 1 else self

METHODS["ndim"] = property(lambda self: self.data.ndim)
METHODS["T"] = property(lambda self: shaping.permute(self, *range(self.data.ndim)[::-1]))
METHODS["mT"] = property(lambda self: shaping.transpose(self, -1, -2))

for _name, _function in METHODS.items():
    setattr(Tensor, _name, _function)
