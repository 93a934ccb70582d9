"""Which modules of a GPTModel do the work of which layer of Hugging Face's GPT-2."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinylora import nn
from tinylora.backend import to_device
from tinylora.models import hf_gpt2

LEAVES = {"scale": "weight", "shift": "bias"}  # a layer norm's parameters there; the others have the same names


class Layer(NamedTuple):
    """A layer there, by its name, and the modules that are it here: query, key and value for c_attn, else one.

    `owners` are the modules that hold the parameters: the Linear inside, where LoRA is around one.
    """

    name: str
    paths: list[str]
    owners: list[nn.Module]

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by their name there, "weight" and "bias", each one's parts in order."""
        found = [{LEAVES.get(n, n): p for n, p in owner._parameters.items() if p is not None} for owner in self.owners]
        return {leaf: [part[leaf] for part in found] for leaf in found[0]}

    def shape(self, leaf: str) -> tuple[int, ...]:
        """The shape that a parameter has there."""
        parts = [p.shape[::-1] if hf_gpt2.is_conv1d(self.name) else p.shape for p in self.parameters()[leaf]]
        return (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else tuple(parts[0])

    def stored(self, leaf: str) -> np.ndarray:
        """A parameter as it is stored there, in float32."""
        parts = [to_device(p.data, "cpu").astype(np.float32, copy=False) for p in self.parameters()[leaf]]
        return hf_gpt2.join(parts, self.name)


def layers(model: nn.Module, head: str, prefix: str = "transformer.") -> dict[str, Layer]:
    """Every layer of `model` by its name there, out_head's being `head`; `prefix` is "" for a model without a head."""
    found: dict[str, Layer] = {}
    for path, module in model.named_modules():
        if (name := hf_gpt2.layer_of(path, head)) is not None:
            name = name.removeprefix("transformer.") if not prefix else name
            layer = found.setdefault(name, Layer(name, [], []))
            layer.paths.append(path)
            layer.owners.append(module._modules.get("linear", module))
    return found


def head_of(model: nn.Module) -> str:
    """What `out_head` is called there: "score" if it tells classes apart, else "lm_head"."""
    classifies = "labels" in model.cfg or _outputs(model) != model.cfg["vocab_size"]
    return "score" if classifies else "lm_head"


def _outputs(model: nn.Module) -> int:
    return model.out_head._modules.get("linear", model.out_head).out_features
