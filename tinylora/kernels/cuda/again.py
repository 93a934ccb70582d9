"""Arrays that backward computes again instead of keeping, and arrays that may be overwritten.

The input of a LoRA layer is often cheap to compute from what is kept anyway: a norm's output from its input, a gated
product from its factors. The op that computes such an array says so with `cheap`; an op that needs the array for its
backward asks `kept` for it, and does not hold it.

A gradient that an op hands over and does not use again may be overwritten by the op that receives it: `spare` marks it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

Compute = Callable[..., Any]  # compute(g=None) -> the array

_recipes: dict[int, tuple[weakref.ref[Any], Compute]] = {}  # by the id of the array that each computes
_spare: dict[int, weakref.ref[Any]] = {}


def cheap(x: Any, compute: Compute) -> Any:
    """x, which `compute(g=None)` returns again, g the gradient of x if it is known. `compute` must not refer to x."""
    _recipes[id(x)] = weakref.ref(x, lambda _, i=id(x): _recipes.pop(i, None)), compute  # type: ignore[misc]
    return x


class Kept(NamedTuple):
    """An array that backward needs: `compute(g=None)` returns it. If it is `cheap`, its op reads gradients whose rows are
    apart in memory as they are."""

    compute: Compute
    cheap: bool


def kept(x: Any) -> Kept:
    """x for backward: computed again if that is cheap, else held."""
    found = _recipes.get(id(x))
    return Kept(found[1], True) if found and found[0]() is x else Kept(lambda g=None: x, False)


def spare(x: Any) -> Any:
    """x, which nobody but the receiver will read."""
    _spare[id(x)] = weakref.ref(x, lambda _, i=id(x): _spare.pop(i, None))  # type: ignore[misc]
    return x


def is_spare(x: Any) -> bool:
    """Whether x may be overwritten. True once: the mark is removed."""
    found = _spare.pop(id(x), None)
    return found is not None and found() is x
