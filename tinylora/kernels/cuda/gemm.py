"""Matrix products by cuBLAS, through nvmath if it is installed, else through CuPy.

Unlike CuPy's `@`, nvmath's binding can be captured into a CUDA graph, add the product to another array, and write float32
sums of bfloat16 products.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tinylora.backend import Array, bfloat16, float16, float32
from tinylora.kernels.cuda.compile import extra

Ints = tuple[int, ...]

WORKSPACE = 2**25  # workspace in bytes per handle: NVIDIA's recommendation for Hopper
NUMBERS = {float32: 0, float16: 2, bfloat16: 14}  # cudaDataType_t
SIZES = {number: dtype.itemsize for dtype, number in NUMBERS.items()}
FLOAT32, TF32 = 68, 77  # cublasComputeType_t for float32 inputs

_precision = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """Set how float32 matrices are multiplied on a GPU: "highest" in float32, "high" in TF32, with 10 bits of mantissa.

    With "high", attention converts float32 to float16, which has 10 bits of mantissa too. No effect on the CPU. Raises
    ValueError for other names.

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
def cublas_lt() -> ModuleType | None:
    """nvmath's binding of cuBLASLt, or None."""
    return extra("nvmath.bindings.cublasLt")


def product(xp: ModuleType, a: Array, b: Array, out: Array | None = None, alpha: float = 1.0, plus: Array | None = None,
            dtype: Any = None) -> Array:  # fmt: skip
    """alpha · a b + plus: (.., n, k) (.., k, m) -> (.., n, m), and `plus` of this shape.

    a and b are float32, bfloat16 or float16, in row order or transposed, with at most one leading axis. `out`, or the new
    array of `dtype` (theirs unless given), has rows in order; `plus` may be `out` itself.
    """
    if out is None:
        out = xp.empty((*a.shape[:-1], b.shape[-1]), dtype or a.dtype)
    if cublas_lt() is None or a.dtype not in NUMBERS or not a.shape[-1]:
        return _by_cupy(xp, a, b, out, alpha, plus)
    if not out.size:
        return out
    if plus is not None and plus.dtype != out.dtype:
        plus = plus.astype(out.dtype)
    c = out if plus is None else plus
    at = a.data.ptr, b.data.ptr, c.data.ptr, out.data.ptr
    aligned = not (at[0] | at[1] | at[2] | at[3]) % 16
    device, tf32 = xp.cuda.device.get_device_id(), _precision == "high"
    plan = _plan(device, a.shape, a.strides, b.shape, b.strides, c.strides, out.strides, a.dtype, out.dtype, aligned, tf32)
    if plan is None:
        plus = plus if plus is None or plus is out else xp.ascontiguousarray(plus)
        return product(xp, _in_order(xp, a), _in_order(xp, b), out, alpha, plus)
    plan.run(xp, *at, _number(alpha), _number(0.0 if plus is None else 1.0))
    return out


class Plan:
    """A product of two matrices of given shapes, strides and dtypes, and the algorithm that cuBLAS chose for it.

    Choosing an algorithm takes longer than running it, and a step repeats the same products, so plans are cached. cuBLAS is
    column-major: it computes outᵀ = bᵀ aᵀ, with the operands swapped and not copied.
    """

    def __init__(self, device: int, a: Matrix, b: Matrix, c: Matrix, out: Matrix, tf32: bool, aligned: bool) -> None:
        self.made: list[tuple[Any, int]] = []  # destructors of cuBLAS objects, with the objects
        lt: Any = cublas_lt()
        self.lt, (self.handle, self.workspace) = lt, _handle(device)
        self.operation = self._make("matmul_desc", TF32 if tf32 and a.number == NUMBERS[float32] else FLOAT32, 0)
        for name, matrix in (("TRANSA", b), ("TRANSB", a)):
            self._set("matmul_desc", self.operation, lt.MatmulDescAttribute[name], matrix.turned, np.int32)
        self.layouts = [self._layout(x) for x in (a, b, c, out)]
        preference = self._make("matmul_preference")
        limits = lt.MatmulPreferenceAttribute
        self._set("matmul_preference", preference, limits.MAX_WORKSPACE_BYTES, WORKSPACE, np.uint64)
        for name, matrix in zip("ABCD", (b, a, c, out), strict=True):
            alignment = 16 if aligned else SIZES[matrix.number]
            self._set("matmul_preference", preference, limits[f"MIN_ALIGNMENT_{name}_BYTES"], alignment, np.uint32)
        self.algorithm, found = np.zeros(1, lt.matmul_heuristic_result_dtype), np.zeros(1, np.int32)
        of_a, of_b, of_c, of_out = self.layouts
        lt.matmul_algo_get_heuristic(self.handle, self.operation, of_b, of_a, of_c, of_out, preference, 1,
                                     self.algorithm.ctypes.data, found.ctypes.data)  # fmt: skip
        self.at = self.algorithm.ctypes.data

    def run(self, xp: Any, a: int, b: int, c: int, out: int, alpha: int, beta: int) -> None:
        """out = alpha a b + beta c, given by addresses."""
        of_a, of_b, of_c, of_out = self.layouts
        self.lt.matmul(
            self.handle, self.operation, alpha, b, of_b, a, of_a, beta, c, of_c, out, of_out, self.at,
            [self.workspace, *_this_thread.workspaces][-1].ptr, WORKSPACE, xp.cuda.get_current_stream().ptr,
        )  # fmt: skip

    def _make(self, kind: str, *options: int) -> int:
        made = getattr(self.lt, f"{kind}_create")(*options)
        self.made.append((getattr(self.lt, f"{kind}_destroy"), made))
        return made

    def _set(self, kind: str, what: int, attribute: int, value: int, dtype: Any) -> None:
        number = np.array(value, dtype)
        getattr(self.lt, f"{kind}_set_attribute")(what, attribute, number.ctypes.data, number.nbytes)

    def _layout(self, x: Matrix) -> int:
        layout = self._make("matrix_layout", x.number, x.across, x.down, x.width)
        if x.batch > 1:
            attributes = self.lt.MatrixLayoutAttribute
            self._set("matrix_layout", layout, attributes.BATCH_COUNT, x.batch, np.int32)
            self._set("matrix_layout", layout, attributes.STRIDED_BATCH_OFFSET, x.step, np.int64)
        return layout

    def __del__(self) -> None:
        for destroy, made in self.made:
            destroy(made)


class Matrix(NamedTuple):
    """Layout of an operand, or of `batch` operands `step` apart: `down` rows of `across` numbers, `width` apart."""

    number: int  # of its dtype
    turned: bool  # is it transposed?
    down: int
    across: int
    width: int
    batch: int
    step: int


def _matrix(shape: Ints, strides: Ints, dtype: np.dtype) -> Matrix | None:
    """None if neither rows nor columns are contiguous."""
    (rows, columns), (down, along), size = shape[-2:], strides[-2:], dtype.itemsize
    many = (shape[0], strides[0] // size) if len(shape) == 3 else (1, 0)
    if (along == size or columns == 1) and (down >= columns * size or rows == 1):
        return Matrix(NUMBERS[dtype], False, rows, columns, max(down // size if rows > 1 else 0, columns), *many)
    if (down == size or rows == 1) and (along >= rows * size or columns == 1):
        return Matrix(NUMBERS[dtype], True, columns, rows, max(along // size if columns > 1 else 0, rows), *many)
    return None


@functools.lru_cache(maxsize=4096)
def _plan(device: int, a_shape: Ints, a_strides: Ints, b_shape: Ints, b_strides: Ints, c_strides: Ints, strides: Ints,
          dtype: np.dtype, out_dtype: np.dtype, aligned: bool, tf32: bool) -> Plan | None:  # fmt: skip
    """None if a, b or the added array must be copied first."""
    shape = *a_shape[:-1], b_shape[-1]
    a, b = _matrix(a_shape, a_strides, dtype), _matrix(b_shape, b_strides, dtype)
    c, out = _matrix(shape, c_strides, out_dtype), _matrix(shape, strides, out_dtype)
    if out is None or out.turned:
        raise ValueError(f"a product is written in rows: not into shape {shape} with strides {strides}")
    if a is None or b is None or c is None or c.turned:
        return None
    return Plan(device, a, b, c, out, tf32, aligned)


@functools.cache
def _handle(device: int) -> tuple[int, Any]:
    """cuBLASLt's handle and workspace, for one product at a time and so one stream at a time."""
    import cupy

    lt: Any = cublas_lt()
    return lt.create(), cupy.cuda.Memory(WORKSPACE)


class _ThisThread(threading.local):
    """The current thread's own workspaces, innermost last."""

    def __init__(self) -> None:
        self.workspaces: list[Any] = []


_this_thread = _ThisThread()


@contextlib.contextmanager
def own_workspace(memory: Any) -> Iterator[None]:
    """Inside this block products use `memory`, of WORKSPACE bytes: for a stream that runs beside others."""
    _this_thread.workspaces.append(memory)
    try:
        yield
    finally:
        _this_thread.workspaces.pop()


@functools.cache
def _number(value: float) -> int:
    """The host address of alpha or beta."""
    _numbers.append(np.array(value, np.float32))
    return _numbers[-1].ctypes.data


_numbers: list[np.ndarray] = []


def _in_order(xp: Any, x: Any) -> Any:
    return x if _matrix(x.shape, x.strides, x.dtype) else xp.ascontiguousarray(x)


def _by_cupy(xp: Any, a: Any, b: Any, out: Any, alpha: float, plus: Any) -> Any:
    y = _matmul(xp, a.astype(out.dtype, copy=False), b.astype(out.dtype, copy=False))
    y = y * alpha if alpha != 1 else y
    out[...] = y if plus is None else plus + y
    return out


def _matmul(xp: Any, a: Any, b: Any) -> Any:
    """CuPy's `@`, with its cuBLAS handle set to TF32 if chosen."""
    if a.dtype != float32 or _precision == "highest":
        return a @ b
    cublas, handle = xp.cuda.cublas, xp.cuda.get_cublas_handle()
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, 3)  # CUBLAS_TF32_TENSOR_OP_MATH
    try:
        return a @ b
    finally:
        cublas.setMathMode(handle, before)
