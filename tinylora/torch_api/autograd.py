"""torch.autograd: gradients of chosen tensors (`grad`), and operations with a backward of one's own (`Function`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinylora.backend import Array, full
from tinylora.op import once
from tinylora.tensor import Node, Tensor, _inputs_first, _node_of_output, grad_enabled, no_grad
from tinylora.torch_api.hooks import register_hook


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` with respect to each of `inputs`. No `.grad` is changed.

    >>> import tinylora
    >>> x = tinylora.tensor(3.0, requires_grad=True)
    >>> tinylora.autograd.grad(x * x, x)
    (tensor(6.),)

    Raises RuntimeError for an input that the outputs do not depend on, unless allow_unused, and NotImplementedError for
    create_graph: there are no gradients of gradients here.
    """
    if create_graph:
        raise NotImplementedError("autograd.grad: create_graph=True is not available: there are no gradients of gradients")
    tops = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if any(x.node is None for x in wanted):
        raise RuntimeError("autograd.grad: an input does not require grad")
    given = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs or [None] * len(tops))
    found: list[Tensor | None] = [None] * len(wanted)
    nodes = [node for y in tops if y.node is not None for node in _inputs_first(y.node)]
    leaves = [leaf for node in nodes if node.leaf is not None and (leaf := node.leaf()) is not None]
    before = [leaf.grad for leaf in leaves]

    def keep(i: int) -> Any:
        def hook(g: Tensor) -> None:
            so_far = found[i]
            found[i] = Tensor(g.array.copy()) if so_far is None else so_far + g

        return hook

    handles = [register_hook(x, keep(i)) for i, x in enumerate(wanted)]
    try:
        for i, (y, g) in enumerate(zip(tops, given, strict=True)):
            y.backward(g, retain_graph=bool(retain_graph) or i + 1 < len(tops))
    finally:
        for handle in handles:
            handle.remove()
        for leaf, grad_before in zip(leaves, before, strict=True):
            leaf.grad = grad_before
    if not allow_unused and any(g is None for g in found):
        raise RuntimeError("autograd.grad: the outputs do not depend on an input: pass allow_unused=True for None")
    return tuple(found)


def backward(tensors: Tensor | Sequence[Tensor], grad_tensors: Any = None, retain_graph: bool = False) -> None:
    """`backward()` of each tensor."""
    tops = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    given = [grad_tensors] if isinstance(grad_tensors, Tensor) else list(grad_tensors or [None] * len(tops))
    for i, (y, g) in enumerate(zip(tops, given, strict=True)):
        y.backward(g, retain_graph=retain_graph or i + 1 < len(tops))


def Variable(data: Tensor, requires_grad: bool = False) -> Tensor:
    """The tensor, as before PyTorch 0.4 a Variable held it."""
    return data.requires_grad_() if requires_grad else data


class Context:
    """What the two halves of a Function share. Attributes may be set freely."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Accepted: `backward` decides which gradients are None."""


class Function:
    """An operation whose backward is written by hand: subclass with static methods, and call `Name.apply(..)`.

    >>> import tinylora
    >>> class Rounded(tinylora.autograd.Function):  # a straight-through estimator
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return x.round()
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         return g
    >>> x = tinylora.tensor([0.4, 1.6], requires_grad=True)
    >>> Rounded.apply(x).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        raise NotImplementedError("a Function defines a static forward(ctx, ..)")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("a Function defines a static backward(ctx, ..)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        needs = tuple(isinstance(x, Tensor) and x.requires_grad and grad_enabled() for x in args)
        ctx = Context(needs)
        with no_grad():
            out = cls.forward(ctx, *args)
        if not any(needs):
            return out
        outputs = list(out) if isinstance(out, tuple) else [out]

        def gradients(g: Any) -> list[Any]:
            some = g if isinstance(out, tuple) else {0: g}
            zeros = [full(y.shape, 0.0, y.dtype, y.device) if i not in some else some[i] for i, y in enumerate(outputs)]
            with no_grad():
                found = cls.backward(ctx, *map(Tensor, zeros))
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(args):
                raise RuntimeError(f"{cls.__name__}.backward returned {len(found)} gradients for {len(args)} inputs")
            return [None if part is None else part.array for part in found]

        shared = once(gradients)
        edges = tuple((x.node, _vjp(shared, i, x)) for i, x in enumerate(args) if needs[i])
        if not isinstance(out, tuple):
            return Tensor(out.array, node=Node(out.shape, edges))
        node = Node(None, edges)
        return tuple(Tensor(y.array, node=_node_of_output(i, y.array, node)) for i, y in enumerate(outputs))


def _vjp(shared: Any, i: int, x: Tensor) -> Any:
    shape, dtype, device = x.shape, x.dtype, x.device

    def vjp(g: Any) -> Array:
        found = shared(g)[i]
        return full(shape, 0.0, dtype, device) if found is None else found

    return vjp
