"""Query, key and value, each with a LoRA, as one op on a GPU: x is read once, and the three gradients meet in one product.

An op has one output. Here it is (.., k, out), and what each layer computes a view of it; their gradients are put side by
side again, without a copy where they stand so, as attention's do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tinylora import ops
from tinylora.backend import Array, array_module, is_cupy
from tinylora.kernels.cuda.lora import fit
from tinylora.lora import LinearWithLoRA
from tinylora.nn.layers import Linear
from tinylora.nn.side_by_side import IN_ONE_OP
from tinylora.op import this_thread
from tinylora.sums import adds
from tinylora.tensor import Node, Tensor, record


def together(layers: Sequence[LinearWithLoRA], x: Tensor) -> Any:
    """[layer(x) for layer in layers], or NotImplemented where that has to be done one by one."""
    scales = {m.lora.alpha for m in layers}
    if not is_cupy(x.data) or not this_thread.tuned or len(scales) > 1 or any(m.merged for m in layers):
        return NotImplemented
    if any(type(m.linear) is not Linear for m in layers):
        return NotImplemented
    parts = [(m.linear.weight, m.linear.bias, m.lora.A, m.lora.B) for m in layers]
    if not fit(x.data, [tuple(None if p is None else p.data for p in layer) for layer in parts]):
        return NotImplemented
    return unbound(record(ops.lora_linears, x, *scales, *(p for layer in parts for p in layer)))


IN_ONE_OP[LinearWithLoRA] = together


class Parts(list[Any]):
    """Gradients of the parts of an output that have arrived so far, None where none has.

    They travel the graph as one gradient does, to a node that stands for no array; `shape` is what the engine compares with
    the node's.
    """

    shape = ()


def unbound(y: Tensor) -> list[Tensor]:
    """y[.., i, :] for every i. They share a graph: two walks, one from each of two parts, need `retain_graph`."""
    parts = [y.data[..., i, :] for i in range(y.shape[-2])]
    if y.node is None:
        return [Tensor(part) for part in parts]
    meeting = Node((), ((y.node, functools.partial(joined, y.shape)),))
    return [Tensor(part, node=Node(part.shape, ((meeting, _put(i, len(parts))),))) for i, part in enumerate(parts)]


def _put(i: int, count: int) -> Callable[..., Parts]:
    @adds
    def put(g: Array, so_far: Parts | None = None) -> Parts:
        found = Parts(so_far or [None] * count)
        found[i] = g
        return found

    return put


def joined(shape: tuple[int, ...], parts: Parts) -> Array:
    """(.., k, out) from k gradients (.., out): where they lie if they lie side by side, else copied."""
    some = next(part for part in parts if part is not None)
    xp, size = array_module(some), some.itemsize * shape[-1]
    if all(part is not None and part.strides == some.strides and _owner(part) is _owner(some) for part in parts):
        starts = [_address(part) for part in parts]
        in_line = starts == [starts[0] + i * size for i in range(len(parts))]
        if in_line and some.strides[-1] == some.itemsize and all(s >= size * len(parts) for s in some.strides[:-1]):
            strides = (*some.strides[:-1], size, some.itemsize)
            return xp.lib.stride_tricks.as_strided(parts[0], shape, strides)
    out = xp.empty(shape, some.dtype)
    for i, part in enumerate(parts):
        out[..., i, :] = 0 if part is None else part
    return out


def _address(x: Array) -> int:
    return x.data.ptr if is_cupy(x) else x.ctypes.data


def _owner(x: Array) -> Any:
    """Whose memory it is: neighbours of different owners are no parts of one array."""
    return x.data.mem if is_cupy(x) else x if x.base is None else x.base
