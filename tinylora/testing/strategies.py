"""Hypothesis strategies: shapes, arrays with unusual strides, and sizes of LoRA layers.

>>> from hypothesis import given
>>> from tinylora.testing.strategies import arrays, shapes
>>> @given(arrays(shapes()))
... def test_abs_is_never_negative(x):
...     assert (abs(x) >= 0).all()
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise ImportError("tinylora.testing.strategies needs hypothesis: pip install 'tinylora[test]'") from error

Shape = tuple[int, ...]
Elements = Callable[[np.random.Generator, Shape], np.ndarray]

LAYOUTS = ("contiguous", "transposed", "strided", "reversed", "broadcast")


def shapes(min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> st.SearchStrategy[Shape]:
    """Shapes, 0-d and zero-size ones among them."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcastable(count: int = 2, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> st.SearchStrategy[Any]:
    """Tuples of `count` shapes that broadcast against each other."""
    found = hnp.mutually_broadcastable_shapes(
        num_shapes=count, max_dims=max_dims, min_side=min_side, max_side=max_side, base_shape=()
    )
    return found.map(lambda drawn: drawn.input_shapes)


def uniform(low: float, high: float) -> Elements:
    """Elements for `arrays`, uniform in [low, high)."""
    return lambda rng, shape: rng.uniform(low, high, shape)


within_two = uniform(-2.0, 2.0)


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape],
    elements: Elements = within_two,
    layouts: tuple[str, ...] = LAYOUTS,
) -> np.ndarray:
    """float64 arrays of `shape` with one of the `layouts`.

    "transposed" has its axes in memory in reverse order, "strided" skips every other element, "reversed" has negative
    strides, and "broadcast" repeats its first row with stride 0.
    """
    shape = shape if isinstance(shape, tuple) else draw(shape)
    layout = draw(st.sampled_from(layouts))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def made(size: Shape) -> np.ndarray:
        return np.asarray(elements(rng, size))

    if layout == "transposed":
        return made(shape[::-1]).transpose()
    if layout == "strided":
        every_other: Any = (..., *[slice(0, 2 * n, 2) for n in shape])
        return made(tuple(2 * n for n in shape))[every_other]
    if layout == "reversed":
        backwards: Any = (..., *[slice(None, None, -1)] * len(shape))
        return made(shape)[backwards]
    if layout == "broadcast" and shape and shape[0]:
        return np.broadcast_to(made((1, *shape[1:])), shape)
    return made(shape)


@st.composite
def array_tuples(draw: st.DrawFn, count: int = 2, elements: Elements = within_two) -> tuple[np.ndarray, ...]:
    """`count` arrays whose shapes broadcast against each other."""
    return tuple(draw(arrays(shape, elements)) for shape in draw(broadcastable(count)))


def separated(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Elements for `arrays`, all at least 0.1 apart: for functions with a kink where elements are equal, such as max."""
    n = math.prod(shape)
    return (rng.permutation(n) * 0.2 - 0.1 * n + rng.uniform(0, 0.1)).reshape(shape)


class LoRASize(NamedTuple):
    """The arguments of a LoRALayer."""

    in_dim: int
    out_dim: int
    rank: int
    alpha: float


@st.composite
def lora_sizes(draw: st.DrawFn, max_side: int = 8) -> LoRASize:
    """Sizes at which swapped arguments show: never square, alpha neither the rank nor 1, rank at most the smaller side."""
    a, b = draw(st.lists(st.integers(1, max_side), min_size=2, max_size=2, unique=True))
    rank = draw(st.integers(1, min(a, b)))
    alpha = draw(st.sampled_from([0.5, 1.5, 2.0, 3.0, 7.0, 16.0]).filter(lambda value: value != rank))
    return LoRASize(a, b, rank, alpha)
