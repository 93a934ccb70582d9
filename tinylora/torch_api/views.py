"""Tensors that share memory, and what a write into one of them means for the graphs of the others.

A **view** knows its root, the tensor whose memory it shows, and the ops that lead from there. The root knows its views,
weakly. Inside a graph, a write into a view is an op on the root, `root with the part replaced`; afterwards the root has a
new node, and so have its other views.
"""

from __future__ import annotations

import weakref
from typing import Any

from tinylora.backend import Array, array_module, overwrite, owner
from tinylora.op import Op
from tinylora.tensor import Node, Tensor, grad_enabled, record, sum_to

Steps = tuple[tuple[Op, dict[str, Any]], ...]


class Family:
    """The `alias` of a root: its views, by id."""

    __slots__ = ("views",)

    def __init__(self) -> None:
        self.views: dict[int, weakref.ref[Tensor]] = {}

    def add(self, view: Tensor) -> None:
        key, views = id(view), self.views
        views[key] = weakref.ref(view, lambda _: views.pop(key, None))


class View:
    """The `alias` of a view: its root, and the ops that lead from there."""

    __slots__ = ("root", "steps")

    def __init__(self, root: Tensor, steps: Steps) -> None:
        self.root = root
        self.steps = steps


def view(op: Op, input: Tensor, **options: Any) -> Tensor:
    """op(input), and if the result lies in the memory of `input`, a view of it."""
    made = record(op, input, **options)
    base = input.array.base
    if made.array.base is not (input.array if base is None else base) and owner(made.array) is not owner(input.array):
        return made  # a copy: there is no view in this order of the elements
    alias = input.alias
    root, steps = (alias.root, alias.steps) if type(alias) is View else (input, ())
    if root.alias is None:
        root.alias = Family()
    made.alias = View(root, (*steps, (op, options)))
    root.alias.add(made)
    return made


def root_of(input: Tensor) -> Tensor:
    """The tensor that `input` is a view of, or itself."""
    return input.alias.root if type(input.alias) is View else input


def tracked(input: Tensor, *others: Any) -> bool:
    """Whether a write of what is computed from `others` into `input` belongs to a graph."""
    nodes = (input.node, root_of(input).node, *(x.node for x in others if isinstance(x, Tensor)))
    return grad_enabled() and any(node is not None for node in nodes)


def assign(input: Tensor, value: Any, node: Node | None = None, derived: bool = False) -> Tensor:
    """Write `value`, an array or a number, into the memory of `input`. `node` is the place of the value in the graph.

    If the value is not `derived` from `input`, what that was computed from gets zeros as its gradient. Raises RuntimeError
    for a leaf that requires grad, or a view of one, outside of no_grad.
    """
    root = root_of(input)
    if not grad_enabled() or (node is None and input.node is None and root.node is None):
        overwrite(input.array, value)
        return input
    for x, what in ((input, "a leaf tensor that requires grad"), (root, "a view of a leaf tensor that requires grad")):
        if x.node is not None and x.is_leaf:
            raise RuntimeError(f"{what} cannot be changed in place outside no_grad()")
    overwrite(input.array, value)
    if root is input:
        edges = [(node, _same)] if node is not None else []
        edges += [(root.node, _zeros)] if root.node is not None and not derived else []
        root.node = Node(root.shape, tuple(edges))
    else:
        root.node = _with_part(root, input.alias.steps, root.node, node)
    for ref in list(root.alias.views.values()) if type(root.alias) is Family else ():
        other = ref()
        if other is not None:
            other.node = (
                node if other is input and node else Node(other.shape, ((root.node, _vjp(root, other.alias.steps)),))
            )
    return input


def _same(g: Array) -> Array:
    return g


def _zeros(g: Array) -> Array:
    return array_module(g).zeros(g.shape, g.dtype)


def _part(array: Array, steps: Steps) -> Array:
    """What the ops of a view make of an array."""
    for op, options in steps:
        array = op.definition(array_module(array), array, **options)[0]
    return array


def _vjp(root: Tensor, steps: Steps) -> Any:
    """From the gradient of a view to that of its root: through the ops, last to first."""
    array, back = root.array, []
    for op, options in steps:
        shape = array.shape
        array, (vjp,) = op.definition(array_module(array), array, **options)
        back.append((vjp, shape))

    def d_root(g: Array) -> Array:
        for vjp, shape in reversed(back):
            g = sum_to(vjp(g), shape)
        return g

    return d_root


def _with_part(root: Tensor, steps: Steps, before: Node | None, part: Node | None) -> Node:
    """The node of the root with a part replaced: the part gets its gradient there, and what was there before gets none."""

    def d_part(g: Array) -> Array:
        return _part(g, steps)

    def d_before(g: Array) -> Array:
        return _without(array_module(g).array(g, order="C"), steps)

    edges = [(part, d_part)] if part is not None else []
    edges += [(before, d_before)] if before is not None else []
    return Node(root.shape, tuple(edges))


def _without(d: Array, steps: Steps) -> Array:
    """d, an array in row order, with zeros in the part that `steps` lead to."""
    part = _part(d, steps)
    if owner(part) is owner(d):
        part[...] = 0
    else:  # no view in this memory layout: find the part by the numbers of its elements
        d.reshape(-1)[_part(array_module(d).arange(d.size).reshape(d.shape), steps)] = 0
    return d
