"""From tensors to NumPy and Python values, to other dtypes and devices, and facts about a tensor's memory."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any, overload

import numpy as np

from tinylora import ops
from tinylora.backend import is_device, is_floating, known, to_device
from tinylora.tensor import Tensor, record
from tinylora.torch_api.functional import axes_of
from tinylora.torch_api.shaping import unbind


# ---------------------------------------------------------------------------- to NumPy and Python
def numpy(input: Tensor) -> np.ndarray:
    """The NumPy array. Raises if the tensor requires grad (`.detach()` first) or is on the GPU (`.cpu()` first)."""
    if input.requires_grad:
        raise RuntimeError("numpy() on a tensor that requires grad: use .detach().numpy()")
    if input.device != "cpu":
        raise TypeError(f"numpy() on a tensor on {input.device}: use .cpu().numpy()")
    return input.array


def as_array(input: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """What np.array(tensor) and np.asarray(tensor) ask for."""
    return np.array(numpy(input), dtype=dtype, copy=copy)


def tolist(input: Tensor) -> Any:
    """Nested Python lists of numbers, or one number for a 0-d tensor."""
    return to_device(input.array, "cpu").tolist()


def item(input: Tensor) -> Any:
    """The one number in the tensor."""
    if input.array.size != 1:
        raise RuntimeError(f"item() needs exactly one element, and the shape is {input.shape}")
    return to_device(input.array, "cpu").item()


def as_float(input: Tensor) -> float:
    return float(item(input))


def as_int(input: Tensor) -> int:
    return int(item(input))


def as_index(input: Tensor) -> int:
    """The tensor as an index of a Python list: one integer."""
    return item(input).__index__()


def as_bool(input: Tensor) -> bool:
    """The truth of a tensor of one element; a larger one has none, and raises."""
    if input.array.size != 1:
        raise RuntimeError(f"a tensor of shape {input.shape} is neither true nor false: use .any() or .all()")
    return bool(item(input))


def as_text(input: Tensor) -> str:
    """tensor([1., 2.], requires_grad=True): the numbers, and what is not the default."""
    notes = [] if input.device == "cpu" else [f"device='{input.device}'"]
    if input.device == "meta":
        text, notes = "...", [f"size={input.shape}", *notes]
    else:
        text = np.array2string(to_device(input.array, "cpu"), separator=", ", prefix="tensor(", **PRINTED)
    if input.dtype not in (np.float32, np.int64, np.bool_):
        notes.append(f"dtype={input.dtype}")
    if input.requires_grad:
        notes.append("requires_grad=True")
    return f"tensor({', '.join([text, *notes])})"


PRINTED: dict[str, Any] = {"precision": 4, "threshold": 200}  # options of np.array2string


def set_printoptions(
    precision: int | None = None,
    threshold: int | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """How tensors are printed: digits, elements shown in full, elements at each end otherwise, characters in a line.

    `sci_mode=False` never prints powers of ten; `profile` is "default", "short" (2 digits) or "full" (all elements).
    """
    if profile is not None:
        known = {"default": (4, 200), "short": (2, 200), "full": (4, sys.maxsize)}
        PRINTED["precision"], PRINTED["threshold"] = known[profile]
    PRINTED.update({"suppress_small": not sci_mode} if sci_mode is not None else {})
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "max_line_width": linewidth}
    PRINTED.update({name: value for name, value in given.items() if value is not None})


def formatted(input: Tensor, spec: str) -> str:
    """f"{loss}" and f"{loss:.3f}": a 0-d tensor is formatted as its number. Others take no format."""
    if input.array.ndim == 0 and input.device != "meta":
        return format(item(input), spec)
    if spec:
        raise TypeError(f"a tensor of shape {input.shape} takes no format {spec!r}: format its .item() or .tolist()")
    return repr(input)


def length(input: Tensor) -> int:
    """The size of the first axis."""
    if not input.array.ndim:
        raise TypeError("len() of a 0-d tensor")
    return input.shape[0]


def iterate(input: Tensor) -> Iterator[Tensor]:
    """The slices along the first axis."""
    if not input.array.ndim:
        raise TypeError("a 0-d tensor cannot be iterated over")
    return iter(unbind(input))


# ------------------------------------------------------------------------------------------ facts
@overload
def size(input: Tensor, dim: None = None) -> tuple[int, ...]: ...
@overload
def size(input: Tensor, dim: int) -> int: ...
def size(input: Tensor, dim: int | None = None) -> tuple[int, ...] | int:
    """The shape, or the size of one axis."""
    return input.shape if dim is None else input.shape[axes_of(dim, input.array.ndim)]


def dim(input: Tensor) -> int:
    """The number of axes."""
    return input.array.ndim


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.array.size


def element_size(input: Tensor) -> int:
    """Bytes per element."""
    return input.array.itemsize


def is_floating_point(input: Tensor) -> bool:
    return is_floating(input.dtype)


def is_contiguous(input: Tensor) -> bool:
    """Do the numbers lie in row order?"""
    return bool(input.array.flags.c_contiguous)


# --------------------------------------------------------------------------- dtypes, devices, copies
def to(
    input: Tensor, *where: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False, copy: bool = False
) -> Tensor:
    """On another device, in another dtype, or both: to("cuda"), to(float64), to("cuda", float64), to(other).

    `copy` makes a copy in any case; `non_blocking` is accepted.
    """
    given = input
    for w in where:
        if isinstance(w, bool):
            continue  # non_blocking
        if isinstance(w, Tensor):
            dtype, device = w.dtype, w.device
        elif is_device(w):
            device = w
        else:
            dtype = w
    if dtype is not None and known(dtype) != input.dtype:
        input = record(ops.cast, input, dtype=known(dtype))
    if device is not None and input.device != device:
        input = record(ops.move, input, device=str(device))
    return clone(input) if copy and input is given else input


def type_as(input: Tensor, other: Tensor) -> Tensor:
    """In the dtype of `other`."""
    return to(input, other.dtype)


def cpu(input: Tensor, non_blocking: bool = False) -> Tensor:
    """On the CPU."""
    return to(input, "cpu")


def cuda(input: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """On the GPU."""
    return to(input, "cuda")


def to_float(input: Tensor) -> Tensor:
    """In float32."""
    return to(input, np.dtype("float32"))


def to_double(input: Tensor) -> Tensor:
    """In float64."""
    return to(input, np.dtype("float64"))


def to_half(input: Tensor) -> Tensor:
    """In float16."""
    return to(input, np.dtype("float16"))


def to_long(input: Tensor) -> Tensor:
    """In int64."""
    return to(input, np.dtype("int64"))


def to_int(input: Tensor) -> Tensor:
    """In int32."""
    return to(input, np.dtype("int32"))


def to_bool(input: Tensor) -> Tensor:
    """True where the number is not 0."""
    return to(input, np.dtype("bool"))


def clone(input: Tensor) -> Tensor:
    """A copy with memory of its own; gradients flow through."""
    return record(ops.cast, input, dtype=input.dtype)


def contiguous(input: Tensor) -> Tensor:
    """The same numbers in row order, copied if they are not."""
    return input if input.array.flags.c_contiguous else clone(input)


def deepcopy(input: Tensor, memo: dict[int, Any]) -> Tensor:
    """A leaf with memory and a gradient of its own."""
    if not input.is_leaf:
        raise RuntimeError("only leaf tensors can be deep-copied; use .detach() or .clone()")
    made = memo[id(input)] = object.__new__(type(input))
    made.array, made.grad, made.node, made.alias = input.array.copy(), copy.deepcopy(input.grad, memo), None, None
    made.requires_grad = input.requires_grad
    return made
