"""A base in few bits: how far its weights may be off, that they are formed and not kept, and LoRA on top of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_adapters import base, scores

import tinylora
from tinylora import nn
from tinylora.adapters import (
    LoRAConfig,
    adapters_by_row,
    apply_lora,
    load_adapter,
    merge,
    merge_and_unload,
    new_adapter,
    save_adapter,
)
from tinylora.adapters.variants import Int8Linear, NF4Linear, QLoRA, dequantize, quantize, weight_error
from tinylora.adapters.variants.nf4 import BLOCK, LEVELS
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.models import load_model
from tinylora.models.gpt import GPTModel
from tinylora.testing import gradcheck

KINDS = [Int8Linear, NF4Linear]
PAPER = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
         -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
         0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip  # appendix E

weights = st.builds(
    lambda seed, rows, scale: np.random.default_rng(seed).standard_normal((rows, 2 * BLOCK)).astype(np.float32) * scale,
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip


def linear(weight, bias=True):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    layer.weight.array = weight
    return layer


# -------------------------------------------------------------------------------------------- weights
def test_the_levels_are_those_of_the_paper():
    np.testing.assert_allclose(LEVELS, PAPER, atol=1e-6)


@given(weights)
def test_int8_is_off_by_half_a_step_at_most(weight):
    found = Int8Linear(linear(weight)).weight.array
    step = abs(weight).max(axis=1, keepdims=True) / 127
    assert (abs(found - weight) <= 0.5001 * step).all()


@given(weights)
def test_nf4_takes_the_nearest_level_of_each_block(weight):
    layer = NF4Linear(linear(weight))
    found = layer.weight.array.reshape(-1, BLOCK)
    blocks, scales = weight.reshape(-1, BLOCK), abs(weight.reshape(-1, BLOCK)).max(axis=1, keepdims=True)
    off = layer.decode(np, *[part.array for part in layer.buffers()]).reshape(-1, BLOCK)
    np.testing.assert_array_equal(found, off)
    top = abs(found).max(axis=1, keepdims=True)  # the scale as kept: each block has a level of ±1
    assert (abs(top - scales) <= 1e-6 * scales + np.ptp(scales) / 127).all()
    nearest = abs(blocks[..., None] - top[..., None] * np.float32(LEVELS)).min(axis=-1)
    np.testing.assert_allclose(abs(found - blocks), nearest, atol=1e-6 * scales.max())


@pytest.mark.parametrize("kind, error, bits", [(Int8Linear, 0.01, 8.05), (NF4Linear, 0.1, 4.13)])
def test_error_and_memory(kind, error, bits):
    weight = np.random.default_rng(0).standard_normal((768, 768)).astype(np.float32)
    layer = kind(linear(weight))
    assert error / 2 < weight_error(linear(weight), layer) < error
    assert bits - 0.02 < 8 * layer.nbytes / weight.size < bits


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros(kind):
    weight = np.zeros((3, BLOCK), np.float32)
    np.testing.assert_array_equal(kind(linear(weight)).weight.array, weight)
    weight[1, 5] = -2.0
    np.testing.assert_allclose(kind(linear(weight)).weight.array, weight, atol=0.02)


def test_a_weight_that_is_no_whole_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 5\) cannot be cut into blocks of 64"):
        NF4Linear(nn.Linear(5, 3))


# --------------------------------------------------------------------------------------------- layers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_a_linear_with_the_weight_it_stands_for(kind, bias):
    plain = linear(np.random.default_rng(0).standard_normal((4, BLOCK)), bias).double()
    layer = kind(plain)
    x = np.random.default_rng(1).standard_normal((2, 3, BLOCK))
    expected = x @ layer.weight.array.T + (plain.bias.array if bias else 0)
    np.testing.assert_allclose(layer(tinylora.tensor(x)).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in layer.named_parameters()] == (["bias"] if bias else [])
    gradcheck(layer, [x])


@pytest.mark.parametrize("kind", KINDS)
def test_lora_on_a_quantised_base(kind):
    layer = QLoRA(kind(linear(np.random.default_rng(0).standard_normal((4, BLOCK)))), 3, 5.0, p=0.5).double().eval()
    layer.lora.B.array = np.random.default_rng(1).standard_normal((3, 4))
    x = np.random.default_rng(2).standard_normal((5, BLOCK))
    same = LinearWithLoRA(linear(layer.linear.weight.array), 3, 5.0)
    same.lora, same.linear.bias = layer.lora, layer.linear.bias
    np.testing.assert_allclose(layer(tinylora.tensor(x)).detach().numpy(), same(tinylora.tensor(x)).detach().numpy())
    gradcheck(layer, [x])
    with pytest.raises(RuntimeError, match=r"dequantize\(model\) first"):
        layer.merge()


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_formed_for_each_product_and_not_kept(kind):
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
    quantize(model, kind)
    apply_lora(model, LoRAConfig(rank=2))
    with tinylora.profile() as p:
        loss = (model(tinylora.randn(8, 256)) ** 2).sum()
        assert p.ops["quantized_linear"].calls == 4 and p.kept < 256 * 256 * 4  # less than one weight
        loss.backward()
    assert p.ops["quantized_linear"].vjps["d_x"].calls == 3  # none into the data


# --------------------------------------------------------------------------------------------- models
def test_what_is_quantised_and_what_stays():
    model = base(emb_dim=64)
    paths = quantize(model, NF4Linear)
    assert len(paths) == 12 and type(model.out_head) is nn.Linear
    assert {type(m) for _, m in model.named_modules() if isinstance(m, nn.Linear)} == {nn.Linear, NF4Linear}
    tied = base(classes=0, emb_dim=64, tie_head=True)
    assert "out_head" not in quantize(tied, Int8Linear, skip=()) and tied.out_head.weight is tied.tok_emb.weight
    apply_lora(tied, LoRAConfig(rank=2))
    assert {type(m).__name__ for _, m in lora_modules(tied)} == {"QLoRA", "LinearWithLoRA"}
    with pytest.raises(ValueError, match="quantise the base first"):
        quantize(tied, Int8Linear)
    for variant in ("dora", "pissa", "lora-fa"):
        with pytest.raises(ValueError, match="is for a plain Linear, not for NF4Linear"):
            apply_lora(model, LoRAConfig(rank=2, variant=variant))
    assert not list(lora_modules(model))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_a_quantised_base_is_saved_loaded_and_merged_after_dequantising(kind, tmp_path):
    config = LoRAConfig(2, 6.0, ("W_query", "ff.layers.0"), ("out_head",), "alpha/r", dropout=0.1)

    def quantised(seed=0):
        model = base(emb_dim=64, seed=seed)
        quantize(model, kind)
        return model

    model = quantised()
    apply_lora(model, config)
    for _, module in lora_modules(model):
        module.lora.B.array = np.random.default_rng(0).standard_normal(module.lora.B.shape).astype(np.float32)
    save_adapter(model, tmp_path / "a", config)
    fresh = quantised()
    load_adapter(fresh, tmp_path / "a")
    np.testing.assert_array_equal(scores(fresh), scores(model))
    for other in (quantised(seed=1), base(emb_dim=64)):
        with pytest.raises(ValueError, match="trained on another base model"):
            load_adapter(other, tmp_path / "a")
    with pytest.raises(RuntimeError, match=r"W_query: a quantised weight has no room"):
        merge(model)
    dequantize(model)
    np.testing.assert_allclose(scores(model), scores(fresh), rtol=1e-4, atol=1e-5)
    merge_and_unload(model)
    np.testing.assert_allclose(scores(model), scores(fresh), rtol=1e-4, atol=1e-4)
    assert {type(m) for m in model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}


def test_adapters_by_name_and_by_row_on_a_quantised_base():
    model = base(emb_dim=64)
    quantize(model, NF4Linear)
    plain = scores(model)
    with new_adapter(model, "a"):
        apply_lora(model, LoRAConfig(rank=2))
    for _, module in lora_modules(model):
        module.lora.B.array = np.ones_like(module.lora.B.array)
    adapted = scores(model)
    with adapters_by_row(model, [None, "a"]):
        np.testing.assert_allclose(scores(model), np.stack([plain[0], adapted[1]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, most", [(Int8Linear, 0.01), (NF4Linear, 0.05)])
def test_the_boxed_model_still_predicts_its_text(kind, most):
    text = tinylora.tensor([list(b"The village lies on the northern bank of the river , and has a small church . ")])

    def loss(model):
        with tinylora.no_grad():
            return nn.functional.cross_entropy(model(text[:, :-1])[0], text[0, 1:]).item()

    model = load_model("nano")
    before = loss(model)
    quantize(model, kind)
    assert abs(loss(model) - before) < most * before


def test_parameters_of_a_quantised_model_are_counted_as_it_has_them():
    model = GPTModel({"vocab_size": 11, "context_length": 8, "emb_dim": 64, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0,
                      "qkv_bias": True})  # fmt: skip
    whole = model.summary().total
    quantize(model, NF4Linear)
    assert whole - model.summary().total == 12 * 64 * 64
