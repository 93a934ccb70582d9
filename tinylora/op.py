"""What an op is. (Reading path 1 of 6; next: ops/nn.py.)

An **op** is a pure function of arrays. It returns its output and one vector-Jacobian product (vjp) per input:

    @op
    def square(xp, x):
        def d_x(g):              # g = dL/dy, same shape as y; returns dL/dx
            return 2 * x * g

        return x * x, (d_x,)

`xp` is the array module, NumPy or CuPy: one definition runs on both. The definition is the specification. Faster
versions are in `kernels/`, take and return the same, and are registered on the op:

    @square.tune("numpy")
    def fast_square(xp, x): ...

A tuned version that does not support its inputs returns NotImplemented; then the next is tried, finally the definition. Ops
know nothing of Tensors; `tensor.py` records them. An op may assume that a vjp is called at most once per walk, may return a
gradient of the broadcast shape (the engine sums it down), and must never write into `g` or an input. A definition never
sees float16 or bfloat16: it computes in float32, and what it returns is rounded (backend/half.py).

An op may have several outputs: then it returns a tuple of arrays, and `g` is a dictionary from the number of an output to
its gradient, without outputs that were not used.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from tinylora.backend import array_module
from tinylora.backend.half import in_float32

Definition = Callable[..., tuple[Any, tuple[Any, ...]]]  # (output, a vjp or None per input)

OPS: dict[str, Op] = {}  # every op by name


class Op:
    """One operation: its definition, and the tuned versions that must agree with it."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.name = definition.__name__
        self.__doc__ = definition.__doc__
        self.tuned: dict[str, list[Definition]] = {"numpy": [], "cupy": []}

    def __call__(self, *inputs: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
        """Output and vjps, by the first tuned version that accepts, else by the definition."""
        return this_thread.run(self, *inputs, **options)

    def tune(self, *backends: str) -> Callable[[Definition], Definition]:
        """Register a tuned version for "numpy", "cupy" or both. The latest registered is asked first."""

        def register(version: Definition) -> Definition:
            for backend in backends:
                self.tuned[backend].insert(0, version)
            return version

        return register

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def run(op: Op, /, *inputs: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
    """The default way to run an op."""
    xp = array_module(*inputs)
    for version in op.tuned[xp.__name__] if this_thread.tuned else ():
        result = version(xp, *inputs, **options)
        if result is not NotImplemented:
            return result
    return op.definition(xp, *inputs, **options)


class _ThisThread(threading.local):
    """Settings of the current thread."""

    tuned = True  # False under no_kernels
    run = staticmethod(run)  # replaced by a wrapper while profiling or capturing a step


this_thread = _ThisThread()


def op(definition: Definition) -> Op:
    """Make an op of `definition(xp, *arrays, **options) -> (output, vjps)`, known by the function's name."""
    return every_dtype(in_float32(definition))


def every_dtype(definition: Definition) -> Op:
    """`op`, for definitions that take float16 and bfloat16 as they are: those that move numbers, or mind their dtypes."""
    OPS[definition.__name__] = Op(definition)
    return OPS[definition.__name__]


def once(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Cache the last call of `function`: for vjps of one op that share work on the same `g`."""
    last: list[Any] = [None, None]

    @functools.wraps(function)
    def remembered(g: Any) -> Any:
        if last[0] is not g:
            last[:] = g, function(g)
        return last[1]

    return remembered
