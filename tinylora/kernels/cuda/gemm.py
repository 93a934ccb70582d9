"""Matrix products on a GPU by cuBLAS, through nvmath where that is installed and through CuPy elsewhere.

nvmath's binding does what CuPy's `@` cannot: it can be captured into a CUDA graph, adds onto what stands in the output,
and writes float32 sums of bfloat16 products.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np

from tinylora.backend import Array, bfloat16, float16, float32
from tinylora.kernels.cuda.compile import extra

WORKSPACE = 2**25  # bytes that cuBLAS may use per handle: NVIDIA's recommendation for Hopper
NUMBERS = {float32: 0, float16: 2, bfloat16: 14}  # cudaDataType_t
FLOAT32, TF32 = 68, 77  # cublasComputeType_t: what float32 inputs are multiplied in

_precision = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """How float32 matrices are multiplied on a GPU: "highest" in float32, "high" in TF32, with 10 bits of mantissa.

    Attention in float32 takes its inputs as float16 under "high": 10 bits of mantissa, too. The CPU knows no such
    choice. Raises ValueError for other names.

    >>> import tinylora
    >>> tinylora.set_float32_matmul_precision("high")
    >>> tinylora.get_float32_matmul_precision()
    'high'
    >>> tinylora.set_float32_matmul_precision("highest")
    """
    global _precision
    if precision not in ("highest", "high"):
        raise ValueError(f"the precision of float32 products is 'highest' or 'high', not {precision!r}")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` set: "highest" unless it was called."""
    return _precision


@functools.cache
def nvmath_cublas() -> ModuleType | None:
    """nvmath's binding of cuBLAS, if it is installed."""
    return extra("nvmath.bindings.cublas")


class _Handle(int):
    """cuBLAS's handle, the stream that it is set to, and the workspace that it was given."""

    stream: int
    workspace: Any


@functools.cache
def _handle(device: int) -> _Handle:
    import cupy

    cublas: Any = nvmath_cublas()
    handle = _Handle(cublas.create())
    handle.stream, handle.workspace = -1, cupy.cuda.Memory(WORKSPACE)
    return handle


def _current(xp: ModuleType) -> _Handle:
    """The handle, set to the current stream."""
    cublas: Any = nvmath_cublas()
    handle, stream = _handle(xp.cuda.device.get_device_id()), xp.cuda.get_current_stream().ptr
    if handle.stream != stream:
        cublas.set_stream(handle, stream)
        cublas.set_workspace(handle, handle.workspace.ptr, WORKSPACE)  # a change of stream takes it away
        handle.stream = stream
    return handle


_numbers: dict[float, tuple[np.ndarray, int]] = {}


def _number(value: float) -> int:
    """The address of alpha or beta, where cuBLAS reads it."""
    if value not in _numbers:
        array = np.array(value, np.float32)
        _numbers[value] = array, array.ctypes.data
    return _numbers[value][1]


def product(xp: ModuleType, a: Array, b: Array, out: Array | None = None, alpha: float = 1.0, add: bool = False,
            dtype: Any = None) -> Array:  # fmt: skip
    """alpha · a b, with `add` added onto `out`: (.., n, k) (.., k, m) -> (.., n, m).

    a and b are float32, bfloat16 or float16, in row order or transposed, with at most one leading axis; `out`, or the new
    array of `dtype` (theirs unless given), has rows in order.
    """
    (n, k), m = a.shape[-2:], b.shape[-1]
    if out is None:
        out = xp.empty((*a.shape[:-2], n, m), dtype or a.dtype)
    if nvmath_cublas() is None or a.dtype not in NUMBERS or not k:
        return _by_cupy(xp, a, b, out, alpha, add)
    if out.size:
        (a, a_order, a_width), (b, b_order, b_width) = _laid_out(xp, a), _laid_out(xp, b)
        _gemm(xp, a, a_order, a_width, b, b_order, b_width, out, alpha, add)
    return out


def _gemm(
    xp: Any, a: Any, a_order: int, a_width: int, b: Any, b_order: int, b_width: int, out: Any, alpha: float, add: bool
) -> None:
    """cuBLAS counts columns first: there it is outᵀ = bᵀ aᵀ, with the operands swapped and none of them moved."""
    cublas: Any = nvmath_cublas()
    (n, k), m = a.shape[-2:], b.shape[-1]
    compute = TF32 if a.dtype == float32 and _precision == "high" else FLOAT32
    scales = _number(alpha), _number(1.0 if add else 0.0)
    number = NUMBERS[a.dtype]
    width = max(out.strides[-2] // out.itemsize, m)
    if a.ndim == 2:
        cublas.gemm_ex(
            _current(xp), b_order, a_order, m, n, k, scales[0], b.data.ptr, number, b_width, a.data.ptr, number, a_width,
            scales[1], out.data.ptr, NUMBERS[out.dtype], width, compute, -1,
        )  # fmt: skip
    else:
        steps = [x.strides[0] // x.itemsize for x in (b, a, out)]
        cublas.gemm_strided_batched_ex(
            _current(xp), b_order, a_order, m, n, k, scales[0], b.data.ptr, number, b_width, steps[0], a.data.ptr, number,
            a_width, steps[1], scales[1], out.data.ptr, NUMBERS[out.dtype], width, steps[2], len(a), compute, -1,
        )  # fmt: skip


def _laid_out(xp: Any, x: Any) -> tuple[Any, int, int]:
    """x, copied if need be, with 0 for rows in order or 1 for columns in order, and how far apart these are."""
    (rows, columns), (down, along), size = x.shape[-2:], x.strides[-2:], x.itemsize
    if (along == size or columns == 1) and (down >= columns * size or rows == 1):
        return x, 0, max(down // size if rows > 1 else 0, columns, 1)
    if (down == size or rows == 1) and (along >= rows * size or columns == 1):
        return x, 1, max(along // size if columns > 1 else 0, rows, 1)
    return xp.ascontiguousarray(x), 0, max(columns, 1)


def _by_cupy(xp: Any, a: Any, b: Any, out: Any, alpha: float, add: bool) -> Any:
    y = _matmul(xp, a.astype(out.dtype, copy=False), b.astype(out.dtype, copy=False))
    y = y * alpha if alpha != 1 else y
    out[...] = out + y if add else y
    return out


def _matmul(xp: Any, a: Any, b: Any) -> Any:
    """CuPy's `@`, which uses TF32 if its cuBLAS handle says so."""
    if a.dtype != float32 or _precision == "highest":
        return a @ b
    cublas, handle = xp.cuda.cublas, xp.cuda.get_cublas_handle()
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, 3)  # CUBLAS_TF32_TENSOR_OP_MATH
    try:
        return a @ b
    finally:
        cublas.setMathMode(handle, before)
