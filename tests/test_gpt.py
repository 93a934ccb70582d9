"""The lecture's GPT and its LoRA: the numbers, the logits and gradients of PyTorch, and what training moves."""

import numpy as np
import pytest
from models import TINY, ids, shaken

import tinylora
from tinylora import nn
from tinylora.lora import LinearWithLoRA, LoRALayer, freeze, replace_linear_with_lora
from tinylora.models.gpt import GPTModel
from tinylora.models.presets import PRESETS


# --------------------------------------------------------------------------------------------- the numbers
def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("rank", [4, 16])
def test_the_lectures_numbers(rank):
    with tinylora.device("meta"):
        model = GPTModel("gpt2-small")
        model.out_head = nn.Linear(768, 2)
        assert trainable(model) == 124_441_346
        for parameter in model.parameters():
            parameter.requires_grad = False
        assert trainable(model) == 0
        with pytest.warns(UserWarning, match=f"rank {rank} is more than a 768 x 2 matrix can use"):
            replace_linear_with_lora(model, rank=rank, alpha=rank)
    assert trainable(model) == 12 * 13_824 * rank + 770 * rank
    assert rank != 16 or trainable(model) == 2_666_528
    assert sum(isinstance(m, LinearWithLoRA) for m in model.modules()) == 73
    assert "(W_query): LinearWithLoRA(\n" in repr(model) and "(lora): LoRALayer()" in repr(model)
    assert "(linear): Linear(in_features=768, out_features=768, bias=True)" in repr(model)


@pytest.mark.parametrize("preset, total", [
    ("gpt2-small", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200),
])  # fmt: skip
def test_the_published_sizes_with_a_tied_head(preset, total):
    with tinylora.device("meta"):
        model = GPTModel({**PRESETS[preset], "tie_head": True})
    assert trainable(model) == model.summary().total == tinylora.count_parameters(model).total == total


def test_the_count_is_split_by_part_and_by_what_moves():
    model = GPTModel(TINY)
    freeze(model)
    replace_linear_with_lora(model, rank=2, alpha=7)
    count = model.summary()
    assert count.trainable == count.lora.trainable + count.head.trainable == trainable(model)
    assert count.base.trainable == 0 and count.bytes == 4 * count.total
    assert "are trainable" in str(count)


# ------------------------------------------------------------------------------------ GPT against PyTorch
def reference_gpt(torch, state, cfg, tokens):
    """The lecture's GPT in plain PyTorch operations, on the weights of `state`."""
    w = {name: torch.tensor(t.array).requires_grad_() for name, t in state.items()}
    B, T, H = *tokens.shape, cfg["n_heads"]

    def norm(x, at):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return w[f"{at}.scale"] * (x - mean) / torch.sqrt(var + 1e-5) + w[f"{at}.shift"]

    def linear(x, at):
        return x @ w[f"{at}.weight"].T + w.get(f"{at}.bias", 0.0)

    x = w["tok_emb.weight"][tokens] + w["pos_emb.weight"][:T]
    for i in range(cfg["n_layers"]):
        at = f"trf_blocks.{i}"
        h = norm(x, f"{at}.norm1")
        q, k, v = (linear(h, f"{at}.att.W_{s}").view(B, T, H, -1).transpose(1, 2) for s in ("query", "key", "value"))
        scores = (q @ k.transpose(2, 3)).masked_fill(torch.triu(torch.ones(T, T), 1).bool(), -torch.inf)
        context = torch.softmax(scores / k.shape[-1] ** 0.5, -1) @ v
        x = x + linear(context.transpose(1, 2).reshape(B, T, -1), f"{at}.att.out_proj")
        h = linear(norm(x, f"{at}.norm2"), f"{at}.ff.layers.0")
        u = (2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)
        x = x + linear(0.5 * h * (1 + torch.tanh(u)), f"{at}.ff.layers.2")
    return linear(norm(x, "final_norm"), "out_head"), w


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_logits_and_gradients_of_gpt_agree_with_pytorch(qkv_bias):
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install torch")
    cfg = {**TINY, "qkv_bias": qkv_bias}
    model, tokens, target = shaken(GPTModel(cfg)), ids(3, 6), ids(3, 6, seed=1)
    logits = model(tokens)
    nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    expected, weights = reference_gpt(torch, model.state_dict(), cfg, torch.tensor(tokens.array))
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(target.array).flatten()).backward()
    np.testing.assert_allclose(logits.array, expected.detach().numpy(), rtol=0, atol=1e-10)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad.array, weights[name].grad.numpy(), rtol=0, atol=1e-10, err_msg=name)


def test_a_token_sees_no_token_after_it():
    model = shaken(GPTModel(TINY)).eval()
    a, b = ids(1, 6), ids(1, 6)
    b[0, 4] = (b[0, 4].item() + 1) % 11
    assert model(a)[:, :4].equal(model(b)[:, :4]) and not model(a)[:, 4:].allclose(model(b)[:, 4:])


def test_dropout_acts_in_training_alone():
    model = GPTModel({**TINY, "drop_rate": 0.5})
    x = ids(2, 6)
    assert not model(x).equal(model(x))
    model.eval()
    assert model(x).equal(model(x))
    tinylora.manual_seed(1)
    first = model.train()(x)
    tinylora.manual_seed(1)
    assert model(x).equal(first)


# ----------------------------------------------------------------------------------- LoRA while it trains
def test_training_moves_b_first_then_a_and_never_the_base():
    tinylora.manual_seed(0)
    model = GPTModel(TINY)
    freeze(model)
    replace_linear_with_lora(model, rank=2, alpha=3)
    lora = {name: p for name, p in model.named_parameters() if p.requires_grad}
    base = {name: p.array.tobytes() for name, p in model.named_parameters() if not p.requires_grad}
    start = {name: p.array.copy() for name, p in lora.items()}
    assert all(p.array.any() == name.endswith("A") for name, p in lora.items())
    optimizer = tinylora.optim.AdamW(lora.values(), lr=0.01, weight_decay=0.0)
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids(2, 6)).flatten(0, 1), ids(2, 6, seed=1).flatten()).backward()
        optimizer.step()
        assert all(p.array.any() for p in lora.values())
        moved = {name: not np.array_equal(p.array, start[name]) for name, p in lora.items()}
        assert all(moved[name] or (step == 0 and name.endswith("A")) for name in moved)
    assert {name: p.array.tobytes() for name, p in model.named_parameters() if name in base} == base
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_a_frozen_model_computes_no_weight_gradient():
    model = GPTModel(TINY)
    freeze(model)
    replace_linear_with_lora(model, rank=2, alpha=3)
    with tinylora.profile() as p:
        nn.functional.cross_entropy(model(ids(2, 6)).flatten(0, 1), ids(2, 6, seed=1).flatten()).backward()
    calls = {
        name: sum(p.ops[op].vjps[name].calls for op in ("lora_linear", "lora_linears")) for name in p.ops["lora_linear"].vjps
    }
    assert calls == {"d_A": 6 * 2 + 1, "d_B": 6 * 2 + 1, "d_x": 3 * 2 + 1 + 1}  # query, key and value share theirs
    assert p.ops["layer_norm"].vjps["d_weight"].calls == p.ops["embedding"].vjps["d_weight"].calls == 0


def test_ranks_that_make_no_sense():
    for rank in (0, -1, 2.5, "4"):
        with pytest.raises(ValueError, match="rank must be an integer of at least 1"):
            LoRALayer(4, 3, rank, 1)
    with pytest.warns(UserWarning, match="rank 5 is more than a 4 x 3 matrix can use"):
        LoRALayer(4, 3, 5, 1)
    with pytest.raises(TypeError, match="not around a ReLU"):
        LinearWithLoRA(nn.ReLU(), 1, 1)
    model = nn.Sequential(nn.Linear(2, 2))
    replace_linear_with_lora(model, 1, 2)
    with pytest.raises(RuntimeError, match="has a LoRA already"):
        replace_linear_with_lora(model, 1, 2)


def test_unmerging_gives_the_same_bytes_back():
    layer = shaken(LinearWithLoRA(nn.Linear(5, 3), rank=2, alpha=7))
    x = tinylora.randn(4, 5).double()
    before, y = layer.linear.weight.array.tobytes(), layer(x)
    layer.merge()
    with tinylora.no_grad():
        assert layer(x).allclose(y, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="merged already"):
        layer.merge()
    with pytest.raises(RuntimeError, match="merged it cannot be trained"):
        layer(x)
    layer.unmerge()
    assert layer.linear.weight.array.tobytes() == before
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    layer.lora.A.array[0, 0] = np.nan
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        layer.merge()
