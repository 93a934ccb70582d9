"""Sequential, and lists and dictionaries of modules or parameters, with PyTorch's methods and repr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from tinylora.nn.module import Module, Parameter
from tinylora.tensor import Tensor


class _List(Module):
    """The common base of Sequential and ModuleList: children named "0", "1", .."""

    def __init__(self, modules: Iterable[Module]) -> None:
        super().__init__()
        self.extend(modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def _name(self, i: int) -> str:
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range: {type(self).__name__} holds {len(self)} modules")
        return list(self._modules)[i]

    def __getitem__(self, i: int | slice) -> Any:
        return type(self)(*_packed(self, list(self)[i])) if isinstance(i, slice) else self._modules[self._name(i)]

    def __setitem__(self, i: int, module: Module) -> None:
        setattr(self, self._name(i), module)

    def __delitem__(self, i: int | slice) -> None:
        kept = list(self)
        del kept[i if isinstance(i, slice) else list(self._modules).index(self._name(i))]
        self._fill(kept)

    def _fill(self, modules: Iterable[Module]) -> None:
        self._modules.clear()
        self.extend(modules)

    def append(self, module: Module) -> Self:
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at `index`."""
        modules = list(self)
        modules.insert(index, module)
        self._fill(modules)
        return self

    def pop(self, index: int = -1) -> Module:
        """Remove the module at `index`, and return it."""
        module = self[index]
        del self[index]
        return module


def _packed(kind: _List, modules: list[Module]) -> Sequence[Any]:
    return modules if isinstance(kind, Sequential) else [modules]


class Sequential(_List):
    """Modules applied one after the other: `Sequential(Linear(4, 3), ReLU())`, or from a dict of names."""

    def __init__(self, *modules: Any) -> None:
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else {}
        super().__init__(() if named else modules)
        for name, module in named.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = module(x)
        return x


class ModuleList(_List):
    """A list of registered modules. It has no forward: index it or iterate over it."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__(modules or ())


class ModuleDict(Module):
    """A dictionary of registered modules.

    >>> from tinylora import nn
    >>> choices = nn.ModuleDict({"relu": nn.ReLU(), "out": nn.Linear(4, 2)})
    >>> list(choices), len(list(choices["out"].parameters()))
    (['relu', 'out'], 2)
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        for name, module in modules.items() if isinstance(modules, Mapping | ModuleDict) else modules:
            self[name] = module

    def __getitem__(self, name: str) -> Any:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> Any:
        return self._modules.keys()

    def values(self) -> Any:
        return self._modules.values()

    def items(self) -> Any:
        return self._modules.items()

    def pop(self, name: str) -> Module:
        """Remove a module, and return it."""
        return self._modules.pop(name)

    def clear(self) -> None:
        self._modules.clear()


class ParameterDict(Module):
    """A dictionary of registered parameters. A plain Tensor becomes a Parameter."""

    def __init__(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] | None = None) -> None:
        super().__init__()
        self.update(parameters or {})

    def update(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        for name, value in parameters.items() if isinstance(parameters, Mapping | ParameterDict) else parameters:
            self[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._parameters[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, value if isinstance(value, Parameter) else Parameter(value))

    def __delitem__(self, name: str) -> None:
        del self._parameters[name]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def keys(self) -> Any:
        return self._parameters.keys()

    def values(self) -> Any:
        return self._parameters.values()

    def items(self) -> Any:
        return self._parameters.items()

    def extra_repr(self) -> str:
        return _listed(self._parameters)


class ParameterList(Module):
    """A list of registered parameters. A plain Tensor becomes a Parameter."""

    def __init__(self, values: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def append(self, value: Tensor) -> Self:
        self.register_parameter(str(len(self)), value if isinstance(value, Parameter) else Parameter(value))
        return self

    def extend(self, values: Iterable[Tensor]) -> Self:
        for value in values:
            self.append(value)
        return self

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parameters.values())

    def __getitem__(self, i: int | slice) -> Any:
        return ParameterList(list(self)[i]) if isinstance(i, slice) else list(self)[i]

    def __setitem__(self, i: int, value: Tensor) -> None:
        self.register_parameter(list(self._parameters)[i], value if isinstance(value, Parameter) else Parameter(value))

    def extra_repr(self) -> str:
        return _listed(self._parameters)


def _listed(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"({name}): {p.dtype} {p.shape}" for name, p in parameters.items() if p is not None)
