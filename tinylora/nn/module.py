"""Module: a tree of named parameters. (Reading path 4 of 6; next: models/gpt.py.)

Assigning a Parameter or a Module to an attribute registers it. A parameter's name is the path to it,
`trf_blocks.3.att.W_query.weight`, and errors raised in a forward pass start with the path of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from tinylora.nn import hooks
from tinylora.nn.count import ParameterCount, count_parameters
from tinylora.nn.extras import Extras
from tinylora.nn.state import LoadResult, load_state_dict, locate, move, own_state
from tinylora.tensor import Tensor


class Parameter(Tensor):
    """A Tensor that a Module lists among its parameters. Requires grad by default."""

    __slots__ = ()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise TypeError(f"a Parameter is made of a Tensor, not {type(data).__name__}")
        super().__init__(data.array, requires_grad)


class Module(Extras):
    """The base class of everything with parameters and a `forward`. Subclass it, and call `super().__init__()` first.

    >>> from tinylora import nn
    >>> class Two(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         return self.second(self.first(x))
    >>> [name for name, _ in Two().named_parameters()]
    ['first.weight', 'first.bias', 'second.weight', 'second.bias']
    """

    training: bool

    def __init__(self) -> None:
        # written to __dict__ directly, since __setattr__ reads these
        self.__dict__.update(_parameters={}, _buffers={}, _modules={}, _transient=set(), training=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return hooks.call(self, args, kwargs) if self.hooks else self.forward(*args, **kwargs)
        except Exception as error:
            locate(error, self)
            raise

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    @classmethod
    def forward_many(cls, layers: Sequence[Any], x: Tensor) -> list[Tensor]:
        """Outputs of several layers of this class for one x. A class whose layers can share work overrides it."""
        return [layer(x) for layer in layers]

    # ------------------------------------------------------------------------------ attributes
    def __setattr__(self, name: str, value: Any) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
        kind = "_parameters" if isinstance(value, Parameter) else "_modules" if isinstance(value, Module) else ""
        if not kind and name in self._buffers and (value is None or isinstance(value, Tensor)):
            kind = "_buffers"
        if not kind and name in self._parameters and value is not None:
            raise TypeError(f"{name!r} is a parameter: assign an nn.Parameter or None, not {type(value).__name__}")
        store = self.__dict__[kind] if kind else self.__dict__
        for other in (self._parameters, self._buffers, self._modules, self.__dict__):
            if other is not store:
                other.pop(name, None)
        store[name] = value  # a name assigned again keeps its position

    def __getattr__(self, name: str) -> Any:  # called for names that are not in __dict__
        for store in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(store, ()):
                return self.__dict__[store][name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for store in (self._parameters, self._buffers, self._modules, self.__dict__):
            if name in store:
                del store[name]
                return
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Register a parameter. None reserves the name, which then reads as None."""
        self._parameters[name] = parameter

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that is not a parameter but moves with the module; in the state_dict only if `persistent`."""
        self._buffers[name] = tensor
        if not persistent:
            self._transient.add(name)

    # ------------------------------------------------------------------------- walking the tree
    def named_modules(self, prefix: str = "", _seen: set[Module] | None = None) -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with the path to it."""
        seen = set() if _seen is None else _seen
        if self not in seen:
            seen.add(self)
            yield prefix, self
            for name, child in self.named_children():
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def named_tensors(self, store: str, prefix: str = "") -> Iterator[tuple[str, Any, Module]]:
        """Path, tensor and owner of all entries of `store`, "_parameters" or "_buffers", here and below."""
        for path, module in self.named_modules(prefix):
            for name, tensor in module.__dict__[store].items():
                if tensor is not None:
                    yield (f"{path}.{name}" if path else name), tensor, module

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its path, or this module's own alone; one used in two places (tied) is listed once."""
        seen: set[int] = set()
        for path, parameter, owner in self.named_tensors("_parameters", prefix):
            if (recurse or owner is self) and not (remove_duplicate and id(parameter) in seen):
                seen.add(id(parameter))
                yield path, parameter

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        return ((path, buffer) for path, buffer, owner in self.named_tensors("_buffers", prefix) if recurse or owner is self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return iter([(name, child) for name, child in self._modules.items() if child is not None])

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def get_submodule(self, path: str) -> Module:
        """The module at a path such as "trf_blocks.3.att"."""
        for name in filter(None, path.split(".")):
            self = getattr(self, name)
        return self

    # --------------------------------------------------------------------- changing all of the tree
    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on every module, children before parents."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode: dropout is on. Calls `train` of every child, which may do more."""
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode: dropout is off."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set requires_grad of every parameter: `model.requires_grad_(False)` freezes it."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or to zeros."""
        for parameter in [p for p in self._parameters.values() if p is not None]:
            parameter.grad = None if set_to_none or parameter.grad is None else parameter.grad * 0
        for child in self.children():
            child.zero_grad(set_to_none)

    def to(self, *where: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Self:
        """Move every parameter and buffer to a device, cast the floating-point ones to a dtype, or both."""
        move(self, where, dtype, device)
        return self

    def double(self) -> Self:
        return self.to(np.float64)

    def float(self) -> Self:
        return self.to(np.float32)

    # ------------------------------------------------------------------- saving, counting, printing
    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Every parameter and persistent buffer by path; the tensors share memory with the module.

        Calls `state_dict` of every child with the dictionary so far as `destination`, and the path to it as `prefix`. With
        `keep_vars` the parameters themselves, otherwise detached.
        """
        state = {} if destination is None else destination
        for name, tensor in own_state(self, prefix):
            state[prefix + name] = tensor if keep_vars else tensor.detach()
        for name, child in self.named_children():
            child.state_dict(destination=state, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return state

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> LoadResult:
        """Copy `state` into the parameters, keeping their dtype and device. Returns (missing_keys, unexpected_keys).

        Raises RuntimeError that lists every missing, unexpected and mis-shaped name; nothing is loaded then.
        With strict=False only shapes must fit.
        """
        return load_state_dict(self, state, strict)

    def summary(self) -> ParameterCount:
        """Count parameters by base / LoRA / head and trainable / frozen, tied ones once; prints as a table."""
        return count_parameters(self)

    def extra_repr(self) -> str:
        """The arguments that the repr of the module shows, for modules without children."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        inside = [line for line in [self.extra_repr(), *children] if line]
        return f"{type(self).__name__}(\n  " + "\n  ".join(inside) + "\n)"


def fan_out(x: Tensor, *layers: Module) -> list[Tensor]:
    """[layer(x) for layer in layers]. Layers of one class may share the work: see `Module.forward_many`.

    >>> from tinylora import nn, randn
    >>> [y.shape for y in fan_out(randn(2, 4), nn.Linear(4, 3), nn.Linear(4, 5))]
    [(2, 3), (2, 5)]
    """
    kind = type(layers[0])
    alike = all(type(layer) is kind and "forward" not in vars(layer) and not layer.hooks for layer in layers)
    return (kind if alike else Module).forward_many(layers, x)
