"""Type promotion by PyTorch's rules, and the types that operators accept beside a Tensor.

Numbers come in three kinds: bool < integer < floating point. The dtype is that of the tensors with
dimensions; a 0-d tensor, and then a Python number, changes it only if it is of a higher kind. So float32 stays float32
next to any scalar.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import (
    SUPPORTED,
    bfloat16,
    default_device,
    float16,
    float32,
    int64,
    is_floating,
    is_half,
    known,
    to_device,
)
from tinylora.tensor import Tensor, record

KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # "V" is the kind of bfloat16 in NumPy
SCALARS = {bool: np.dtype("bool"), int: int64, float: float32}  # the dtype of a Python number of the highest kind


def tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor from numbers, nested sequences or an array (copied). Python floats become float32, integers int64.

    Raises ValueError for ragged sequences, TypeError for what is not a number.

    >>> import tinylora
    >>> tinylora.tensor([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    array = data.array if isinstance(data, Tensor) else data
    if not hasattr(array, "__cuda_array_interface__") and not isinstance(array, np.ndarray):
        try:
            array = np.array(_plain(data))
        except ValueError as error:
            raise ValueError(f"ragged data: every row needs the same length ({error})") from None
        if array.dtype == np.float64 and not isinstance(data, np.generic):
            array = array.astype(float32)
    if array.dtype not in SUPPORTED:
        raise TypeError(f"tensor data must be numbers or booleans, and this holds {array.dtype}: {str(data)[:60]}")
    if type(data) in (int, float, list, tuple) and dtype is not None and np.dtype(dtype).kind in "iu" and array.size:
        for extreme in (array.min().item(), array.max().item()):
            number(extreme, np.dtype(dtype))
    where = device if device is not None else default_device() if array is not getattr(data, "array", data) else None
    array = to_device(array, where) if where is not None else array
    return Tensor(array.astype(known(dtype or array.dtype)), requires_grad)


def _plain(data: Any) -> Any:
    """Nested sequences with any Tensors inside turned into arrays."""
    if isinstance(data, Tensor):
        return to_device(data.array, "cpu")
    return [_plain(x) for x in data] if isinstance(data, list | tuple) else data


def operand(x: Any) -> Any:
    """x as an op takes it: a Tensor or a Python number. NumPy scalars become Python numbers, arrays Tensors."""
    if isinstance(x, np.generic):  # first: np.float64 is a float too
        return x.item()
    if isinstance(x, Tensor | bool | int | float):
        return x
    if isinstance(x, np.ndarray) or hasattr(x, "__cuda_array_interface__"):
        return tensor(x)
    raise TypeError(f"expected a tensor or a number, got {type(x).__name__}: {str(x)[:60]}")


def number(x: float, dtype: np.dtype) -> Any:
    """A Python number as one that an array of `dtype` can hold. Raises RuntimeError for integers out of its range."""
    if is_floating(dtype) or dtype.kind == "b":
        return bool(x) if dtype.kind == "b" else float(x)
    limits = np.iinfo(dtype)
    low = -limits.max if dtype.kind == "u" else limits.min  # PyTorch takes -1 for the largest
    if not low <= x <= limits.max:  # NaN and infinity too
        raise RuntimeError(f"{x} cannot be converted to {dtype} without overflow: its range is {limits.min}..{limits.max}")
    return wrapped(int(x), dtype)


def wrapped(x: int, dtype: np.dtype) -> int:
    """An integer modulo the number of values of an integer `dtype`: 300 is 44 in uint8."""
    limits = np.iinfo(dtype)
    return (x - limits.min) % (limits.max - limits.min + 1) + limits.min


def result_type(*operands: Any) -> np.dtype:
    """The dtype of an element-wise result, by PyTorch's rules.

    >>> import tinylora
    >>> tinylora.result_type(tinylora.ones(3), 2.5, tinylora.tensor(1.0, dtype=tinylora.float64)).name
    'float32'
    """
    tensors = [x for x in operands if isinstance(x, Tensor)]
    result: np.dtype | None = None
    ranks = (
        [x.dtype for x in tensors if x.array.ndim],
        [x.dtype for x in tensors if not x.array.ndim],
        [SCALARS[type(x)] for x in operands if not isinstance(x, Tensor)],
    )
    for dtypes in ranks:
        higher = [d for d in dtypes if result is None or KINDS[d.kind] > KINDS[result.kind]]
        for dtype in higher:
            result = dtype if result is None else _join(result, dtype)
    assert result is not None
    return result


def _join(a: np.dtype, b: np.dtype) -> np.dtype:
    if KINDS[a.kind] != KINDS[b.kind]:
        return a if KINDS[a.kind] > KINDS[b.kind] else b
    return float32 if {a, b} == {float16, bfloat16} else np.promote_types(a, b)


def promote(*operands: Any, floating: bool = False) -> list[Any]:
    """The operands with one dtype: Tensors cast where they differ, Python numbers left as they are.

    `floating` makes integers float32, for functions such as exp that have no integer form.
    """
    found = [operand(x) for x in operands]
    if _alike(found):
        return [x if isinstance(x, Tensor) else float(x) for x in found]
    dtype = result_type(*found)
    if floating and not is_floating(dtype):
        dtype = float32
    devices = {str(x.device) for x in found if isinstance(x, Tensor)}
    return [_fit(x, dtype, len(devices) > 1) for x in found]


def _alike(found: list[Any]) -> bool:
    """The common case, where nothing needs a cast: floating-point Tensors of one dtype on one device, and Python numbers."""
    first = found[0] if isinstance(found[0], Tensor) else found[-1]
    if not isinstance(first, Tensor) or not is_floating(first.array.dtype):
        return False
    dtype, kind = first.array.dtype, type(first.array)
    for x in found:
        if x is not first and isinstance(x, Tensor) and not (x.array.dtype == dtype and type(x.array) is kind):
            return False
    return True


def _fit(x: Any, dtype: np.dtype, mixed: bool) -> Any:
    if not isinstance(x, Tensor):
        return wrapped(int(x), dtype) if dtype.kind in "iu" else {"b": bool}.get(dtype.kind, float)(x)
    if mixed and x.array.ndim == 0 and x.node is None and x.device == "cpu":
        return x.array.item()  # a 0-d CPU tensor may be combined with tensors on any device, as a number
    return x if x.dtype == dtype else record(ops.cast, x, dtype=dtype)


def follow(weight: Tensor, *operands: Any) -> list[Any]:
    """The operands of a product or a norm in the dtype of its `weight`, where one is float32 and the other bfloat16.

    This is the whole rule for models of mixed precision: frozen weights are bfloat16 and so is what they compute; a
    weight that is trained, in float32, lifts what comes in to float32.
    """
    dtype = weight.dtype
    mixed = [x is not None and {x.dtype, dtype} == {float32, bfloat16} for x in operands]
    return [record(ops.cast, x, dtype=dtype) if differs else x for x, differs in zip(operands, mixed, strict=True)]


# ---------------------------------------------------------------------------------------------- what functions ask for
def need_float(name: str, input: Tensor) -> None:
    """Raise RuntimeError unless `input` is floating-point."""
    if not is_floating(input.dtype):
        raise RuntimeError(f"{name}: expected a floating-point tensor, got {input.dtype}; use .float() first")


def one_dtype(name: str, *tensors: Tensor | None) -> None:
    """All of them floating-point, and of one kind."""
    given = [x for x in tensors if x is not None]
    need_float(name, given[0])
    for x in given[1:]:
        if x.dtype != given[0].dtype:
            kinds = f"{given[0].dtype} and {x.dtype}"
            raise RuntimeError(f"{name}: expected one dtype, got {kinds}: convert one, as by .float()")


def wide(input: Tensor) -> Tensor:
    """float16 and bfloat16 as float32."""
    return input.to(float32) if is_half(input.array) else input
