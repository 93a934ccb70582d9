"""Attention by cuDNN, where it is installed: scores stay on the chip, so memory is linear in the sequence length.

blocks.py is used without cuDNN, in exact float32, and with dropout, whose masks are the same on every device, unlike
cuDNN's.
"""

from __future__ import annotations

import atexit
import functools
import math
from typing import Any

import numpy as np

from tinylora import ops
from tinylora.backend import bfloat16, float16, float32
from tinylora.kernels.cpu.attention import by_input
from tinylora.kernels.cuda.again import spare
from tinylora.kernels.cuda.compile import blocks, copy_rows, extra, kernel, or_null, packs, ready
from tinylora.kernels.cuda.gemm import get_float32_matmul_precision

Strides = tuple[int, ...]


@ops.attention.tune("cupy")
def attention(xp, q, k, v, causal=True, p=0.0, key=0, mask=None):
    """Keeps q, k, v, y and one number per row. float32 is converted to float16 with precision "high".

    With as many queries as keys, the gradients are adjacent in memory, (B, T, H + 2 Hkv, D), as lora_linears reads them.
    Declines dropout, masks, causal attention with fewer queries than keys, and more than 128 features or an odd number.
    """
    high = q.dtype == float32 and get_float32_matmul_precision() == "high"
    if p or mask is not None or not q.ndim == k.ndim == 4 or not q.size or not k.size:
        return NotImplemented
    if q.dtype not in (bfloat16, float16) and not high:
        return NotImplemented
    (B, H, T, D), (_, Hkv, S, _) = q.shape, k.shape
    fits = k.shape == v.shape == (B, Hkv, S, D) and not H % Hkv and q.dtype == k.dtype == v.dtype
    if not fits or D % 8 or D > 128 or (causal and S != T) or extra("cudnn") is None:
        return NotImplemented
    qkv = _whole(xp, q, k, v)
    together = qkv is not None
    if high:
        q, k, v = _parts(_float16(xp, qkv), H) if together else (_float16(xp, x) for x in (q, k, v))
    else:
        q, k, v = (_alone(xp, _readable(x)) if qkv is None else _readable(x) for x in (q, k, v))
    y = _like(xp, q)
    row = xp.empty((B, H, T, 1), np.float32)
    sizes = B, H, Hkv, T, S, D, causal, q.dtype.char
    forward = _forward(xp.cuda.device.get_device_id(), *sizes, *map(_strides, (q, k, v, y)))
    forward.run(xp, q, k, v, y, row)

    def gradients(g):
        largest = _largest(xp, g) if high else None
        g = _float16(xp, g, largest) if high else _readable(g)
        whole = xp.empty((B, T, H + 2 * Hkv, D), q.dtype) if together or (T == S and not high) else None
        found = [_like(xp, x) for x in (q, k, v)] if whole is None else _parts(whole, H)
        strides = map(_strides, (q, k, v, y, g, *found))
        _backward(xp.cuda.device.get_device_id(), *sizes, *strides).run(xp, q, k, v, y, g, row, *found)
        if not high:
            return [spare(d) for d in found]
        return _parts(_float32(xp, whole, largest), H) if together else [_float32(xp, x, largest) for x in found]

    return _float32(xp, y) if high else y, by_input(gradients)


def _whole(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """The array (B, T, 3 H, D) of which q, k and v are views, or None."""
    (B, H, T, D), item = q.shape, q.itemsize
    row, strides = H * D * item, (q.strides[0], D * item, 3 * H * D * item, item)
    alike = q.shape == k.shape and q.strides == k.strides == v.strides == strides
    if not alike or not k.data.ptr - q.data.ptr == v.data.ptr - k.data.ptr == row:
        return None
    return xp.lib.stride_tricks.as_strided(q, (B, T, 3 * H, D), (q.strides[0], 3 * row, D * item, item))


def _parts(qkv: Any, H: int) -> list[Any]:
    """(B, T, H + 2 Hkv, D) as the views (B, H, T, D) and twice (B, Hkv, T, D)."""
    Hkv = (qkv.shape[2] - H) // 2
    return [_joined(qkv[:, :, start:stop]) for start, stop in ((0, H), (H, H + Hkv), (H + Hkv, H + 2 * Hkv))]


def _joined(x: Any) -> Any:
    """(B, H, T, D) as (B, T, H, D), the usual memory layout of heads, and back."""
    return x.transpose(0, 2, 1, 3) if x.ndim == 4 else x


def _float16(xp: Any, x: Any, largest: Any = None) -> Any:
    """float32 as float16; scaled by a power of two if `largest`, the maximum of |x|, is given."""
    x = ready(xp, _joined(x))
    y = xp.empty(x.shape, np.float16)
    kernel("elementwise", "from_float", float16)(*blocks(packs(y)), (x, y, x.size, or_null(largest)))
    return _joined(y)


def _float32(xp: Any, x: Any, largest: Any = None) -> Any:
    """float16 as float32, divided by that power of two."""
    x = _joined(x)
    y = xp.empty(x.shape, np.float32)
    kernel("elementwise", "to_float", float16)(*blocks(packs(x)), (x, y, x.size, or_null(largest)))
    return _joined(y)


def _largest(xp: Any, g: Any) -> Any:
    """max |g|, on the device: gradients may underflow in float16."""
    largest = xp.zeros((), np.uint32)
    g = ready(xp, _joined(g))
    kernel("elementwise", "find_largest", float16)((264,), (512,), (g, g.size, largest))
    return largest


def _readable(x: Any) -> Any:
    """x if each head's features are contiguous and 16-byte aligned, else a copy."""
    fine = x.strides[-1] == x.itemsize and all(s % 16 == 0 for s in x.strides[:-1]) and x.data.ptr % 16 == 0
    return x if fine else x.copy(order="C")


def _alone(xp: Any, x: Any) -> Any:
    """x, copied if keeping it would keep an array alive that is much larger, as of queries that were turned since."""
    (B, H, T, D), joined = x.shape, _joined(x)
    rows = joined.strides[2] == D * x.itemsize and joined.strides[0] == T * joined.strides[1]
    if x.data.mem.size <= 2 * x.nbytes or not rows:
        return x
    y = xp.empty((B, T, H, D), x.dtype)
    copy_rows(joined.reshape(B * T, H * D), y.reshape(B * T, H * D))
    return _joined(y)


def _like(xp: Any, x: Any) -> Any:
    """A new (B, H, T, D) with memory layout (B, T, H, D), so that joining the heads needs no copy."""
    B, H, T, D = x.shape
    return _joined(xp.empty((B, T, H, D), x.dtype))


def _strides(x: Any) -> Strides:
    return tuple(s // x.itemsize for s in x.strides)


# ------------------------------------------------------------------------------------------- cuDNN
class Plan:
    """A cuDNN graph, built for shapes and strides, and run on arrays of these."""

    def __init__(self, graph: Any, tensors: list[Any], handle: Any) -> None:
        cudnn: Any = extra("cudnn")
        graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph, self.handle, self.numbers = graph, handle, [tensor.get_uid() for tensor in tensors]
        self.workspace = graph.get_workspace_size()

    def run(self, xp: Any, *arrays: Any) -> None:
        cudnn: Any = extra("cudnn")
        cudnn.set_stream(handle=self.handle, stream=xp.cuda.get_current_stream().ptr)
        workspace = xp.empty(max(1, self.workspace), np.uint8)
        pack = {number: array.data.ptr for number, array in zip(self.numbers, arrays, strict=True)}
        self.graph.execute(pack, workspace.data.ptr, handle=self.handle)


@functools.cache
def _handle(device: int) -> Any:
    cudnn: Any = extra("cudnn")
    atexit.register(_forget)
    return cudnn.create_handle()


def _forget() -> None:
    """Release all plans before Python exits: cuDNN's binding reports those that remain."""
    for cached in (_forward, _backward, _handle):
        cached.cache_clear()


def _new_graph(device: int, char: str) -> tuple[Any, Any, Any]:
    cudnn: Any = extra("cudnn")
    kind = cudnn.data_type.BFLOAT16 if char == "E" else cudnn.data_type.HALF
    wide = cudnn.data_type.FLOAT
    graph = cudnn.pygraph(handle=_handle(device), io_data_type=kind, intermediate_data_type=wide, compute_data_type=wide)

    def tensor(name: str, sizes: tuple[int, ...], strides: Strides, dtype: Any = kind) -> Any:
        return graph.tensor(name=name, dim=list(sizes), stride=list(strides), data_type=dtype)

    return graph, tensor, wide


def _output(tensor: Any, sizes: tuple[int, ...], strides: Strides, dtype: Any = None) -> Any:
    tensor.set_output(True).set_dim(list(sizes)).set_stride(list(strides))
    return tensor if dtype is None else tensor.set_data_type(dtype)


@functools.cache
def _forward(device: int, B: int, H: int, Hkv: int, T: int, S: int, D: int, causal: bool, char: str,
             *strides: Strides) -> Plan:  # fmt: skip
    graph, tensor, wide = _new_graph(device, char)
    of_q, of_k, of_v, of_y = strides
    q = tensor("q", (B, H, T, D), of_q)
    k, v = tensor("k", (B, Hkv, S, D), of_k), tensor("v", (B, Hkv, S, D), of_v)
    y, row = graph.sdpa(name="sdpa", q=q, k=k, v=v, generate_stats=True, attn_scale=1 / math.sqrt(D), use_causal_mask=causal)
    _output(y, (B, H, T, D), of_y)
    _output(row, (B, H, T, 1), (H * T, T, 1, 1), wide)
    return Plan(graph, [q, k, v, y, row], _handle(device))


@functools.cache
def _backward(device: int, B: int, H: int, Hkv: int, T: int, S: int, D: int, causal: bool, char: str,
              *strides: Strides) -> Plan:  # fmt: skip
    graph, tensor, wide = _new_graph(device, char)
    queries, keys = (B, H, T, D), (B, Hkv, S, D)
    shapes = queries, keys, keys, queries, queries
    q, k, v, y, g = (tensor(n, shape, s) for n, shape, s in zip("qkvyg", shapes, strides[:5], strict=True))
    row = tensor("row", (B, H, T, 1), (H * T, T, 1, 1), wide)
    found = graph.sdpa_backward(
        name="sdpa_backward", q=q, k=k, v=v, o=y, dO=g, stats=row, attn_scale=1 / math.sqrt(D), use_causal_mask=causal
    )
    for d, shape, s in zip(found, shapes, strides[5:], strict=False):
        _output(d, shape, s)
    return Plan(graph, [q, k, v, y, g, row, *found], _handle(device))
