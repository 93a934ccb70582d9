"""The Tensor, the graph it records, and the walk back. (Reading path 3 of 6; next: nn/module.py.)

A Tensor holds an array. If a gradient flows through it, it also holds a **Node**, and a node holds **edges**: for each
input that needs a gradient, the input's node and the vjp that leads there. Nothing else is recorded. A frozen weight has
no node, so no edge leads to it, its vjp is dropped at once, and whatever array only that vjp needed is freed.

Edges point to nodes and never to Tensors, so an activation is freed as soon as no vjp needs it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylora.backend import (
    Array,
    Switch,
    array_module,
    check_unchanged,
    device,
    device_of,
    full,
    is_floating,
    overwrite,
    owner,
    total,
    writes,
)
from tinylora.op import Op, every_dtype, this_thread

if TYPE_CHECKING:
    from tinylora.torch_api.methods import TensorMethods  # PyTorch's methods and operators, attached when it is imported
else:
    TensorMethods = object

Vjp = Callable[..., Array]


class Node:
    """A place in the graph where a gradient arrives: of an op's output (edges), or of a leaf (the Tensor).

    If an op has several outputs, each has a node of its own, whose one edge leads to the op's. Its gradient is a
    dictionary, from the number of an output to its gradient, and `shape` is None.
    """

    __slots__ = ("__weakref__", "edges", "leaf", "made", "shape")

    def __init__(self, shape: tuple[int, ...] | None, edges: tuple[tuple[Node, Vjp], ...], leaf: Any = None) -> None:
        self.shape = shape
        self.edges: tuple[tuple[Node, Vjp], ...] | None = edges  # None: backward has passed, arrays are freed
        self.leaf = weakref.ref(leaf) if leaf is not None else None  # its .grad accumulates; a weak reference avoids a cycle
        self.made = writes.count  # what the vjps hold must not be written to from now on


class Tensor(TensorMethods):
    """An array that remembers how it was computed. Made by `tinylora.tensor(data)`, never by hand.

    `array` is the NumPy or CuPy array, `node` its place in the graph or None, `grad` a Tensor once `backward()` ran.

    >>> import tinylora
    >>> x = tinylora.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    array: Array
    __slots__ = ("__weakref__", "alias", "array", "grad", "node")
    __array_ufunc__ = None  # makes numpy_scalar * tensor call Tensor.__rmul__

    def __init__(self, array: Array, requires_grad: bool = False, node: Node | None = None) -> None:
        self.array = np.asarray(array) if isinstance(array, np.generic) else array
        self.grad: Tensor | None = None
        self.node = node
        self.alias: Any = None  # what else is in this memory: see torch_api/views.py
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if not self.is_leaf:
            raise RuntimeError("requires_grad can be changed on leaf tensors only; use .detach() to cut the graph here")
        if wanted and not is_floating(self.array.dtype):
            raise RuntimeError(f"only floating-point tensors can require gradients, and this one is {self.array.dtype}")
        if wanted != self.requires_grad:
            self.node = Node(self.array.shape, (), leaf=self) if wanted else None

    @property
    def is_leaf(self) -> bool:
        return self.node is None or self.node.leaf is not None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def device(self) -> device:
        return device_of(self.array)

    def detach(self) -> Tensor:
        """The same values without a graph, in the same memory."""
        return Tensor(self.array)

    def backward(self, gradient: Tensor | None = None, retain_graph: bool = False) -> None:
        """Add dL/dx to `x.grad` for every leaf x below this tensor L, which is a scalar unless `gradient` is given.

        Frees the graph as it goes; `retain_graph=True` keeps it for a second walk.
        """
        if self.node is None:
            raise RuntimeError("backward() on a tensor that requires no grad: nothing it was computed from does")
        if gradient is None and self.array.size != 1:
            raise RuntimeError(f"backward() needs a scalar, and this has shape {self.shape}: reduce it, or pass gradient")
        g = full(self.shape, 1.0, self.dtype, self.device) if gradient is None else gradient.array.astype(self.dtype)
        if g.shape != self.shape:
            raise RuntimeError(f"the gradient has shape {g.shape}, the tensor {self.shape}")
        _walk(self.node, g, retain_graph)


# --------------------------------------------------------------------------------------- going forward
@np.errstate(all="ignore")  # inf and NaN are valid results, as in PyTorch
def record(op: Op, *inputs: Any, **options: Any) -> Any:
    """Run `op` on Tensors and plain values, and keep an edge to each input that needs a gradient.

    Returns a Tensor, or a tuple of them if the op has several outputs.
    """
    out, vjps = this_thread.run(op, *[x.array if isinstance(x, Tensor) else x for x in inputs], **options)
    edges = [
        (x.node, vjp)
        for x, vjp in zip(inputs, vjps, strict=True)
        if isinstance(x, Tensor) and x.node is not None and vjp is not None and _mode.grad
    ]
    if isinstance(out, tuple):
        node = Node(None, tuple(edges)) if edges else None
        return tuple(Tensor(part, node=node and _node_of_output(i, part, node)) for i, part in enumerate(out))
    return Tensor(out, node=Node(out.shape, tuple(edges)) if edges else None)


def _node_of_output(i: int, part: Array, node: Node) -> Node:
    return Node(part.shape, ((node, lambda g: {i: g}),))


# ------------------------------------------------------------------------------------------ going back
hooks: weakref.WeakKeyDictionary[Node, list[Callable[[Array], Array]]] = (
    weakref.WeakKeyDictionary()
)  # see torch_api/hooks.py


@np.errstate(all="ignore")
def _walk(root: Node, gradient: Array, retain_graph: bool) -> None:
    """Visit every node below `root` once, after all nodes above it, and send its gradient down its edges."""
    gradients: dict[Node, Any] = {root: gradient}
    collected: dict[int, tuple[Array, ...]] = {}
    order = _inputs_first(root)
    _mode.walks += 1
    try:
        for node in reversed(order):
            g = gradients.pop(node)
            for hook in hooks.get(node, ()) if hooks else ():
                g = hook(g)
            if node.leaf is not None:
                _collect(node.leaf(), g, collected)
                continue
            if node.made != writes.count:  # something was written to since
                check_unchanged([vjp for _, vjp in node.edges or ()], node.made)
            for below, vjp in node.edges or ():
                if below.shape is None:
                    gradients[below] = gradients.get(below, {}) | vjp(g)
                elif below in gradients:  # a gradient arrived by another edge: they are added
                    gradients[below] = accumulate(gradients[below], g, vjp, below.shape)[0]
                else:
                    gradients[below] = sum_to(vjp(g), below.shape)
            if not retain_graph:
                node.edges = None  # frees what the vjps kept, so memory falls during the walk
    finally:
        _mode.walks -= 1


@every_dtype
def accumulate(xp, so_far, g, vjp, shape):
    """so_far + dL/dx, where x (of `shape`) was used several times, and dL/dx = vjp(g) comes from one of its uses."""
    return so_far + sum_to(vjp(g), shape), (None,) * 4


def sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting: sum g to the `shape` of the input. (Ops leave this to the engine.)"""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    copied = tuple(i for i in range(g.ndim) if i < lead or (shape[i - lead] == 1 and g.shape[i] != 1))
    return total(g, copied).reshape(shape)


def _inputs_first(root: Node) -> list[Node]:
    """All nodes below `root`, each after its inputs (depth first, without recursion: chains may be long)."""
    order: list[Node] = []
    seen = {root}
    path = [(root, iter(_edges(root)))]
    while path:
        node, edges = path[-1]
        for below, _ in edges:
            if below not in seen:
                seen.add(below)
                path.append((below, iter(_edges(below))))
                break
        else:
            order.append(node)
            path.pop()
    return order


def _edges(node: Node) -> tuple[tuple[Node, Vjp], ...]:
    if node.edges is None:
        raise RuntimeError("backward() a second time through a freed graph: pass retain_graph=True the first time")
    return node.edges


def _collect(leaf: Tensor | None, g: Array, collected: dict[int, tuple[Array, ...]]) -> None:
    """Add g to leaf.grad, in memory that no other element and no other leaf's gradient shares.

    `collected` has this walk's gradients by the id of the array that owns their memory.
    """
    if leaf is None or leaf.node is None:
        return  # the leaf was deleted, or frozen since
    if g.shape != leaf.shape:
        raise RuntimeError(f"a gradient of shape {g.shape} for a tensor that has the shape {leaf.shape} by now")
    if leaf.grad is not None:
        leaf.grad.array = _added(leaf.grad.array, g)
        return
    whole = owner(g)
    others = collected.get(id(whole), ())
    if 0 in getattr(g, "strides", ()) or (others and any(array_module(g).may_share_memory(g, other) for other in others)):
        g = g.copy()
    collected[id(whole)] = (*others, g)  # stored for copies too: keeps the owner alive, so its id stays unique
    leaf.grad = Tensor(g)


def _added(so_far: Array, g: Array) -> Array:
    """so_far + g, in the memory of so_far; in a walk inside another, which may still read that memory, in its own."""
    if _mode.walks > 1:
        return so_far + g
    overwrite(so_far, so_far + g)
    return so_far


# ------------------------------------------------------------------------------------------- switching
class _Mode(threading.local):
    """Settings of the current thread."""

    grad = True  # False under no_grad
    walks = 0  # how many walks are going on: a vjp of `checkpoint` starts one of its own


_mode = _Mode()


def grad_enabled() -> bool:
    return _mode.grad


class no_grad(Switch):
    """Inside this block, or a function decorated with it, nothing is recorded by the current thread."""

    recorded = False

    def change(self) -> bool:
        before, _mode.grad = _mode.grad, self.recorded
        return before

    def restore(self, before: bool) -> None:
        _mode.grad = before
