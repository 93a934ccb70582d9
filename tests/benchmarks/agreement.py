"""Do the contenders compute the same thing? One set of weights in all of them, one batch, and the differences as bars.

(d) has no weights of its own for the LoRA of query, key and value, so that it is compared where LoRA changes nothing yet:
its loss with B = 0 against (a)'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ours
import peers
import torch
from work import Work

LOSS, GRADIENT = 1e-5, 1e-4  # allowed relative differences in float32


def measure(**sizes: Any) -> list[dict[str, Any]]:
    """Bars, as keyword arguments of `report.Bar`: relative differences from (a)'s loss and gradients."""
    work = Work(**{"batch": 2, "length": 64, **sizes})
    lecture, fused, hugging_face = (peers.classifier(peer, work) for peer in "abd")
    ids, labels = torch.tensor(work.tokens()), torch.tensor(work.labels())
    copy_body(lecture, hugging_face.base_model.model.transformer)
    copy_head(lecture, hugging_face.base_model.model.score)
    start = peers.F.cross_entropy(peers.scores_at_the_end(lecture, ids), labels).item()
    theirs = peers.F.cross_entropy(peers.scores_at_the_end(hugging_face, ids), labels).item()
    bars = [bar("(d) loss, B = 0: difference", relative(theirs, start), LOSS)]

    torch.manual_seed(1)
    for name, p in lecture.named_parameters():
        if name.endswith("lora.B"):  # as zeros they would hide A's gradient; large, they would make rounding errors grow
            torch.nn.init.normal_(p, std=0.001)
    state = {name: p.detach() for name, p in lecture.named_parameters()}
    fused.load_state_dict({renamed(name): p for name, p in state.items()})
    expected, expected_gradients = torch_results(lecture, ids, labels)
    ours_found = tinylora_results(work, state)
    for name, (loss, gradients) in {"tinylora": ours_found, "(b)": torch_results(fused, ids, labels)}.items():
        assert gradients.keys() == expected_gradients.keys(), "the same A and B"
        worst = max(relative(gradients[key], expected_gradients[key]) for key in gradients)
        bars += [bar(f"{name} loss: difference", relative(loss, expected), LOSS)]
        bars += [bar(f"{name} gradients: largest difference", worst, GRADIENT)]
    generated = bar("tokens generated that differ from transformers'", tokens_that_differ(work), 0)
    return [*bars, generated]


def tokens_that_differ(work: Work, count: int = 32) -> int:
    """Of `count` tokens that tinylora and transformers generate greedily after one prompt."""
    model, theirs = ours.language_model(work), peers.language_model(work)
    weight = model.tok_emb.weight
    weight.array = 0.02 * weight.array  # as in GPT-2; drawn from N(0, 1) it repeats its last token
    weights = {name: torch.tensor(p.detach().numpy()) for name, p in model.named_parameters()}
    lecture = peers.lecture().GPTModel(work.config)
    lecture.load_state_dict(weights, strict=False)  # it has masks besides
    copy_body(lecture, theirs.transformer)
    ids = torch.tensor(work.tokens()[:1])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    found = list(ours.continuation(model, ids[0].tolist(), count, ours.GREEDY))
    return sum(x != y for x, y in zip(found, expected[0, ids.shape[1] :].tolist(), strict=True))


def bar(what: str, reached: float, bound: float) -> dict[str, Any]:
    return {"what": what, "bound": bound, "reached": reached, "unit": "", "at_least": False}


def relative(x: Any, y: Any) -> float:
    """‖x - y‖ / ‖y‖"""
    return float(np.linalg.norm(np.subtract(x, y)) / np.linalg.norm(y))


def renamed(name: str) -> str:
    """The lecture's LayerNorm has scale and shift, PyTorch's has weight and bias."""
    return name.replace(".scale", ".weight").replace(".shift", ".bias")


def torch_results(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> tuple[float, dict[str, np.ndarray]]:
    loss = peers.F.cross_entropy(peers.scores_at_the_end(model, ids), labels)
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def tinylora_results(work: Work, state: dict[str, torch.Tensor]) -> tuple[float, dict[str, np.ndarray]]:
    model = ours.classifier(work)
    model.load_state_dict({name: ours.tinylora.tensor(p.numpy()) for name, p in state.items()})
    loss = ours.loss_of(model, ours.batch_of(work))
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def copy_body(lecture: torch.nn.Module, transformer: torch.nn.Module) -> None:
    """The base weights of the lecture's model into Hugging Face's, whose products are x W instead of x Wᵀ."""

    def put(source: Any, target: Any) -> None:
        linear, base = getattr(source, "linear", source), getattr(target, "base_layer", target)
        base.weight.copy_(linear.weight.T)
        base.bias.copy_(linear.bias)

    def put_norm(source: Any, target: Any) -> None:
        target.weight.copy_(source.scale)
        target.bias.copy_(source.shift)

    transformer.wte.weight.copy_(lecture.tok_emb.weight)
    transformer.wpe.weight.copy_(lecture.pos_emb.weight)
    for block, theirs in zip(lecture.trf_blocks, transformer.h, strict=True):
        qkv = [getattr(W, "linear", W) for W in (block.att.W_query, block.att.W_key, block.att.W_value)]
        joined = torch.nn.Linear(qkv[0].in_features, 3 * qkv[0].out_features)
        joined.weight.copy_(torch.cat([W.weight for W in qkv]))
        joined.bias.copy_(torch.cat([W.bias for W in qkv]))
        put(joined, theirs.attn.c_attn)
        put(block.att.out_proj, theirs.attn.c_proj)
        put(block.ff.layers[0], theirs.mlp.c_fc)
        put(block.ff.layers[2], theirs.mlp.c_proj)
        put_norm(block.norm1, theirs.ln_1)
        put_norm(block.norm2, theirs.ln_2)
    put_norm(lecture.final_norm, transformer.ln_f)


@torch.no_grad()
def copy_head(lecture: torch.nn.Module, score: torch.nn.Module) -> None:
    """Hugging Face's head has no bias, so the lecture's is made 0."""
    lecture.out_head.linear.bias.zero_()
    score.modules_to_save["default"].weight.copy_(lecture.out_head.linear.weight)
