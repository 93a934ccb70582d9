"""state_dict, load_state_dict and `to` of modules, and the module path in front of error messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinylora.backend import bfloat16, is_device, is_floating, known, overwrite, to_device
from tinylora.tensor import Tensor

if TYPE_CHECKING:
    from tinylora.nn.module import Module


class LoadResult(NamedTuple):
    """The names that a state lacked, and those that the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"LoadResult(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def own_state(module: Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers of a module itself, by name."""
    if getattr(module, "merged", False) is True and hasattr(module, "unmerge"):  # LoRA of this package, not a program's own
        way_out = "unmerge() to have it apart, or merge_and_unload to have plain weights"
        where = prefix.removesuffix(".") or "this layer"
        raise RuntimeError(f"{where} is merged, and its state would hold the change twice: call {way_out}")
    buffers = {name: buffer for name, buffer in module._buffers.items() if name not in module._transient}
    return ((name, tensor) for name, tensor in (module._parameters | buffers).items() if tensor is not None)


def load_state_dict(module: Module, state: dict[str, Any], strict: bool) -> LoadResult:
    """Copy `state` into the parameters, keeping their dtype and device. See `Module.load_state_dict`."""
    own: dict[str, Tensor] = {}
    for path, m in module.named_modules():
        prefix = f"{path}." if path else ""
        own.update((prefix + name, tensor) for name, tensor in own_state(m, prefix))
    wanted = own.keys()
    missing, unexpected = [k for k in wanted if k not in state], [k for k in state if k not in wanted]
    faults = [f"missing: {k}" for k in missing] + [f"unexpected: {k}" for k in unexpected] if strict else []
    faults += [
        f"{k}: expected {tuple(own[k].shape)}, got {tuple(state[k].shape)}"
        for k in wanted
        if k in state and tuple(state[k].shape) != tuple(own[k].shape)
    ]
    if faults:
        raise RuntimeError(f"cannot load into {type(module).__name__}:\n  " + "\n  ".join(faults))
    for k in [k for k in wanted if k in state]:
        array = state[k].array if isinstance(state[k], Tensor) else state[k]
        overwrite(own[k].array, to_device(array, own[k].device))
    return LoadResult(missing, unexpected)


def move(module: Module, where: tuple[Any, ...], dtype: Any, device: Any) -> None:
    """Put every parameter and buffer on a device, the floating-point ones into a dtype, or both.

    bfloat16 is for what is frozen. A step of training is smaller than its 8 bits can tell apart, so parameters that
    require grad stay as they are.
    """
    for w in where:
        device, dtype = (w, dtype) if is_device(w) else (device, w)
    if dtype is not None and not is_floating(known(dtype)):
        raise TypeError(f"a module can be cast to a floating-point dtype only, not to {np.dtype(dtype)}")
    for tensor in (*module.parameters(), *module.buffers()):
        for t in [tensor] if tensor.grad is None else [tensor, tensor.grad]:
            if device is not None:
                t.array = to_device(t.array, device)
            if dtype is not None and is_floating(t.dtype) and not (dtype == bfloat16 and tensor.requires_grad):
                t.array = t.array.astype(np.dtype(dtype), copy=False)


def locate(error: Exception, module: Module) -> None:
    """Prefix the message of an error with the path of the module that raised it; each level adds its name."""
    inner, path, message = getattr(error, "at", (None, "", error.args[0] if error.args else ""))
    if inner is not None and isinstance(message, str):
        name = next((name for name, child in module.named_modules() if child is inner), "")
        path = ".".join(filter(None, (name, path)))
        error.args = (f"{path}: {message}", *error.args[1:])
    error.at = (module, path, message)  # type: ignore[attr-defined]  # exceptions take attributes; their stubs do not
