"""Does SmolLM2 compute the same in tinylora as in Hugging Face with PEFT? The same weights in both, one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import ours
import peers
import torch
from agreement import GRADIENT, LOSS, bar, relative
from work import LlamaWork

LINEARS = {
    "att.W_query": "self_attn.q_proj",
    "att.W_key": "self_attn.k_proj",
    "att.W_value": "self_attn.v_proj",
    "att.out_proj": "self_attn.o_proj",
    "ff.fc1": "mlp.gate_proj",
    "ff.fc2": "mlp.up_proj",
    "ff.fc3": "mlp.down_proj",
}
NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}


def measure(**sizes: Any) -> list[dict[str, Any]]:
    """Bars, as keyword arguments of `report.Bar`: relative differences from PEFT's loss and gradients."""
    work = LlamaWork(**{"batch": 2, "length": 64, **sizes})
    theirs = peers.hugging_face_llama(work)
    for name, p in theirs.named_parameters():
        if "lora_B" in name:  # as zeros they would hide A's gradient; large, they would make rounding errors grow
            torch.nn.init.normal_(p, std=0.001)
    names = {f"base_model.model.model.{name}": other for name, other in pairs(work.layers)}
    weights = {names[name]: p for name, p in theirs.named_parameters()}
    model = ours.llama(work)
    state = {name: ours.tinylora.tensor(stored(name, p.detach())) for name, p in weights.items()}
    model.load_state_dict({**state, "out_head.weight": state["tok_emb.weight"]})

    expected = peers.language_loss(theirs, *map(torch.tensor, work.texts()))
    expected.backward()
    loss = ours.language_loss(model, *map(ours.tinylora.tensor, work.texts()))
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    expected_gradients = {name: stored(name, p.grad) for name, p in weights.items() if p.grad is not None}
    assert gradients.keys() == expected_gradients.keys(), "the same A and B"
    worst = max(relative(gradients[name], expected_gradients[name]) for name in gradients)
    return [
        bar("SmolLM2 loss: difference", relative(loss.item(), expected.item()), LOSS),
        bar("SmolLM2 gradients: largest difference", worst, GRADIENT),
    ]


def pairs(layers: int) -> Iterator[tuple[str, str]]:
    """Their names of all weights, below the model, and ours."""
    yield from [("embed_tokens.weight", "tok_emb.weight"), ("norm.weight", "final_norm.weight")]
    for i in range(layers):
        for name, other in NORMS.items():
            yield f"layers.{i}.{other}.weight", f"trf_blocks.{i}.{name}.weight"
        for name, other in LINEARS.items():
            yield f"layers.{i}.{other}.base_layer.weight", f"trf_blocks.{i}.{name}.linear.weight"
            for matrix in "AB":
                yield f"layers.{i}.{other}.lora_{matrix}.default.weight", f"trf_blocks.{i}.{name}.lora.{matrix}"


def stored(name: str, tensor: torch.Tensor) -> np.ndarray:
    """PEFT's A and B are ours, transposed."""
    return tensor.numpy().T if ".lora." in name else tensor.numpy()
