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
from tinylora.op import Op, this_thread
from tinylora.tensor import Vjp

Memories = weakref.WeakValueDictionary[int, Any]  # by id, for as long as it lives


class Count:
    """How often something ran, for how many seconds, and the FLOPs of its formula."""

    def __init__(self) -> None:
        self.calls, self.seconds, self.flops = 0, 0.0, 0

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.seconds += seconds


class OpCount(Count):
    """One op: its forward calls, its vjps by name, and the bytes that they kept."""

    def __init__(self) -> None:
        super().__init__()
        self.vjps: defaultdict[str, Count] = defaultdict(Count)  # one that never ran counts 0 calls
        self.kept = 0


class Profile:
    """What `profile()` saw. `ops` has a count per op name, and `str()` is a table.

    Seconds are of the op or vjp alone, without those of another that it calls. FLOPs are those of the op's formula,
    whichever version ran: products of matrices where it has some, else one per element. A product that several vjps share
    counts with one of them. `kept` is the memory that ops inside the block computed and that a recorded vjp holds: each
    array once, views as the array they look into, and nothing that the ops were given, such as parameters and data. It is
    what was held when the next op ran: an output that was dropped keeps nothing.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # of the whole block: what the ops do not account for is the engine and your own code
        self._ops: defaultdict[str, OpCount] = defaultdict(OpCount)
        self._given: Memories = weakref.WeakValueDictionary()
        self._computed: Memories = weakref.WeakValueDictionary()
        self._counted: Memories = weakref.WeakValueDictionary()
        self._fresh: list[tuple[OpCount, list[weakref.ref[_Counted]]]] = []  # recorded or not: not known yet
        self._running = 0  # ops and vjps, one inside the other
        self._inside = 0.0  # seconds of all that has run to its end

    @property
    def ops(self) -> defaultdict[str, OpCount]:
        self._settle()
        return self._ops

    @property
    def kept(self) -> int:
        """Bytes kept for backward by all ops together."""
        return sum(count.kept for count in self.ops.values())

    def run(self, run: Callable[..., Any], op: Op, /, *inputs: Any, **options: Any) -> Any:
        """Count an op, and hand out vjps that count themselves."""
        count = self.ops[op.name]
        with self._timing(count) as timing:
            out, vjps = run(op, *inputs, **options)
            timing.waits_for = out
        outputs = out if isinstance(out, tuple) else (out,)
        shapes = [x.shape if hasattr(x, "shape") else () for x in inputs]
        size = [x.shape for x in outputs] if isinstance(out, tuple) else out.shape
        count.flops += flops(op.name, "", shapes, size, options)
        self._note(inputs, outputs if any(vjps) else ())
        counted = [None if vjp is None else _Counted(self, count, vjp, i) for i, vjp in enumerate(vjps)]
        for c in filter(None, counted):
            c.flops = flops(op.name, c.__name__, shapes, size, options)
        self._fresh.append((count, [weakref.ref(c) for c in counted if c is not None]))
        return out, tuple(counted)

    def _note(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        """Which memory was given to the ops, and which have they computed?"""
        for memory in map(_memory, filter(_is_array, inputs)):
            if id(memory) not in self._computed:
                self._given[id(memory)] = memory
        for memory in map(_memory, filter(_is_array, outputs)):
            if id(memory) not in self._given:
                self._computed[id(memory)] = memory

    def _settle(self) -> None:
        """A vjp that is still there was recorded: count what it keeps. (The others had no edge to stand on.)"""
        if self._running or not self._fresh:
            return
        for count, references in self._fresh:
            recorded = [vjp for reference in references if (vjp := reference()) is not None]
            for vjp in recorded:
                count.vjps[vjp.__name__]  # 0 calls so far
            for memory in map(_memory, _arrays(recorded)):
                if id(memory) not in self._given and id(memory) not in self._counted:
                    self._counted[id(memory)] = memory
                    count.kept += memory.nbytes
        self._fresh.clear()

    @contextlib.contextmanager
    def _timing(self, count: Count) -> Iterator[_Timing]:
        """Add a call and its seconds, without those of what is timed inside of it."""
        self._running += 1
        timing, before, started = _Timing(), self._inside, perf_counter()
        try:
            yield timing
            seconds = _clock(timing.waits_for) - started
            count.add(seconds - (self._inside - before))
            self._inside = before + seconds
        finally:
            self._running -= 1

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
    """Count every op that this thread runs in this block, and its vjps whenever they run.

    >>> import tinylora
    >>> w = tinylora.ones(3, 3, requires_grad=True)
    >>> with tinylora.profile() as p:
    ...     (w @ w).sum().backward()
    >>> p.ops["matmul"].vjps["d_a"].calls, p.ops["matmul"].flops
    (1, 54)
    """
    p = Profile()
    started = perf_counter()
    outer = this_thread.run
    this_thread.run = functools.partial(p.run, outer)  # of this thread alone
    try:
        yield p
    finally:
        this_thread.run = outer
        p.seconds = perf_counter() - started
        p._settle()


# ------------------------------------------------------------------------------------------- counting
class _Counted:
    """A vjp that counts itself, and is named as it is; a lambda by the number of its input, "d_0", "d_1", ..

    It holds no array beside those of the vjp, so nothing lives longer for it.
    """

    def __init__(self, profile: Profile, count: OpCount, vjp: Vjp, i: int) -> None:
        functools.update_wrapper(self, vjp, assigned=())  # with the marks that it bears
        self.profile, self.count, self.vjp, self.flops = profile, count, vjp, 0
        name = getattr(vjp, "__name__", "<lambda>")
        self.__name__ = f"d_{i}" if name == "<lambda>" else name

    def __call__(self, *gradients: Any) -> Array:
        self.profile._settle()
        count = self.count.vjps[self.__name__]
        with self.profile._timing(count) as timing:
            timing.waits_for = d = self.vjp(*gradients)
        count.flops += self.flops
        return d


class _Timing:
    """What has to be there before the clock is read."""

    waits_for: Any = None


def _clock(out: Any) -> float:
    """The time at which an array, or a tuple of them, is ready: a GPU is waited for."""
    if (xp := array_module(*(out if isinstance(out, tuple) else (out,)))).__name__ == "cupy":
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
        elif isinstance(x, _Counted):
            todo.append(x.vjp)
        elif isinstance(x, list | tuple):
            todo += x
        elif _is_array(x):
            yield x


# ---------------------------------------------------------------------------------------------- FLOPs
def flops(op: str, vjp: str, shapes: list[tuple[int, ...]], out: Any, options: dict[str, Any]) -> int:
    """Multiplications and additions of one call of op `op`, or of its vjp by name; other ops count their elements.

    `out` is the shape of the output, or a list of shapes if there are several.
    """
    formula = FORMULAS.get(op)
    if formula:
        return formula(vjp, shapes, out, options)
    return max(map(math.prod, [*(out if isinstance(out, list) else [out]), *shapes]))


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
    """Forward and d_x are of all layers, the others of one; where layers differ, of one as it is on average."""
    each = [_lora_linear(vjp, [shapes[0], *shapes[4 * i + 2 : 4 * i + 6]], y, options) for i, y in enumerate(out)]
    return sum(each) if vjp in ("", "d_x") else sum(each) // len(each)


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
    "dropout_lora_linear": _lora_linear,
    "lora_linears": _lora_linears,
    "quantized_linear": _linear,
    "linear_cross_entropy": _linear_cross_entropy,
    "attention": _attention,
    "attention_at": _attention_at,
}
