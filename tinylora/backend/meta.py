"""The "meta" device: arrays with a shape and a dtype but no data, so that a model of any size takes no memory.

A MetaArray is a NumPy array whose strides are all zero, so that any shape needs the memory of one element. Views work
as in NumPy. Element-wise functions, reductions and matrix products return a MetaArray of the result's shape and dtype;
anything that needs values raises.
"""

from __future__ import annotations

from typing import Any

import numpy as np

VIEWS = ("reshape", "transpose", "swapaxes", "moveaxis", "squeeze", "expand_dims", "broadcast_to")


class MetaArray(np.ndarray):
    """Shape and dtype of an array, nothing else.

    >>> import numpy as np
    >>> w = MetaArray((50_000, 4096), np.dtype("float32"))
    >>> (w * 2).nbytes, (w.T @ w).shape
    (819200000, (4096, 4096))
    """

    def __new__(cls, shape: tuple[int, ...], dtype: np.dtype) -> MetaArray:
        return np.broadcast_to(np.zeros((), dtype), shape).view(cls)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        scalars = (int, float, bool)
        known = tuple(type(x) if type(x) in scalars else x.dtype for x in inputs)
        shapes = [() if type(x) in scalars else x.shape for x in inputs]
        if method == "__call__" and (ufunc is np.matmul or ufunc.signature is None):
            dtype = ufunc.resolve_dtypes((*known, *(None,) * ufunc.nout))[-1]
            return MetaArray(_matmul(*shapes) if ufunc is np.matmul else np.broadcast_shapes(*shapes), dtype)
        if method == "reduce":
            axis, ndim = options.get("axis", 0), len(shapes[0])
            axes = {a % ndim for a in (range(ndim) if axis is None else np.atleast_1d(axis))}
            kept = options.get("keepdims", False)
            shape = [1 if i in axes else n for i, n in enumerate(shapes[0]) if kept or i not in axes]
            return MetaArray(tuple(shape), getattr(ufunc, method)(np.ones(1, known[0])).dtype)
        return self.refuse(f"{ufunc.__name__}.{method}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ in VIEWS:
            return super().__array_function__(function, types, args, kwargs).view(MetaArray)
        return self.refuse(function.__name__)

    def __getitem__(self, index: Any) -> Any:
        return MetaArray(super().__getitem__(index).shape, self.dtype)

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        return MetaArray(self.shape, np.dtype(dtype))

    def refuse(self, what: str) -> Any:
        raise RuntimeError(f"{what} needs numbers, and a meta tensor of shape {self.shape} holds none")


def _matmul(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if a[-1] != b[max(len(b) - 2, 0)]:
        raise ValueError(f"shapes {a} and {b} do not multiply")
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    return batch + a[-2:-1] * (len(a) > 1) + b[-1:] * (len(b) > 1)
