"""Methods of Module that a model does not need and programs written for PyTorch call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from tinylora.backend import bfloat16, device, float16
from tinylora.nn import hooks
from tinylora.tensor import Tensor
from tinylora.torch_api.hooks import Handle

if TYPE_CHECKING:
    from tinylora.nn.module import Module, Parameter


class Extras:
    """The base class of Module."""

    hooks: list[Any] = []  # noqa: RUF012  # replaced, not changed, when a module gets its first

    if TYPE_CHECKING:

        def to(self, *where: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Self: ...

    # ------------------------------------------------------------------------------------- by name
    def register_module(self: Any, name: str, module: Module | None) -> None:
        """Register a child. None reserves the name, which then reads as None."""
        if not name or "." in name:
            raise KeyError(f"a module's name cannot be {name!r}: it must not be empty or contain a dot")
        if hasattr(self, name) and name not in self._modules:
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")
        if module is not None and not isinstance(module, Extras):
            raise TypeError(f"{name!r} takes a Module, not {type(module).__name__}")
        self._modules[name] = module

    add_module = register_module

    def get_parameter(self: Any, path: str) -> Parameter:
        """The parameter at a path such as "trf_blocks.3.att.W_query.weight"."""
        return self._entry("_parameters", "parameter", path)

    def get_buffer(self: Any, path: str) -> Tensor:
        """The buffer at a path."""
        return self._entry("_buffers", "buffer", path)

    def _entry(self: Any, store: str, kind: str, path: str) -> Any:
        owner, _, name = path.rpartition(".")
        found = self.get_submodule(owner).__dict__[store].get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no {kind} {path!r}")
        return found

    def _get_name(self) -> str:
        return self.__class__.__name__

    def compile(self, **options: Any) -> None:
        """Accepted: there is no compiler."""

    # ------------------------------------------------------------------------- devices and dtypes
    def cpu(self) -> Self:
        return self.to("cpu")

    def cuda(self, device: int | device | None = None) -> Self:
        return self.to("cuda")

    def half(self) -> Self:
        return self.to(float16)

    def bfloat16(self) -> Self:
        return self.to(bfloat16)

    def type(self, dst_type: Any) -> Self:
        return self.to(dst_type)

    # --------------------------------------------------------------------------------------- hooks
    def register_forward_pre_hook(
        self: Any, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Call hook(module, args) before forward; a tuple that it returns is passed to forward instead."""
        return hooks.add(self, "before", hook, with_kwargs, prepend)

    def register_forward_hook(
        self: Any, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Call hook(module, args, output) after forward; what it returns, unless None, is the output instead.

        >>> from tinylora import nn, ones
        >>> layer, seen = nn.Linear(3, 2), []
        >>> with layer.register_forward_hook(lambda module, args, output: seen.append(output.shape)):
        ...     _ = layer(ones(4, 3))
        >>> seen
        [(4, 2)]
        """
        return hooks.add(self, "after", hook, with_kwargs, prepend)
