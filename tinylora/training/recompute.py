"""Activation checkpointing: keeps only a part's inputs, and recomputes the rest during backward.

A block of a GPT keeps some sixteen arrays of its input's size for the backward pass. Recomputed, it keeps the input alone,
and a step costs one more forward pass. Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tinylora.backend import Array, array_module, keys_from, next_key
from tinylora.nn import Module
from tinylora.op import Op, once, this_thread
from tinylora.tensor import Node, Tensor
from tinylora.torch_api.modes import enable_grad


def checkpoint(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), keeping only the inputs: backward calls the function again.

    Parameters that the function uses get their gradients whether or not an input requires one, and dropout draws the same
    masks the second time. The function has to do the same both times, and return one Tensor: TypeError otherwise.

    >>> import tinylora
    >>> w = tinylora.ones(3, requires_grad=True)
    >>> tinylora.checkpoint(lambda x: (x * w).tanh(), tinylora.zeros(3)).sum().backward()
    >>> w.grad
    tensor([0., 0., 0.])
    """
    keys: list[Any] = []

    def noted_key() -> Any:
        keys.append(next_key())
        return keys[-1]

    with keys_from(noted_key), _forgetting_vjps():
        out = function(*inputs)
    if not isinstance(out, Tensor):
        raise TypeError(f"checkpoint: the function has to return one Tensor, not {type(out).__name__}")
    if out.node is None:  # no parameter that is trained was used
        return out

    def gradients(g: Array) -> list[Array]:
        """Gradients of the inputs. Those of parameters inside are added to their .grad as a side effect."""
        again = [Tensor(x.array, requires_grad=x.requires_grad) if isinstance(x, Tensor) else x for x in inputs]
        with enable_grad(), keys_from(functools.partial(next, iter(keys))):
            function(*again).backward(Tensor(g))
        return [getattr(getattr(x, "grad", None), "array", None) for x in again]

    recomputed = once(gradients)
    edges = [(x.node, _vjp(recomputed, i, x)) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.node is not None]
    if not edges:  # no input requires grad: an edge to an unused node, so that backward reaches this node
        edges = [(Node((), ()), lambda g: (recomputed(g), array_module(g).zeros((), g.dtype))[1])]
    return Tensor(out.array, node=Node(out.shape, tuple(edges)))


def checkpoint_modules(modules: Iterable[Module]) -> None:
    """Make each of these modules recompute its activations during backward.

    >>> import tinylora
    >>> checkpoint_modules(tinylora.load_model("nano").trf_blocks)
    """
    for module in modules:
        module.forward = functools.partial(_checkpointed, module.forward)  # type: ignore[method-assign]  # this module only


def _checkpointed(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`forward` with checkpointing, or without if an input is a cache: it may hold tensors that `checkpoint` cannot see."""
    if all(x is None or isinstance(x, Tensor) for x in inputs):
        return checkpoint(forward, *inputs)
    return forward(*inputs)


def _vjp(recomputed: Callable[[Array], list[Array]], i: int, x: Tensor) -> Callable[[Array], Array]:
    shape, dtype = x.shape, x.dtype

    def d_input(g: Array) -> Array:
        d = recomputed(g)[i]
        return array_module(g).zeros(shape, dtype) if d is None else d  # None: the function did not use it

    return d_input


@contextlib.contextmanager
def _forgetting_vjps() -> Iterator[None]:
    """Inside this block only `requires_grad` is tracked; nothing is kept for backward."""
    outer = this_thread.run

    def run(op: Op, /, *inputs: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
        out, vjps = outer(op, *inputs, **options)
        return out, tuple(None if vjp is None else _nothing for vjp in vjps)

    this_thread.run = run  # this thread's only
    try:
        yield
    finally:
        this_thread.run = outer


def _nothing(g: Array) -> Array:
    raise AssertionError("this graph is dropped before anybody walks it")
