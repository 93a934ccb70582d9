"""Adapters added up: the change of one, plus half the change of another."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from tinylora import nn
from tinylora.adapters.named import Place, checked, new_adapter, things_of
from tinylora.adapters.variants import DropoutLoRA
from tinylora.lora import LinearWithLoRA
from tinylora.torch_api.shaping import cat


def combine_adapters(model: nn.Module, name: str, weights: Mapping[str, float]) -> None:
    """Make an adapter `name` whose change is Σ weight · change over named adapters, exactly, and put it in place.

    Of LoRA with s₁ A₁ B₁ and s₂ A₂ B₂ the sum is A B with A = [A₁ A₂] and B = [w₁ s₁ B₁; w₂ s₂ B₂]: the ranks add up. Of
    parameters trained whole it is base + Σ weight · (trained - base). Ilharco et al. 2023, "Editing Models with Task
    Arithmetic". Raises ValueError for what has no such sum, such as heads of different shapes.

    >>> from tinylora.adapters import LoRAConfig, apply_lora
    >>> from tinylora.models import load_model
    >>> model = load_model("nano")
    >>> for one, rank in (("spam", 4), ("tone", 2)):
    ...     with new_adapter(model, one):
    ...         plan = apply_lora(model, LoRAConfig(rank, targets=("W_query",)))
    >>> combine_adapters(model, "both", {"spam": 1.0, "tone": 0.5})
    >>> model.trf_blocks[0].att.W_query.lora.A.shape
    (256, 6)
    """
    shelf = checked(model)
    parts = [(weight, things_of(shelf, one)) for one, weight in weights.items()]
    if not parts:
        raise ValueError("nothing to combine: weights is a mapping from names of adapters to numbers")
    places = list(dict.fromkeys(place for _, things in parts for place in things))
    sums = {place: _sum(place, shelf.base[place], [(w, t[place]) for w, t in parts if place in t]) for place in places}
    with new_adapter(model, name):
        for (owner, attribute), thing in sums.items():
            setattr(owner, attribute, thing)


def _sum(place: Place, base: Any, terms: list[tuple[float, Any]]) -> Any:
    what = f"{place[1]} of a {type(place[0]).__name__}"
    if all(type(x) in (LinearWithLoRA, DropoutLoRA) for _, x in terms):
        layers = [(weight * x.lora.alpha, x.lora) for weight, x in terms]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ranks which add up are more than the matrix can use is no mistake
            total = LinearWithLoRA(base, sum(x.A.shape[1] for _, x in layers), alpha=1.0)
        total.lora.A = nn.Parameter(cat([x.A.detach() for _, x in layers], 1))
        total.lora.B = nn.Parameter(cat([weight * x.B.detach() for weight, x in layers], 0))
        return total.train(base.training)
    if not all(isinstance(x, nn.Parameter) and x.shape == base.shape for _, x in terms):
        raise ValueError(f"{what}: {', '.join(type(x).__name__ for _, x in terms)} cannot be added up")
    return nn.Parameter(base.detach() + sum(weight * (x.detach() - base.detach()) for weight, x in terms))
