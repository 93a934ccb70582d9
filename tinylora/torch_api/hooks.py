"""Tensor.register_hook and retain_grad: what is called, or kept, when the gradient of a tensor is complete."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from tinylora.backend import Array
from tinylora.tensor import Tensor, hooks


class Handle:
    """What registering a hook returns: `remove()` takes the hook away, as does the end of a `with` block."""

    def __init__(self, entries: list[Any], entry: Any) -> None:
        self._entries, self._entry = entries, entry

    def remove(self) -> None:
        self._entries[:] = [kept for kept in self._entries if kept is not self._entry]

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def register_hook(input: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Handle:
    """Call hook(dL/dinput) in each backward, once the gradient is complete; a tensor that it returns takes its place.

    >>> import tinylora
    >>> x = tinylora.ones(3, requires_grad=True)
    >>> handle = x.register_hook(lambda g: g * 10)
    >>> (2 * x).sum().backward()
    >>> x.grad
    tensor([20., 20., 20.])
    """
    if input.node is None:
        raise RuntimeError("register_hook: the tensor requires no grad, so no gradient will arrive")

    def changed(g: Array) -> Array:
        new = hook(Tensor(g))
        if new is None:
            return g
        if new.shape != g.shape:
            raise RuntimeError(f"register_hook: the hook returned shape {new.shape} for a gradient of shape {g.shape}")
        return new.array

    entries = hooks.setdefault(input.node, [])
    entries.insert(len(entries) - _keeps(entries), changed)  # what is kept is the gradient after all hooks
    return Handle(entries, changed)


def _keeps(entries: list[Any]) -> bool:
    """Is the last hook that of `retain_grad`?"""
    return bool(entries) and getattr(entries[-1], "keeps", False)


def retain_grad(input: Tensor) -> None:
    """Keep the gradient of a computed tensor in its `.grad`, as leaves do."""
    if input.node is None:
        raise RuntimeError("retain_grad: the tensor requires no grad, so no gradient will arrive")
    if input.is_leaf or _keeps(hooks.get(input.node, [])):
        return
    here = weakref.ref(input)  # the node must not keep the tensor

    def keep(g: Array) -> Array:
        if (tensor := here()) is not None:
            tensor.grad = Tensor(g.copy() if tensor.grad is None else tensor.grad.array + g)
        return g

    keep.keeps = True  # type: ignore[attr-defined]
    hooks.setdefault(input.node, []).append(keep)
