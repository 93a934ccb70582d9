"""Merges LoRA into the weights, and unmerges it."""

from __future__ import annotations

from tinylora import nn
from tinylora.adapters.apply import unwrap
from tinylora.adapters.named import forget_adapters
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.tensor import Tensor, no_grad


def merge(model: nn.Module) -> None:
    """Add every LoRA below `model` to its weight. If one cannot be merged, none is."""
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
    """Restore every original weight, bit for bit."""
    for _, module in lora_modules(model):
        module.unmerge()


def merge_and_unload(model: nn.Module) -> None:
    """Merge, and replace the LoRA layers by plain Linears. This cannot be undone.

    Of named adapters the active one is merged; the others and the base are dropped.
    """
    merge(model)
    unwrap(model)
    forget_adapters(model)


def verify_merge(model: nn.Module, *inputs: Tensor) -> float:
    """The largest difference of `model(*inputs)` between merged and unmerged LoRA, in evaluation mode.

    Prints it and returns it; the model is left as it was. Only rounding differs: in float32 about 1e-7 of the largest
    logit, or a few times that after several layers.

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
