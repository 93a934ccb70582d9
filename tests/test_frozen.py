"""A frozen weight has no edge: it does not change, its gradient is never computed, and nothing is kept for it."""

import tracemalloc

import numpy as np
import pytest

import tinylora
from tinylora import lora, nn, optim, profile
from tinylora.models.gpt import GPTModel
from tinylora.nn import functional as F

CONFIG = {
    "vocab_size": 50, "context_length": 32, "emb_dim": 32, "n_heads": 4, "n_layers": 2, "drop_rate": 0.0,
    "qkv_bias": True,
}  # fmt: skip
IDS = tinylora.tensor(np.random.default_rng(1).integers(0, 50, (4, 32)))
LABELS = tinylora.tensor([0, 1, 1, 0])


def classifier(frozen: bool) -> GPTModel:
    """A GPT with two classes: all of it trained, or frozen with a LoRA (alpha ≠ rank) around every Linear."""
    tinylora.manual_seed(0)
    model = GPTModel(CONFIG)
    model.out_head = nn.Linear(32, 2)
    if frozen:
        lora.freeze(model)
        lora.replace_linear_with_lora(model, rank=2, alpha=6)
    return model


def loss_of(model: GPTModel) -> tinylora.Tensor:
    return F.cross_entropy(model(IDS)[:, -1], LABELS)


def trained(model: GPTModel) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def test_training_moves_every_A_and_B_and_no_byte_of_the_base():
    model = classifier(frozen=True)
    base = {name: p.detach().numpy().tobytes() for name, p in model.named_parameters() if not p.requires_grad}
    layers = dict(lora.lora_modules(model))
    first_A = {name: layer.lora.A.detach().numpy().copy() for name, layer in layers.items()}
    assert len(layers) == 2 * 6 + 1
    optimizer = optim.AdamW(trained(model), lr=1e-3, weight_decay=0.0)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        for name, layer in layers.items():
            assert layer.lora.B.detach().numpy().any(), f"{name}.lora.B is still zero after step {step}"
            changed = (layer.lora.A.detach().numpy() != first_A[name]).any()
            assert changed == (step > 1), f"{name}.lora.A after step {step}"  # B starts as zeros: dL/dA = 0 at first
    for name, p in model.named_parameters():
        if name in base:
            assert p.grad is None
            assert p.detach().numpy().tobytes() == base[name], f"{name} changed"


WEIGHT_GRADIENTS = [
    (op, vjp) for op in ("linear", "lora_linear", "lora_linears", "layer_norm") for vjp in ("d_weight", "d_bias")
] + [("embedding", "d_weight")]  # fmt: skip


def test_no_weight_gradient_is_computed_for_frozen_weights():
    with profile() as p:
        loss_of(classifier(frozen=True)).backward()
    assert [p.ops[op].vjps[vjp].calls for op, vjp in WEIGHT_GRADIENTS] == [0] * 9
    one, several = p.ops["lora_linear"], p.ops["lora_linears"]  # several: query, key and value
    assert (one.calls, several.calls) == (7, 2)
    assert one.vjps["d_A"].calls + several.vjps["d_A"].calls == one.vjps["d_B"].calls + several.vjps["d_B"].calls == 13
    assert one.vjps["d_x"].calls == 7
    assert several.vjps["d_x"].calls == 1  # not for those of the first block: below is nothing to train


def test_every_weight_gradient_is_computed_when_all_is_trained():
    with profile() as p:
        loss_of(classifier(frozen=False)).backward()
    calls = {(op, vjp): p.ops[op].vjps[vjp].calls for op, vjp in WEIGHT_GRADIENTS}
    assert calls["linear", "d_weight"] == calls["linear", "d_bias"] == 13
    assert calls["layer_norm", "d_weight"] == calls["layer_norm", "d_bias"] == 5
    assert calls["embedding", "d_weight"] == 2


def test_parameters_are_counted_as_the_head_by_the_whole_name():
    model = nn.Sequential()
    for name in ("heads", "header", "head"):
        setattr(model, name, nn.Linear(2, 1, bias=False))
    assert (model.summary().base.total, model.summary().head.total) == (4, 2)


# --------------------------------------------------------------------------------------------- memory
def after_forward(module, x) -> int:
    """Bytes that a forward pass leaves allocated for the backward pass, measured."""
    module(x).sum()
    tracemalloc.start()
    try:
        loss = module(x).sum()
        assert loss.requires_grad
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


class Stack(nn.Module):
    """Linears in a row, after one layer of parameters that makes a gradient flow through all of them."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(tinylora.ones(width))
        self.linears = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])

    def forward(self, x: tinylora.Tensor) -> tinylora.Tensor:
        return self.linears(self.gain * x)


def test_a_frozen_linear_keeps_no_array():
    model, x = Stack(64, depth=8), tinylora.randn(100, 64)
    activation = 4 * 100 * 64
    with profile() as p:
        y = model(x)
    assert y.requires_grad and p.kept == 8 * activation  # the input of each Linear, for d_weight
    assert after_forward(model, x) > 8 * activation
    lora.freeze(model.linears)
    with profile() as p:
        y = model(x)
    assert y.requires_grad and p.kept == 0
    assert after_forward(model, x) < activation


def test_a_frozen_gpt_keeps_less():
    """LoRA around W_query and W_value, as in its paper: what the other weights' gradients need is gone."""
    measured, counted = {}, {}
    for frozen in (True, False):
        model = classifier(frozen=False)
        if frozen:
            lora.freeze(model)
            for block in model.trf_blocks:
                block.att.W_query = lora.LinearWithLoRA(block.att.W_query, rank=2, alpha=6)
                block.att.W_value = lora.LinearWithLoRA(block.att.W_value, rank=2, alpha=6)
        measured[frozen] = after_forward(model, IDS)
        with profile() as p:
            model(IDS)
        counted[frozen] = p.kept
        assert 0 <= measured[frozen] - counted[frozen] < 60_000  # nodes, tensors and closures beside the arrays
    activation = 4 * 4 * 32 * 32
    assert counted[False] - counted[True] >= 2 * 5 * activation  # norm2's output and GELU's, four times as wide
    assert measured[False] - measured[True] >= 2 * 5 * activation


def test_embeddings_and_head_alone_keep_next_to_nothing():
    model = classifier(frozen=True)
    lora.freeze(model)
    model.out_head = nn.Linear(32, 2)
    with profile() as p:
        loss_of(model).backward()
    assert {op for op, count in p.ops.items() if any(c.calls for c in count.vjps.values())} == {
        "linear", "getitem", "cross_entropy"
    }  # fmt: skip
    assert p.ops["lora_linear"].kept == p.ops["lora_linears"].kept == p.ops["attention"].kept == p.ops["gelu"].kept == 0
    assert p.ops["linear"].kept == 4 * 4 * 32 * 32  # final_norm's output: the head's input


def test_training_a_frozen_model_raises():
    model = classifier(frozen=True)
    lora.freeze(model)
    with pytest.raises(RuntimeError, match="requires no grad"):
        loss_of(model).backward()
