"""x[index] and x[index] = value, with PyTorch's rules where integers, slices and arrays are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import overwrite, seen
from tinylora.tensor import Tensor, record
from tinylora.torch_api.promote import number, operand, tensor
from tinylora.torch_api.views import assign, tracked, view


def _normal(index: Any, shape: tuple[int, ...], x: Tensor) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Split an index into a basic part (integers, slices, None) and an advanced part (integer arrays, slices).

    NumPy lets an integer beside an array count as an array and move axes about; PyTorch takes integers first. Two steps
    give PyTorch's answer on both modules.
    """
    given = index if isinstance(index, tuple) else (index,)
    items = [_array(i, x) for i in given]
    used = sum(0 if i is None or i is Ellipsis else getattr(i, "ndim", 1) if _is_mask(i) else 1 for i in items)
    if used > len(shape):
        raise IndexError(f"too many indices: {used} for a tensor of shape {shape}")
    dots = [k for k, i in enumerate(items) if i is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index holds '...' once at most")
    at = dots[0] if dots else len(items)
    items[at : at + 1] = [slice(None)] * (len(shape) - used)
    basic: list[Any] = []
    advanced: list[Any] = []
    axis = 0
    for item in items:
        if item is None or isinstance(item, int | slice):
            if isinstance(item, int) and not -shape[axis] <= item < shape[axis]:
                raise IndexError(f"index {item} is out of range for axis {axis} of shape {shape}")
            basic.append(item)
            if not isinstance(item, int):
                advanced.append(slice(None))
            axis += item is not None
        else:
            if _is_mask(item) and item.ndim == 0:  # x[True] is x[None], x[False] is empty
                basic.append(None)
                advanced.append(item.reshape(1).nonzero()[0])
                continue
            arrays = item.nonzero() if _is_mask(item) else (item,)
            if _is_mask(item) and item.shape != shape[axis : axis + item.ndim]:
                raise IndexError(f"the mask has shape {item.shape}, the tensor {shape[axis : axis + item.ndim]} there")
            for array in arrays:
                known = seen(array)
                if known.size and not (-shape[axis] <= known.min() and known.max() < shape[axis]):
                    raise IndexError(f"index out of range for axis {axis} of shape {shape}: {known.min()}..{known.max()}")
                basic.append(slice(None))
                advanced.append(array)
                axis += 1
    return tuple(basic), tuple(advanced) if any(not isinstance(i, slice) for i in advanced) else ()


def _is_mask(item: Any) -> bool:
    return getattr(item, "dtype", None) == np.dtype(bool)


def _array(item: Any, x: Tensor) -> Any:
    """One entry of an index as Python number, slice, None, Ellipsis or array on the device of x."""
    if item is None or item is Ellipsis or type(item) is int:
        return item
    if isinstance(item, slice):
        return slice(*(None if i is None else int(i) for i in (item.start, item.stop, item.step)))
    if isinstance(item, list | tuple | range | bool):
        item = tensor(list(item) if not isinstance(item, bool) else item, device=x.device)
        item = item.to(np.int64) if not item.array.size else item  # x[[]] is empty
    array = item.array if isinstance(item, Tensor) else item
    if isinstance(array, np.generic) or (getattr(array, "ndim", 1) == 0 and array.dtype != bool):
        array = array.item()
        return array if type(array) is int else _refuse(array)
    if not hasattr(array, "dtype") or array.dtype.kind not in "iub":
        _refuse(array)
    return array.astype(np.int64) if array.dtype.kind == "u" else array


def _refuse(item: Any) -> Any:
    raise IndexError(f"an index is made of integers, slices, None, '...', boolean or integer tensors, not {item!r:.60}")


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index]: a view where the index has integers, slices and None only, otherwise a new tensor."""
    basic, advanced = _normal(index, x.shape, x)
    y = view(ops.getitem, x, index=basic)
    return record(ops.getitem, y, index=advanced) if advanced else y


def setitem(x: Tensor, index: Any, value: Any) -> None:
    """x[index] = value: writes into the memory of x, so that its views see it."""
    basic, advanced = _normal(index, x.shape, x)
    part = view(ops.getitem, x, index=basic)
    value = operand(value)
    value = value.to(part.device, x.dtype) if isinstance(value, Tensor) else number(value, x.dtype)
    if not advanced:
        part.copy_(_trimmed(value, part.array.ndim) if isinstance(value, Tensor) else value)
    elif tracked(part, value):
        changed = record(ops.setitem, Tensor(part.array, node=part.node), value, index=advanced)
        assign(part, changed.array, changed.node)
    else:
        overwrite(part.array, value.array if isinstance(value, Tensor) else value, advanced)


def _trimmed(value: Tensor, ndim: int) -> Tensor:
    """Without leading axes of size 1 that the place it goes to does not have."""
    extra = value.array.ndim - ndim
    return value.reshape(value.shape[extra:]) if extra > 0 and set(value.shape[:extra]) == {1} else value
