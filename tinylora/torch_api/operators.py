"""Tensor's operators: x + y, x @ y, x += y, x < y, x[i], len(x), .. Most are functions of torch_api's other files."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora.tensor import Tensor
from tinylora.torch_api import comparison, conversion, elementwise, functional, in_place, indexing

NUMBERS = (Tensor, bool, int, float, np.ndarray, np.generic)  # what == and != compare element by element


class Operators:
    """`x + y` calls `add(x, y)`. Part of `TensorMethods`."""

    __slots__ = ()

    # arithmetic
    __neg__ = elementwise.neg
    __abs__ = elementwise.abs
    __add__ = elementwise.add
    __sub__ = elementwise.sub
    __mul__ = elementwise.mul
    __truediv__ = elementwise.div
    __pow__ = elementwise.pow
    __matmul__ = functional.matmul
    __floordiv__ = comparison.floor_divide
    __mod__ = comparison.remainder

    def __pos__(self: Any) -> Tensor:
        return self

    # arithmetic, with the tensor on the right: 2.0 - x
    def __radd__(self, other: Any) -> Tensor:
        return elementwise.add(other, self)

    def __rsub__(self, other: Any) -> Tensor:
        return elementwise.sub(other, self)

    def __rmul__(self, other: Any) -> Tensor:
        return elementwise.mul(other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        return elementwise.div(other, self)

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise.pow(other, self)

    def __rmatmul__(self, other: Any) -> Tensor:
        return functional.matmul(other, self)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return comparison.floor_divide(other, self)

    def __rmod__(self, other: Any) -> Tensor:
        return comparison.remainder(other, self)

    # arithmetic, in place: x += y
    __iadd__ = in_place.add_
    __isub__ = in_place.sub_
    __imul__ = in_place.mul_
    __itruediv__ = in_place.div_
    __ipow__ = in_place.pow_
    __imatmul__ = in_place.matmul_

    # bits
    __invert__ = comparison.bitwise_not
    __and__ = comparison.bitwise_and
    __or__ = comparison.bitwise_or
    __xor__ = comparison.bitwise_xor

    def __rand__(self, other: Any) -> Tensor:
        return comparison.bitwise_and(other, self)

    def __ror__(self, other: Any) -> Tensor:
        return comparison.bitwise_or(other, self)

    def __rxor__(self, other: Any) -> Tensor:
        return comparison.bitwise_xor(other, self)

    # comparison
    __lt__ = comparison.lt
    __le__ = comparison.le
    __gt__ = comparison.gt
    __ge__ = comparison.ge

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]  # a tensor, element by element
        return comparison.eq(self, other) if isinstance(other, NUMBERS) else NotImplemented  # x == None is False

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return comparison.ne(self, other) if isinstance(other, NUMBERS) else NotImplemented

    def __hash__(self) -> int:
        return id(self)

    # indexing, and what Python's built-in functions ask for
    __getitem__ = indexing.getitem
    __setitem__ = indexing.setitem
    __len__ = conversion.length
    __iter__ = conversion.iterate
    __bool__ = conversion.as_bool
    __float__ = conversion.as_float
    __int__ = conversion.as_int
    __index__ = conversion.as_index
    __repr__ = conversion.as_text
    __format__ = conversion.formatted
    __array__ = conversion.as_array
    __deepcopy__ = conversion.deepcopy
