"""Several named adapters on one base, one of them active.

An adapter is a set of modules and parameters that replace the base's: LinearWithLoRA in place of a Linear, and parameters
trained whole. Switching assigns these objects to their attributes. So inactive adapters cost no time, the base is never
copied, and no requires_grad or weight changes. `parameters()`, `state_dict()` and `save_adapter` see the active adapter
only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tinylora import nn
from tinylora.backend import bfloat16
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.tensor import Tensor

Place = tuple[nn.Module, str]  # a module of the base, and the name of a child or parameter of it
Things = dict[Place, Any]  # the Module or Parameter at that place


@dataclass
class Shelf:
    """The adapters of one model: for every place that some adapter changes, the base's object and each adapter's."""

    base: Things = field(default_factory=dict)
    adapters: dict[str, Things] = field(default_factory=dict)
    active: str | None = None
    lent: str = ""  # what a `with` block has activated temporarily

    def standing(self) -> Things:
        """What is active now."""
        return {**self.base, **self.adapters.get(self.active or "", {})}


def adapter_names(model: nn.Module) -> list[str]:
    """The names of the adapters that `model` has, in the order they were made."""
    return list(shelf_of(model).adapters)


def active_adapter(model: nn.Module) -> str | None:
    """The name of the active adapter, or None."""
    return shelf_of(model).active


@contextlib.contextmanager
def new_adapter(model: nn.Module, name: str) -> Iterator[None]:
    """What is done to `model` in this block becomes its adapter `name`, which is active afterwards.

    The block starts with the base. An adapter is made by `apply_lora`, `load_adapter` or a new head. Parameters of the base
    that are trainable at the end, or have changed, belong to the adapter; the base keeps their old values, frozen. If the
    block fails, the model is as it was. Raises ValueError if there is an adapter `name`.

    >>> from tinylora.adapters import LoRAConfig, apply_lora
    >>> from tinylora.models import load_model
    >>> model = load_model("nano")
    >>> for name in ("spam", "tone"):
    ...     with new_adapter(model, name):
    ...         plan = apply_lora(model, LoRAConfig(rank=4))
    >>> set_adapter(model, "spam")
    >>> adapter_names(model), active_adapter(model)
    (['spam', 'tone'], 'spam')
    """
    shelf = checked(model)
    if name in shelf.adapters:
        raise ValueError(f"there is an adapter {name!r} already: delete it first, or take another name")
    if any(m not in shelf.standing().values() for _, m in lora_modules(model)):
        raise RuntimeError("the model has a LoRA without a name: apply it inside `with new_adapter(model, name)`")
    put(shelf.base)
    before: Things = {(m, n): x for m in model.modules() for n, x in (*m._modules.items(), *m._parameters.items())}
    states = {id(p): (p.array, p.requires_grad) for p in model.parameters()}
    shelf.lent = f"the block that makes {name!r}"
    try:
        yield
    except BaseException:
        for (owner, attribute), thing in before.items():
            setattr(owner, attribute, thing)
        for p in model.parameters():
            p.array, p.requires_grad = states[id(p)]
        put(shelf.standing())
        raise
    finally:
        shelf.lent = ""
    shelf.adapters[name] = things = {}
    copies: dict[int, nn.Parameter] = {}  # one name for a parameter used in several places
    for (owner, attribute), old in before.items():
        now: Any = getattr(owner, attribute, None)
        if isinstance(old, nn.Parameter) and now is old:
            array, _ = states[id(old)]
            if old.requires_grad or old.array is not array:
                old = copies.setdefault(id(now), nn.Parameter(Tensor(array), requires_grad=False))
        if now is not old:
            things[owner, attribute], shelf.base[owner, attribute] = now, old
    shelf.active = name
    model.shelf = shelf


def set_adapter(model: nn.Module, name: str) -> None:
    """Activate the adapter `name`, and move it to the device and dtype of what it replaces.

    Raises KeyError for an unknown name, RuntimeError while an adapter is merged or a `with` block holds the model.
    """
    shelf = checked(model)
    things_of(shelf, name)
    shelf.active = name
    put(shelf.standing())


@contextlib.contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Inside this block the base is active, bit for bit.

    A LoRA without a name is removed as well; modules trained whole are only restored if the adapter has a name.
    """
    shelf = checked(model)
    wrapped = {(m, n): x for m in model.modules() for n, x in m.named_children() if isinstance(x, LinearWithLoRA)}
    shelf.lent = "disable_adapters"
    try:
        put({**{place: lora.linear for place, lora in wrapped.items()}, **shelf.base})
        yield
    finally:
        shelf.lent = ""
        put({**wrapped, **shelf.standing()})


def delete_adapter(model: nn.Module, name: str) -> None:
    """Delete the adapter `name`; if it was active, activate the base. Raises RuntimeError if it is merged."""
    shelf = checked(model)
    things_of(shelf, name)
    if shelf.active == name:
        shelf.active = None
        put(shelf.base)
    del shelf.adapters[name]


def forget_adapters(model: nn.Module) -> None:
    """Make the active adapter part of the model, and drop all adapters and the base."""
    model.__dict__.pop("shelf", None)


# ------------------------------------------------------------------------------------------ the shelf
def shelf_of(model: nn.Module) -> Shelf:
    return model.__dict__.get("shelf") or Shelf()


def things_of(shelf: Shelf, name: str) -> Things:
    if name not in shelf.adapters:
        raise KeyError(f"no adapter {name!r}: there are {', '.join(shelf.adapters) or 'none'}")
    return shelf.adapters[name]


def checked(model: nn.Module) -> Shelf:
    """The shelf of `model`. Raises RuntimeError if the model does not match it."""
    shelf = shelf_of(model)
    if shelf.lent:
        raise RuntimeError(f"the adapters cannot be changed inside {shelf.lent}")
    if merged := [path for path, m in lora_modules(model) if m.merged]:
        raise RuntimeError(f"{merged[0]}: the adapter in place is merged: call unmerge() first")
    for (owner, attribute), thing in shelf.standing().items():
        if getattr(owner, attribute, None) is not thing:
            path = next((path for path, m in model.named_modules() if m is owner), type(owner).__name__)
            raise RuntimeError(f"{path}.{attribute} was replaced since adapter {shelf.active!r} was put in place")
    return shelf


def put(things: Things) -> None:
    """Assign every object to its place, with the device, dtype and mode of what it replaces."""
    for (owner, attribute), thing in things.items():
        old = getattr(owner, attribute)
        if thing is not old:
            if isinstance(thing, nn.Module):
                thing.train(owner.training)
            _move(thing, old)
            setattr(owner, attribute, thing)


def _move(thing: Any, old: Any) -> None:
    """Move a module or parameter to the device and dtype of another; bfloat16 is neither removed nor introduced."""
    own, like = _first_parameter(thing), _first_parameter(old)
    if own is None or like is None:
        return
    to = (like.device,) if bfloat16 in (own.dtype, like.dtype) else (like.device, like.dtype)
    if isinstance(thing, nn.Module):
        thing.to(*to)
    else:
        thing.array = thing.detach().to(*to).array


def _first_parameter(thing: Any) -> Any:
    return next(thing.parameters(), None) if isinstance(thing, nn.Module) else thing
