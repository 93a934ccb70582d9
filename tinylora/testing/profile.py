"""Count what the engine does: per op, calls, time, FLOPs, and the bytes that are kept for backward.

Every gradient is counted by the name of the vjp that computed it, so "no weight gradient was computed" is a number:
`p.ops["linear"].vjps["d_weight"].calls == 0`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from types import FunctionType
from typing import Any

import numpy as np

from tinylora.backend import Array, array_module
from tinylora.backend.meta import MetaArray
from tinylora.op import Op
from tinylora.tensor import Node, Tensor, Vjp, watchers

Edges = tuple[tuple[Node, Vjp], ...]
Memories = weakref.WeakValueDictionary[int, Any]  # by id, for as long as it lives


class Count:
    """How often something ran, for how many seconds, and the FLOPs of its formula."""

    def __init__(self) -> None:
        self.calls, self.seconds, self.flops = 0, 0.0, 0

    def add(self, seconds: float, flops: int) -> None:
        self.calls += 1
        self.seconds += seconds
        self.flops += flops


class OpCount(Count):
    """One op: its forward calls, its vjps by name, and the bytes that they kept."""

    def __init__(self) -> None:
        super().__init__()
        self.vjps: defaultdict[str, Count] = defaultdict(Count)  # one that never ran counts 0 calls
        self.kept = 0


class Profile:
    """What `profile()` saw. `ops` has a count per op name, and `str()` is a table.

    FLOPs are those of the op's formula, whichever version ran: products of matrices where it has some, else one per
    element. A product that several vjps share counts with one of them. `kept` is the memory that ops inside the block
    computed and that a recorded vjp holds: each array once, views as the array they look into, and nothing that the ops
    were given, such as parameters and data.
    """

    def __init__(self) -> None:
        self.ops: defaultdict[str, OpCount] = defaultdict(OpCount)
        self.seconds = 0.0  # of the whole block: what the ops do not account for is the engine and your own code
        self._given: Memories = weakref.WeakValueDictionary()
        self._computed: Memories = weakref.WeakValueDictionary()
        self._counted: Memories = weakref.WeakValueDictionary()

    @property
    def kept(self) -> int:
        """Bytes kept for backward by all ops together."""
        return sum(count.kept for count in self.ops.values())

    def watch(
        self, op: Op, inputs: tuple[Any, ...], options: dict[str, Any], out: Array, edges: Edges, started: float
    ) -> Edges:
        """Count one op that was recorded, and return its edges with vjps that count themselves."""
        seconds = _clock(out) - started
        count = self.ops[op.name]
        shapes = [x.shape if hasattr(x, "shape") else () for x in inputs]
        count.add(seconds, flops(op.name, "", shapes, out.shape, options))
        count.kept += self._kept_by(inputs, out, edges)
        names = _names(inputs, edges)
        return tuple(
            (node, _counting(vjp, count.vjps[name], flops(op.name, name, shapes, out.shape, options)))
            for (node, vjp), name in zip(edges, names, strict=True)
        )

    def _kept_by(self, inputs: tuple[Any, ...], out: Array, edges: Edges) -> int:
        for x in inputs:
            array = x.data if isinstance(x, Tensor) else x
            if _is_array(array):
                memory = _memory(array)
                parameter = isinstance(x, Tensor) and x.requires_grad and x.is_leaf
                if parameter or id(memory) not in self._computed:
                    self._given[id(memory)] = memory
        if _is_array(out) and id(_memory(out)) not in self._given:
            self._computed[id(_memory(out))] = _memory(out)
        size = 0
        for memory in map(_memory, _arrays([vjp for _, vjp in edges])):
            if id(memory) not in self._given and id(memory) not in self._counted:
                self._counted[id(memory)] = memory
                size += memory.nbytes
        return size

    def __str__(self) -> str:
        rows = [("op", "calls", "ms", "MFLOP", "kept kB")]
        for name, count in sorted(self.ops.items(), key=lambda item: -_all_seconds(item[1])):
            if count.calls:
                rows.append((name, *_cells(count), f"{count.kept / 1e3:.1f}"))
                rows += [(f"  {vjp}", *_cells(c), "") for vjp, c in count.vjps.items() if c.calls]
        in_ops = sum(map(_all_seconds, self.ops.values()))
        rows.append(("in ops", "", f"{1e3 * in_ops:.2f}", "", f"{self.kept / 1e3:.1f}"))
        rows.append(("in the block", "", f"{1e3 * self.seconds:.2f}", "", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)])
            for row in rows
        )


@contextlib.contextmanager
def profile() -> Iterator[Profile]:
    """Count every op recorded in this block, and its vjps whenever they run.

    >>> import tinylora
    >>> w = tinylora.ones(3, 3, requires_grad=True)
    >>> with tinylora.profile() as p:
    ...     (w @ w).sum().backward()
    >>> p.ops["matmul"].vjps["d_a"].calls, p.ops["matmul"].flops
    (1, 54)
    """
    p = Profile()
    started = perf_counter()
    watchers.append(p.watch)
    try:
        yield p
    finally:
        watchers.remove(p.watch)
        p.seconds = perf_counter() - started


# ------------------------------------------------------------------------------------------- counting
def _counting(vjp: Vjp, count: Count, work: int) -> Vjp:
    """`vjp`, counted, and marked as it is. Beside the vjp it holds two numbers, so nothing lives longer for it."""

    def counted(g: Array, *so_far: Array) -> Array:
        started = perf_counter()
        d = vjp(g, *so_far)
        count.add(_clock(d) - started, work)
        return d

    return functools.update_wrapper(counted, vjp, assigned=("__name__",))


def _names(inputs: tuple[Any, ...], edges: Edges) -> Iterator[str]:
    """What each edge's vjp is called; a lambda gets the number of its input, "d_0", "d_1", .."""
    numbered = enumerate(inputs)
    for node, vjp in edges:
        i = next(i for i, x in numbered if isinstance(x, Tensor) and x.node is node)
        name = getattr(vjp, "__name__", "<lambda>")
        yield f"d_{i}" if name == "<lambda>" else name


def _clock(array: Array) -> float:
    """The time at which `array` is ready: a GPU is waited for."""
    if (xp := array_module(array)).__name__ == "cupy":
        xp.cuda.get_current_stream().synchronize()
    return perf_counter()


def _all_seconds(count: OpCount) -> float:
    return count.seconds + sum(c.seconds for c in count.vjps.values())


def _cells(count: Count) -> tuple[str, str, str]:
    return str(count.calls), f"{1e3 * count.seconds:.2f}", f"{count.flops / 1e6:.2f}"


# --------------------------------------------------------------------------------------------- memory
def _is_array(x: Any) -> bool:
    """NumPy or CuPy, and with numbers in it."""
    return hasattr(x, "__cuda_array_interface__") or (isinstance(x, np.ndarray) and not isinstance(x, MetaArray))


def _memory(array: Array) -> Array:
    """The array that owns the memory which `array` looks into."""
    while _is_array(array.base):
        array = array.base
    return array


def _arrays(found: Iterable[Any]) -> Iterator[Array]:
    """The arrays that functions hold: in their closures, in the functions there, and in lists such as `once` keeps."""
    seen: set[int] = set()
    todo = list(found)
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, FunctionType):
            for cell in x.__closure__ or ():
                with contextlib.suppress(ValueError):  # a name that was never set
                    todo.append(cell.cell_contents)
        elif isinstance(x, list | tuple):
            todo += x
        elif _is_array(x):
            yield x


# ---------------------------------------------------------------------------------------------- FLOPs
def flops(op: str, vjp: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], options: dict[str, Any]) -> int:
    """Multiplications and additions of one call of op `op`, or of its vjp by name; other ops count their elements."""
    formula = FORMULAS.get(op)
    return formula(vjp, shapes, out, options) if formula else max(map(math.prod, [out, *shapes]))


def _matmul(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    return 2 * math.prod(out) * shapes[0][-1]  # and so does each gradient


def _einsum(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    letters, sizes = "".join(options["inputs"]), itertools.chain(*shapes)
    return len(shapes) * math.prod(dict(zip(letters, sizes, strict=True)).values())


def _linear(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    return math.prod(out) * (1 if vjp == "d_bias" else 2 * shapes[0][-1])


def _lora_linear(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    """Forward x W, x A, (x A) B. d_A has g Bᵀ in it, d_x the two that follow."""
    (d_in, r), d_out = shapes[3], out[-1]
    side = {"": d_in + d_out, "d_x": d_in, "d_A": d_in + d_out, "d_B": d_out, "d_weight": 0, "d_bias": 0}[vjp]
    base = _linear(vjp, shapes, out, options) if vjp not in ("d_A", "d_B") else 0
    return base + 2 * math.prod(out[:-1]) * r * side


def _lora_linears(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    """Forward and d_x are of all layers, the others of one."""
    layers = out[-2] if vjp in ("", "d_x") else 1
    return layers * _lora_linear(vjp, [shapes[0], *shapes[2:]], (*out[:-2], out[-1]), options)


def _attention(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    """Forward q k and P v over the pairs that see each other. d_q has g v in it; P is not counted again."""
    (*batch, T, D), S = shapes[0], shapes[1][-2]
    seeing = min(T, S)  # queries, from the end, of which the first sees S - seeing + 1 keys if they are causal
    pairs = seeing * S - seeing * (seeing - 1) // 2 if options.get("causal", True) else T * S
    return math.prod(batch) * pairs * 2 * D * {"": 2, "d_q": 2, "d_k": 1, "d_v": 1}[vjp]


def _linear_cross_entropy(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    """Forward and each gradient are one product with W."""
    return 2 * math.prod(shapes[0]) * shapes[1][0]


def _attention_at(vjp: str, shapes: Any, out: Any, options: Any) -> int:
    """As attention with one query a row, which may see all keys."""
    return 2 * math.prod(shapes[0]) * shapes[1][-2] * {"": 2, "d_q": 2, "d_k": 1, "d_v": 1}[vjp]


FORMULAS: dict[str, Callable[..., int]] = {
    "matmul": _matmul,
    "einsum": _einsum,
    "linear": _linear,
    "lora_linear": _lora_linear,
    "lora_linears": _lora_linears,
    "quantized_linear": _linear,
    "linear_cross_entropy": _linear_cross_entropy,
    "attention": _attention,
    "attention_at": _attention_at,
}
