"""The change folded into the weights, and taken out again."""

from __future__ import annotations

from tinylora import nn
from tinylora.adapters.apply import unwrap
from tinylora.lora import LinearWithLoRA, lora_modules


def merge(model: nn.Module) -> None:
    """Fold every LoRA below `model` into its weight. If one cannot be merged, none is."""
    done: list[LinearWithLoRA] = []
    for path, module in lora_modules(model):
        try:
            module.merge()
            done.append(module)
        except RuntimeError as error:
            for merged in done:
                merged.unmerge()
            raise RuntimeError(f"{path}: {error}") from None


def unmerge(model: nn.Module) -> None:
    """Put every original weight back, the same bytes."""
    for _, module in lora_modules(model):
        module.unmerge()


def merge_and_unload(model: nn.Module) -> None:
    """Merge, and leave plain Linears behind: the model has no LoRA any more, and its change for good."""
    merge(model)
    unwrap(model)
