"""One batch, an adapter per row: a server answers everybody at once, each with their own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.adapters.named import Place, Things, checked, put, things_of
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import tensor
from tinylora.torch_api.shaping import cat


class ByRow(nn.Module):
    """Row i of the batch goes through modules[chosen[i]]: (B, ..) -> (B, ..), the work of a single module."""

    def __init__(self, modules: Sequence[nn.Module], chosen: Sequence[int]) -> None:
        super().__init__()
        self.variants = nn.ModuleList(modules)
        self.chosen = np.asarray(chosen)

    def forward(self, x: Tensor) -> Tensor:
        if len(x.shape) < 2 or len(x) != len(self.chosen):
            raise ValueError(f"adapters are given for {len(self.chosen)} rows, and the input has shape {x.shape}")
        order = np.argsort(self.chosen, kind="stable")
        parts = []
        for i, module in enumerate(self.variants):
            if (mine := np.flatnonzero(self.chosen == i)).size:
                parts.append(module(x[tensor(mine, device=x.device)]))
        return cat(parts)[tensor(np.argsort(order), device=x.device)]


@contextlib.contextmanager
def adapters_by_row(model: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Inside this block row i of every batch is computed with adapter names[i], None meaning the base.

    Every layer that some of these adapters change sends each row through its adapter's version, so a row's numbers are
    those it has when its adapter alone is in place, gradients included. Batches have len(names) rows. Raises ValueError
    for an adapter that trains both a layer's own parameters and a LoRA around it.

    >>> from tinylora import tensor
    >>> from tinylora.adapters import LoRAConfig, apply_lora, new_adapter
    >>> from tinylora.models import load_model
    >>> model = load_model("nano")
    >>> with new_adapter(model, "spam"):
    ...     plan = apply_lora(model, LoRAConfig(rank=4))
    >>> with adapters_by_row(model, ["spam", None]):
    ...     model(tensor([[72, 105], [72, 105]])).shape
    (2, 2, 257)
    """
    shelf = checked(model)
    versions = list(dict.fromkeys(names))
    rows = [versions.index(name) for name in names]
    changes = [{} if name is None else things_of(shelf, name) for name in versions]
    shelf.lent, places = "adapters_by_row", {}
    try:
        put(shelf.base)
        modules = [_modules(model, things) for things in changes]
        places = {place: getattr(*place) for found in modules for place in found}
        put({place: ByRow([found.get(place, base) for found in modules], rows) for place, base in places.items()})
        yield
    finally:
        shelf.lent = ""
        put({**places, **shelf.standing()})


def _modules(model: nn.Module, things: Things) -> dict[Place, nn.Module]:
    """An adapter's modules by place; one that differs from the base's in parameters is the base's with these put in."""
    found: dict[Place, nn.Module] = {place: x for place, x in things.items() if isinstance(x, nn.Module)}
    changed: dict[nn.Module, dict[str, Any]] = {}
    for (owner, attribute), x in things.items():
        if not isinstance(x, nn.Module):
            changed.setdefault(owner, {})[attribute] = x
    for owner, parameters in changed.items():
        place = next(((m, n) for m in model.modules() for n, child in m.named_children() if child is owner), None)
        if place is None or place in found:
            raise ValueError(f"{', '.join(parameters)} of a {type(owner).__name__} inside a LoRA cannot differ by row")
        found[place] = twin = copy.copy(owner)
        twin.__dict__.update(_parameters={**owner._parameters, **parameters}, _modules=dict(owner._modules))
    return found
