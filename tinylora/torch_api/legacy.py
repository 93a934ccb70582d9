"""PyTorch's older constructors: torch.FloatTensor([1, 2]), torch.LongTensor(2, 3), and torch.Tensor as one of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora.backend import bfloat16, bool_, float16, float32, float64, int8, int16, int32, int64, uint8
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import tensor, zeros


class _Constructor(type):
    """A class whose call makes a Tensor of its dtype, and whose instances are the Tensors of that dtype."""

    dtype: np.dtype | None

    def __call__(cls, *data: Any, device: Any = None) -> Tensor:
        dtype = cls.dtype or float32
        if not data or all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in data):
            return zeros(*(data or (0,)), dtype=dtype, device=device)
        if len(data) > 1:
            raise TypeError(f"{cls.__name__} takes sizes, or one sequence of numbers, and got {len(data)} arguments")
        return tensor(data[0], dtype=dtype, device=device)

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Tensor) and cls.dtype in (None, x.dtype)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, Tensor) if cls.dtype is None else kind is cls

    def __eq__(cls, other: object) -> bool:  # type(x) == torch.Tensor
        return other is cls or (cls.dtype is None and other is Tensor)

    def __hash__(cls) -> int:
        return hash(Tensor) if cls.dtype is None else id(cls)

    def __getattr__(cls, name: str) -> Any:  # torch.Tensor.add
        return getattr(Tensor, name)

    def __dir__(cls) -> list[str]:
        return dir(Tensor)


def _constructor(name: str, dtype: np.dtype | None) -> Any:
    text = f"{name}(2, 3): zeros of that shape; {name}([1, 2]): these numbers; as {dtype or float32}."
    return _Constructor(name, (), {"dtype": dtype, "__doc__": text})


AnyTensor = _constructor("Tensor", None)  # torch.Tensor where tinylora stands in for torch
FloatTensor = _constructor("FloatTensor", float32)
DoubleTensor = _constructor("DoubleTensor", float64)
HalfTensor = _constructor("HalfTensor", float16)
BFloat16Tensor = _constructor("BFloat16Tensor", bfloat16)
ByteTensor = _constructor("ByteTensor", uint8)
CharTensor = _constructor("CharTensor", int8)
ShortTensor = _constructor("ShortTensor", int16)
IntTensor = _constructor("IntTensor", int32)
LongTensor = _constructor("LongTensor", int64)
BoolTensor = _constructor("BoolTensor", bool_)
