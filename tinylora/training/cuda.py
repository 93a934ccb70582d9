"""Captures a training step as a CUDA graph, which is then launched as a whole.

A small step is a thousand launches of a few microseconds each, and Python takes longer to launch them than the GPU to run
them. A graph is one launch.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from tinylora import backend
from tinylora.backend import Array, array_module, is_cupy
from tinylora.kernels.cuda.arena import Arena, Life, Recorder, plan
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
        self.graphs: dict[Any, _Graph | None] = {}  # by input shapes; None: seen once, not captured
        self._cupy = backend.cupy()
        self._pool = self._cupy.cuda.MemoryPool()  # shared by all graphs, which run one after another
        self._lives: list[Life] | None = None  # of the blocks of a step, while there is one shape of inputs
        self._arena: Any = None  # where the only graph has its blocks, if they were planned
        self._stream = self._cupy.cuda.Stream(non_blocking=True)  # CuPy's pools are separate for each stream
        self._homes: dict[int, tuple[Array | None, ...]] = {}  # a parameter's data, m and v, by its id

    def __call__(self, *inputs: Tensor) -> Any:
        """Run one step. Returns copies of the step's outputs."""
        key = tuple((x.shape, x.dtype.char) for x in inputs)
        self._bring_home()
        if key not in self.graphs:
            if self.graphs:  # graphs of several shapes share the pool instead
                self.graphs = dict.fromkeys(self.graphs) if self._arena else self.graphs
                self._lives = self._arena = None
            recorder = None if self.graphs else Recorder(backend.allocator(self._pool))
            self.graphs[key] = None
            out = self._first(recorder, *inputs)
            self._lives = recorder.lives() if recorder else None
            self._bring_home()
        else:
            graph = self.graphs[key] or _Graph(self, inputs)
            self.graphs[key] = graph
            out = graph.replay(inputs)
        return _each(out, lambda x: Tensor(x.array.copy()))

    @property
    def nbytes(self) -> int:
        """GPU memory in bytes that its graphs hold, beside the parameters and the optimizer's state."""
        return self._pool.total_bytes() + (self._arena.mem.size if self._arena else 0)

    def _first(self, recorder: Recorder | None, *inputs: Tensor) -> Any:
        """Run the step without a graph. This fills the memory pool for the capture."""
        current = self._cupy.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream:
            out = self.run(recorder.malloc if recorder else None, *inputs)
            current.wait_event(self._stream.record())
        return out

    def record(self, slots: Slots, key: Callable[[], Array], *inputs: Tensor) -> tuple[Any, Any]:
        """Capture the step: its graph, and the arrays of its outputs."""
        malloc = None
        if not any(self.graphs.values()):
            malloc = self._planned()
        with self._stream as stream, recording(slots), backend.keys_from(key):
            stream.begin_capture(self._cupy.cuda.runtime.streamCaptureModeRelaxed)
            try:
                out = self.run(malloc, *inputs)
            except RuntimeError as error:
                if "captur" not in str(error):
                    raise
                raise RuntimeError(f"a captured step may not look at its numbers (.item(), if, print): {error}") from error
            finally:
                graph = stream.end_capture()
        return graph, out

    def run(self, malloc: Callable[[int], Any] | None, *inputs: Tensor) -> Any:
        with self._cupy.cuda.using_allocator(malloc or backend.allocator(self._pool)):
            return self.step(*inputs)

    def _planned(self) -> Callable[[int], Any] | None:
        """Empty the pool, which the first step has split into pieces, and allocate an arena for the blocks it recorded."""
        for p in self.optimizer.parameters():
            if p.grad is not None:
                p.grad = Tensor(p.grad.array.copy())  # outside the pool
        self._arena = None
        self._pool.free_all_blocks()
        if self._lives is None:
            return None
        offsets, size = plan(self._lives)
        self._arena = self._cupy.cuda.MemoryPointer(self._cupy.cuda.Memory(size), 0)
        return Arena(self._lives, offsets, self._arena, backend.allocator(self._pool)).malloc

    def _bring_home(self) -> None:
        """Keep parameters and optimizer state at fixed addresses, which are recorded in the graphs.

        Arrays replaced since, by an ordinary step or `load_state_dict`, are copied back there.
        """
        for p in self.optimizer.parameters():
            data, m, v = self._homes.get(id(p), (None, None, None))
            state = self.optimizer.state.get(p, {})
            if p.array is not data or state.get("m") is not m or state.get("v") is not v:
                p.array = data = self._home(data, p.array)
                for name, home in (("m", m), ("v", v)):
                    if name in state:
                        state[name] = self._home(home, state[name])
                self._homes[id(p)] = data, state.get("m"), state.get("v")

    def _home(self, home: Array | None, array: Array) -> Array:
        if home is array:
            return home
        if home is None or home.shape != array.shape or home.dtype != array.dtype:
            self.graphs = dict.fromkeys(self.graphs)  # they use another address
            return array.copy()  # other holders of the array keep its values
        home[...] = array
        return home


class _Graph:
    """A captured step for inputs of one shape: its graph, its input arrays and its output arrays."""

    def __init__(self, owner: Captured, inputs: tuple[Tensor, ...]) -> None:
        xp: Any = backend.cupy()
        self.inputs = [Tensor(xp.asarray(x.array).copy()) for x in inputs]
        self.slots = Slots(xp)
        self.kept: list[Array] = []  # the frozen weights: kept alive, since the graph reads them
        self._made: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()  # by id: the step's results
        outer = this_thread.run
        this_thread.run = functools.partial(self._keep, outer)  # this thread's only
        try:
            self.graph, self.outputs = owner.record(self.slots, self._key, *self.inputs)
        finally:
            this_thread.run = outer

    def replay(self, inputs: tuple[Tensor, ...]) -> Any:
        for place, x in zip(self.inputs, inputs, strict=True):
            if array_module(x.array) is array_module(place.array):
                place.array[...] = x.array
            else:
                place.array.set(x.array)
        self.slots.refresh()
        self.graph.launch()
        return self.outputs

    def _key(self) -> Array:
        """A dropout key that is drawn again for each replay, in the same order as in an ordinary step."""
        return live(backend.cupy(), backend.next_key, (), "uint64")

    def _keep(self, run: Callable[..., Any], op: Op, /, *inputs: Any, **options: Any) -> Any:
        """Run an op, and keep its inputs alive, except those that the step itself computes."""
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
    """Make `step(*tensors)`, which trains with `optimizer` and returns tensors, run as a CUDA graph.

    For inputs of each shape the first call is an ordinary step, the second records a CUDA graph and launches it, and every
    further one copies its inputs into place and launches it again: the numbers are the same, dropout and learning rates
    included. A step must not read values (`.item()`, `if loss > 1`), since nothing is computed during capture: return
    tensors and read them afterwards. Frozen weights must not be replaced.

    Raises RuntimeError without nvmath-python, whose matrix products can be captured, and for optimizers other than Adam and
    AdamW.
    """
    if not isinstance(optimizer, Adam):
        raise RuntimeError(f"a step with {type(optimizer).__name__} cannot be captured: use Adam or AdamW")
    backend.cupy()
    if cublas_lt() is None:
        raise RuntimeError("capturing a step needs nvmath-python: pip install 'tinylora[cuda13]' (or cuda12)")
    return Captured(step, optimizer)


def can_capture(device: backend.device) -> bool:
    """Whether `capture` works for tensors on `device`."""
    return device == "cuda" and cublas_lt() is not None


def _each(out: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(out, Tensor):
        return function(out)
    return type(out)(_each(x, function) for x in out) if isinstance(out, tuple | list) else out
