"""The change folded into the weights, and taken out again."""

from __future__ import annotations

from tinylora import nn
from tinylora.adapters.apply import unwrap
from tinylora.adapters.named import forget_adapters
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.tensor import Tensor, no_grad


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
    """Merge, and leave plain Linears behind: the model has no LoRA any more, and its change for good.

    Of named adapters the one in place stays, and the others are forgotten with their base.
    """
    merge(model)
    unwrap(model)
    forget_adapters(model)


def verify_merge(model: nn.Module, *inputs: Tensor) -> float:
    """How far apart are the logits `model(*inputs)` with the LoRA beside the weights and merged into them?

    In evaluation mode. Prints the largest difference and returns it; the model is left as it was. Merging is exact in the
    mathematics, so what differs is rounding: float32 has about 1e-7 of the largest logit, a few of them after some layers.

    >>> from tinylora import tensor
    >>> from tinylora.adapters import LoRAConfig, apply_lora
    >>> from tinylora.models import load_model
    >>> model = load_model("nano")
    >>> plan = apply_lora(model, LoRAConfig(rank=4))
    >>> verify_merge(model, tensor([[84, 104, 101]]))
    largest logit difference, merged and not: 0
    0.0
    """
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with no_grad():
            apart = model(*inputs)
            merge(model)
            try:
                merged = model(*inputs)
            finally:
                unmerge(model)
    finally:
        for module, mode in modes:
            module.training = mode
    difference = float(abs(merged - apart).max().item())
    print(f"largest logit difference, merged and not: {difference:.3g}")
    return difference
