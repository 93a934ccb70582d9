"""A variant as a plain LoRA."""

from __future__ import annotations

import dataclasses

from tinylora import nn
from tinylora.adapters.config import LoRAConfig
from tinylora.adapters.named import shelf_of
from tinylora.adapters.variants import PiSSA


def pissa_to_lora(model: nn.Module, config: LoRAConfig) -> LoRAConfig:
    """Replace every PiSSA below `model` by the plain LoRA of twice the rank that it is, and return the LoRAConfig of that.

    The base's weights are the base's already. Of named adapters the one in place is converted. Meng, Wang, Zhang 2024,
    "PiSSA", appendix on converting PiSSA into LoRA.

    >>> from tinylora.adapters import apply_lora
    >>> from tinylora.models import load_model
    >>> model, config = load_model("nano"), LoRAConfig(rank=4, targets=("W_query",), variant="pissa")
    >>> plan = apply_lora(model, config)
    >>> pissa_to_lora(model, config).rank
    8
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PiSSA):
                plain = child.as_lora()
                setattr(module, name, plain)
                for things in shelf_of(model).adapters.values():
                    if things.get((module, name)) is child:
                        things[module, name] = plain
    return dataclasses.replace(config, rank=2 * config.rank, alpha=config.scale, scaling="alpha", variant="lora")
