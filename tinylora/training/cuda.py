"""The whole training step as one CUDA graph: recorded once, then launched as a whole.

A small step is a thousand launches of a few microseconds each, and Python takes longer to ask for them than the GPU to
carry them out. A graph asks once.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from tinylora import backend
from tinylora.backend import Array, array_module, is_cupy
from tinylora.kernels.cuda.gemm import cublas_lt
from tinylora.kernels.cuda.live import Slots, live, recording
from tinylora.op import Op, this_thread
from tinylora.optim import Adam, Optimizer
from tinylora.tensor import Tensor, Vjp

Step = Callable[..., Any]


class Captured:
    """A step as `capture` returns it. Call it as you would call the step."""

    def __init__(self, step: Step, optimizer: Optimizer) -> None:
        self.step, self.optimizer = step, optimizer
        self.graphs: dict[Any, _Graph | None] = {}  # by the shapes of the inputs; None: seen once, by its own launches
        self._cupy = backend.cupy()
        self._pool = self._cupy.cuda.MemoryPool()  # that of all graphs: they run one after another
        self._stream = self._cupy.cuda.Stream(non_blocking=True)  # CuPy's pools keep apart what streams have freed
        self._homes: dict[int, tuple[Array | None, ...]] = {}  # of a parameter's data, m and v, by its id

    def __call__(self, *inputs: Tensor) -> Any:
        """One step. Returns what the step returns, in memory of its own."""
        key = tuple((x.shape, x.dtype.char) for x in inputs)
        self._bring_home()
        if key not in self.graphs:
            self.graphs[key] = None
            out = self._first(*inputs)
            self._bring_home()
        else:
            graph = self.graphs[key] or _Graph(self, inputs)
            self.graphs[key] = graph
            out = graph.replay(inputs)
        return _each(out, lambda x: Tensor(x.data.copy()))

    @property
    def nbytes(self) -> int:
        """How much memory of the GPU its graphs hold, beside the parameters and the optimizer's state."""
        return self._pool.total_bytes()

    def _first(self, *inputs: Tensor) -> Any:
        """The step by its own launches. It fills the pool with what a graph of it will need."""
        current = self._cupy.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream:
            out = self.run(*inputs)
            current.wait_event(self._stream.record())
        return out

    def record(self, slots: Slots, key: Callable[[], Array], *inputs: Tensor) -> tuple[Any, Any]:
        """The graph of the step, and where it leaves its outputs."""
        if not any(self.graphs.values()):
            self._pool.free_all_blocks()  # cut up by the first step; while graphs are about, all of it is theirs
        with self._stream as stream, recording(slots), backend.keys_from(key):
            stream.begin_capture(self._cupy.cuda.runtime.streamCaptureModeRelaxed)
            try:
                out = self.run(*inputs)
            except RuntimeError as error:
                if "captur" not in str(error):
                    raise
                raise RuntimeError(f"a captured step may not look at its numbers (.item(), if, print): {error}") from error
            finally:
                graph = stream.end_capture()
        return graph, out

    def run(self, *inputs: Tensor) -> Any:
        with self._cupy.cuda.using_allocator(backend.allocator(self._pool)):
            return self.step(*inputs)

    def _bring_home(self) -> None:
        """Give parameters and the optimizer's state places that stay: graphs have the addresses written into them.

        What is elsewhere by now, after an ordinary step or `load_state_dict`, is copied there.
        """
        for p in self.optimizer.parameters():
            data, m, v = self._homes.get(id(p), (None, None, None))
            state = self.optimizer.state.get(id(p), {})
            if p.data is not data or state.get("m") is not m or state.get("v") is not v:
                p.data = data = self._home(data, p.data)
                for name, home in (("m", m), ("v", v)):
                    if name in state:
                        state[name] = self._home(home, state[name])
                self._homes[id(p)] = data, state.get("m"), state.get("v")

    def _home(self, home: Array | None, array: Array) -> Array:
        if home is array:
            return home
        if home is None or home.shape != array.shape or home.dtype != array.dtype:
            self.graphs = dict.fromkeys(self.graphs)  # they know another address
            return array.copy()  # whoever else holds the array keeps it as it is
        home[...] = array
        return home


class _Graph:
    """The launches of one step for inputs of one shape, where they read their inputs, and where they leave their outputs."""

    def __init__(self, owner: Captured, inputs: tuple[Tensor, ...]) -> None:
        xp: Any = backend.cupy()
        self.inputs = [Tensor(xp.asarray(x.data).copy()) for x in inputs]
        self.slots = Slots(xp)
        self.kept: list[Array] = []  # the frozen weights, which must not be freed while the graph reads them
        self._made: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()  # by id: what the step computes
        outer = this_thread.run
        this_thread.run = functools.partial(self._keep, outer)  # of this thread alone
        try:
            self.graph, self.outputs = owner.record(self.slots, self._key, *self.inputs)
        finally:
            this_thread.run = outer

    def replay(self, inputs: tuple[Tensor, ...]) -> Any:
        for place, x in zip(self.inputs, inputs, strict=True):
            if array_module(x.data) is array_module(place.data):
                place.data[...] = x.data
            else:
                place.data.set(x.data)
        self.slots.refresh()
        self.graph.launch()
        return self.outputs

    def _key(self) -> Array:
        """A dropout key that is drawn anew for each replay, in the order in which an ordinary step draws them."""
        return live(backend.cupy(), backend.next_key, (), "uint64")

    def _keep(self, run: Callable[..., Any], op: Op, /, *inputs: Any, **options: Any) -> Any:
        """Run an op, and keep what it reads unless an op or a vjp of the step has made it."""
        self.kept += [x for x in inputs if is_cupy(x) and id(x) not in self._made]
        out, vjps = run(op, *inputs, **options)
        self._made.update((id(x), x) for x in (out if isinstance(out, tuple) else (out,)))
        return out, tuple(vjp and self._noted(vjp) for vjp in vjps)

    def _noted(self, vjp: Vjp) -> Vjp:
        @functools.wraps(vjp)
        def noted(*gradients: Array) -> Array:
            d = vjp(*gradients)
            self._made[id(d)] = d
            return d

        return noted


def capture(step: Step, optimizer: Optimizer) -> Captured:
    """`step(*tensors)`, which trains by `optimizer` and returns tensors, to be launched as a whole.

    For inputs of each shape the first call is an ordinary step, the second records a CUDA graph and launches it, and every
    further one copies its inputs into place and launches it again: the numbers are the same, dropout and learning rates
    included. A step may not look at its numbers (`.item()`, `if loss > 1`), which nobody knows while it is recorded; return
    them and look then. Weights that are not trained have to stay where they are.

    Raises RuntimeError without nvmath-python, whose matrix products can be recorded, and for other optimizers than Adam and
    AdamW.
    """
    if not isinstance(optimizer, Adam):
        raise RuntimeError(f"a step with {type(optimizer).__name__} cannot be captured: use Adam or AdamW")
    backend.cupy()
    if cublas_lt() is None:
        raise RuntimeError("capturing a step needs nvmath-python: pip install 'tinylora[cuda13]' (or cuda12)")
    return Captured(step, optimizer)


def can_capture(device: backend.device) -> bool:
    """Does `capture` work for tensors on `device`?"""
    return device == "cuda" and cublas_lt() is not None


def _each(out: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(out, Tensor):
        return function(out)
    return type(out)(_each(x, function) for x in out) if isinstance(out, tuple | list) else out
