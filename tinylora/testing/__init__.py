"""`gradcheck` compares the gradients of backward() with finite differences.

`tinylora.testing.strategies` has Hypothesis strategies for shapes, arrays and sizes of LoRA layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinylora.backend import default_device, device_of, to_device
from tinylora.nn import Module
from tinylora.op import Op
from tinylora.tensor import Tensor, no_grad, record

KINK = 1e-3  # a kink: the relative gap of left and right slope exceeds this and does not shrink with the step


class KinkError(AssertionError):
    """The function has no derivative here: its slopes to the left and to the right differ."""


class Leaf(NamedTuple):
    """An input to differentiate with respect to, and its name in messages."""

    name: str
    tensor: Tensor


class Problem(NamedTuple):
    """A function of no arguments, whose outputs depend on leaves."""

    name: str
    outputs: Callable[[], list[Tensor]]
    leaves: list[Leaf]


def gradcheck(
    fn: Callable[..., Any] | Op,
    inputs: Sequence[Any],
    /,
    *,
    step: float = 1e-6,
    tolerance: float = 1e-6,
    **options: Any,
) -> bool:
    """Compare the gradients of `fn(*inputs, **options)` with central differences (f(x + h) - f(x - h)) / 2h in float64.

    `fn` is a function of Tensors, an Op, or a Module, whose trainable parameters (in float64) are checked too. Floating
    arrays become float64 leaves; a Tensor is checked if it requires grad; all else is passed on. An input whose vjp is
    None is taken to be a constant. One random direction through all inputs is tried first, and the full Jacobian only
    if that disagrees.

    Returns True. Raises AssertionError that names function, input, index and both values; KinkError, an AssertionError
    as well, where left and right slopes differ and no gradient could be right.

    >>> import numpy as np
    >>> from tinylora import ops
    >>> from tinylora.testing import gradcheck
    >>> gradcheck(ops.gelu, [np.array([-1.0, 0.0, 2.0])])
    True
    """
    problem = _problem(fn, inputs, options)
    kept = [leaf.tensor.grad for leaf in problem.leaves]
    try:
        if not _direction_agrees(problem, step, tolerance):
            _check_jacobian(problem, step, tolerance)
    finally:
        for leaf, grad in zip(problem.leaves, kept, strict=True):
            leaf.tensor.grad = grad
    return True


# ------------------------------------------------------------------------------------------ what to check
def _problem(fn: Any, inputs: Sequence[Any], options: dict[str, Any]) -> Problem:
    vjps: Sequence[Any] = [True] * len(inputs)
    if isinstance(fn, Op):
        with np.errstate(all="ignore"):
            _, vjps = fn(*[x.array if isinstance(x, Tensor) else x for x in inputs], **options)
    taken = [_as_leaf(x) if vjp is not None else x for x, vjp in zip(inputs, vjps, strict=True)]
    leaves = [Leaf(f"input {i}", x) for i, x in enumerate(taken) if isinstance(x, Tensor) and x.requires_grad]
    if isinstance(fn, Module):
        leaves += [Leaf(f"parameter {path}", p) for path, p in fn.named_parameters() if p.requires_grad]
    for leaf in leaves:
        if leaf.tensor.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64, and {leaf.name} is {leaf.tensor.dtype}: use .double()")

    def outputs() -> list[Tensor]:
        y = record(fn, *taken, **options) if isinstance(fn, Op) else fn(*taken, **options)
        return [out for out in (y if isinstance(y, tuple | list) else [y]) if out.dtype.kind == "f"]

    name = fn.name if isinstance(fn, Op) else getattr(fn, "__name__", type(fn).__name__)
    return Problem(name, outputs, leaves)


def _as_leaf(x: Any) -> Any:
    """Floating arrays as float64 leaves that keep their strides; anything else as it is."""
    if getattr(getattr(x, "dtype", None), "kind", None) != "f" or isinstance(x, Tensor):
        return x
    return Tensor(to_device(np.asarray(x).astype(np.float64, copy=False), default_device()), requires_grad=True)


def _host(x: Tensor) -> np.ndarray:
    return to_device(x.array, "cpu")


# ------------------------------------------------------------------------------------------ two opinions
def _values(problem: Problem, shifts: dict[int, np.ndarray]) -> list[np.ndarray]:
    """The outputs with leaf i moved by shifts[i]."""
    originals = {i: problem.leaves[i].tensor.array for i in shifts}
    try:
        for i, shift in shifts.items():
            leaf = problem.leaves[i].tensor
            leaf.array = to_device(np.asarray(_host(leaf) + shift), device_of(leaf.array))
        with no_grad():
            return [_host(y) for y in problem.outputs()]
    finally:
        for i, data in originals.items():
            problem.leaves[i].tensor.array = data


def _backward(problem: Problem, outputs: list[Tensor], gradients: list[np.ndarray]) -> list[np.ndarray]:
    """The gradient of every leaf, for a gradient of every output."""
    for leaf in problem.leaves:
        leaf.tensor.grad = None
    for y, g in zip(outputs, gradients, strict=True):
        if y.requires_grad:
            y.backward(Tensor(to_device(g, y.device)), retain_graph=True)
    found = []
    for name, x in problem.leaves:
        d = np.zeros(x.shape) if x.grad is None else _host(x.grad)
        if d.shape != x.shape:
            raise AssertionError(f"{problem.name}: the gradient of {name} has shape {d.shape}, and the input {x.shape}")
        found.append(d)
    return found


def _direction_agrees(problem: Problem, step: float, tolerance: float) -> bool:
    """Check that the slope along one random direction is Σ gradient · direction."""
    rng = np.random.default_rng(0)
    outputs = problem.outputs()
    weights = [rng.standard_normal(y.shape) for y in outputs]
    direction = [rng.standard_normal(leaf.tensor.shape) for leaf in problem.leaves]
    gradients = _backward(problem, outputs, weights)
    analytic = sum(float((d * v).sum()) for d, v in zip(gradients, direction, strict=True))
    size = sum(float(np.abs(d * v).sum()) for d, v in zip(gradients, direction, strict=True))
    above = _values(problem, {i: step * v for i, v in enumerate(direction)})
    below = _values(problem, {i: -step * v for i, v in enumerate(direction)})
    with np.errstate(invalid="ignore"):
        numeric = sum(float((w * (a - b)).sum()) for w, a, b in zip(weights, above, below, strict=True)) / (2 * step)
    return abs(numeric - analytic) <= tolerance * (1 + min(size, abs(numeric)))


def _check_jacobian(problem: Problem, step: float, tolerance: float) -> None:
    """Compare d output / d input element by element, and raise at the first that differs."""
    outputs = problem.outputs()
    for o, y in enumerate(outputs):
        rows = []  # one per element of y: the gradient of every leaf
        for at in np.ndindex(y.shape):
            one_hot = [np.zeros(other.shape) for other in outputs]
            one_hot[o][at] = 1.0
            rows.append(_backward(problem, outputs, one_hot))
        for i, leaf in enumerate(problem.leaves):
            for index in np.ndindex(leaf.tensor.shape):
                left, right = _slopes(problem, i, index, o, step)
                for n, at in enumerate(np.ndindex(y.shape)):
                    analytic, numeric = float(rows[n][i][index]), float(left[at] + right[at]) / 2
                    if not abs(numeric - analytic) <= tolerance * (1 + abs(numeric)):
                        _judge(problem, i, index, o, at, analytic, step, tolerance)


def _slopes(problem: Problem, i: int, index: tuple[int, ...], o: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """How output o changes per unit of leaf i at `index`: to the left, and to the right."""
    shift = np.zeros(problem.leaves[i].tensor.shape)
    shift[index] = step
    below, here, above = (_values(problem, {i: sign * shift})[o] for sign in (-1.0, 0.0, 1.0))
    with np.errstate(invalid="ignore"):
        return (here - below) / step, (above - here) / step


def _judge(
    problem: Problem, i: int, index: tuple[int, ...], o: int, at: tuple[int, ...], analytic: float, step: float,
    tolerance: float,
) -> None:  # fmt: skip
    """Recheck one element with smaller steps. Raises KinkError at a kink, AssertionError for a wrong gradient."""
    name, x = problem.leaves[i]
    gaps, numeric = [], float("nan")
    for h in (step, step / 10):
        left, right = (float(side[at]) for side in _slopes(problem, i, index, o, h))
        numeric = (left + right) / 2
        if abs(numeric - analytic) <= tolerance * (1 + abs(numeric)):
            return
        gaps.append(abs(right - left) / (1 + abs(left) + abs(right)))
    place = f"{name} at index {index}, where it is {float(_host(x)[index]):.6g}"
    if gaps[1] > KINK and gaps[1] > gaps[0] / 2:  # for a smooth function the gap shrinks with the step
        slopes = f"slope {left:.6g} to the left and {right:.6g} to the right"
        raise KinkError(f"{problem.name}: a kink in {place}: {slopes}; check elsewhere")
    found = f"backward gives {analytic:.10g}, finite differences {numeric:.10g}"
    raise AssertionError(f"{problem.name}: wrong gradient of {place}: {found} (output {o}, index {at})")
