"""Forward hooks: functions called before or after a module's forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinylora.torch_api.hooks import Handle

if TYPE_CHECKING:
    from tinylora.nn.module import Module


def add(module: Module, kind: str, hook: Callable[..., Any], with_kwargs: bool, prepend: bool) -> Handle:
    """Keep a hook of `kind` "before" or "after" in `module.hooks`."""
    if not module.hooks:
        module.hooks = []  # instead of the class's, which all modules share
    entry = (kind, hook, with_kwargs)
    module.hooks.insert(0 if prepend else len(module.hooks), entry)
    return Handle(module.hooks, entry)


def call(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """forward(*args, **kwargs) with the module's hooks around it. What a hook returns, unless None, is used instead."""
    for kind, hook, with_kwargs in list(module.hooks):
        if kind == "before":
            changed = hook(module, args, kwargs) if with_kwargs else hook(module, args)
            if changed is not None and with_kwargs:
                args, kwargs = changed
            elif changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
    output = module.forward(*args, **kwargs)
    for kind, hook, with_kwargs in list(module.hooks):
        if kind == "after":
            changed = hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)
            output = output if changed is None else changed
    return output
