"""LoRA as the lecture has it: two factors beside a Linear, merged and unmerged, and the best change of rank r."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.lora import LinearWithLoRA, LoRALayer, freeze, lora_modules, low_rank, replace_linear_with_lora, spectrum
from tinylora.models.gpt import GPTModel
from tinylora.testing.strategies import LoRASize, lora_sizes

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip


def shake(model, seed=0):
    """Every B random: as zeros it hides mistakes."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, LoRALayer):
            module.B.array = rng.standard_normal(module.B.shape).astype(module.B.dtype)
    return model


def wrapped(size, bias=True, double=True):
    linear = nn.Linear(size.in_dim, size.out_dim, bias=bias)
    layer = shake(LinearWithLoRA(linear, size.rank, size.alpha))
    return layer.double() if double else layer


def random(*shape):
    return tinylora.tensor(np.random.default_rng(1).standard_normal(shape))


# ------------------------------------------------------------------------------------------ the layer
def test_A_starts_as_normal_numbers_over_the_root_of_the_rank_and_B_as_zeros():
    tinylora.manual_seed(0)
    layer = LoRALayer(400, 300, rank=16, alpha=5)
    A = layer.A.detach().numpy()
    assert A.shape == (400, 16) and layer.B.shape == (16, 300)
    assert abs(A.std() - 1 / 4) < 0.01 and abs(A.mean()) < 0.01
    assert not layer.B.detach().numpy().any()
    assert layer.A.requires_grad and layer.B.requires_grad
    assert [name for name, _ in layer.named_parameters()] == ["A", "B"]


@given(lora_sizes(), st.booleans())
def test_forward_is_the_formula(size, bias):
    layer = wrapped(size, bias)
    x = random(2, 3, size.in_dim)
    A, B = layer.lora.A.detach().numpy(), layer.lora.B.detach().numpy()
    change = size.alpha * (x.numpy() @ A @ B)
    np.testing.assert_allclose(layer.lora(x).detach().numpy(), change, rtol=1e-12, atol=1e-12)
    apart = layer.linear(x) + layer.lora(x)
    np.testing.assert_allclose(layer(x).detach().numpy(), apart.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.lora.delta(), size.alpha * A @ B, rtol=1e-12, atol=1e-12)


@given(lora_sizes())
def test_the_fused_op_has_the_gradients_of_the_two_layers_side_by_side(size):
    layer = wrapped(size)
    x = random(4, size.in_dim)
    found = []
    for forward in (layer, lambda x: layer.linear(x) + layer.lora(x)):
        layer.zero_grad()
        (forward(x) ** 2).sum().backward()
        found.append([p.grad.numpy() for p in layer.parameters()])
    for fused, apart in zip(*found, strict=True):
        np.testing.assert_allclose(fused, apart, rtol=1e-10, atol=1e-10)


def test_a_new_lora_changes_nothing():
    linear = nn.Linear(6, 4)
    x = tinylora.randn(3, 6)
    before = linear(x).detach().numpy()
    np.testing.assert_array_equal(LinearWithLoRA(linear, 2, 7)(x).detach().numpy(), before)


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "4", None])
def test_a_rank_that_is_no_positive_integer_is_refused(rank):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1"):
        LoRALayer(8, 8, rank, 1)
    model = GPTModel(TINY)
    with pytest.raises(ValueError, match="rank must be"):
        replace_linear_with_lora(model, rank, 1)
    assert not list(lora_modules(model))


def test_a_rank_above_the_smaller_side_warns_and_works():
    with pytest.warns(UserWarning, match="rank 5 is more than a 8 x 3 matrix can use"):
        layer = LoRALayer(8, 3, 5, 1)
    assert layer(tinylora.ones(2, 8)).shape == (2, 3)


def test_alpha_is_what_multiplies():
    layer = wrapped(LoRASize(5, 4, 2, 3.0))
    x = random(2, 5)
    change, delta = layer.lora(x).detach().numpy(), layer.lora.delta()
    layer.lora.alpha = 6.0
    np.testing.assert_allclose(layer.lora(x).detach().numpy(), 2 * change)
    np.testing.assert_allclose(layer.lora.delta(), 2 * delta)
    layer.lora.alpha = 0
    np.testing.assert_array_equal(layer(x).detach().numpy(), layer.linear(x).detach().numpy())


def test_lora_goes_around_a_linear_only():
    with pytest.raises(TypeError, match="around a Linear, not around a Embedding"):
        LinearWithLoRA(nn.Embedding(3, 4), 2, 2)


# ------------------------------------------------------------------------------------------ replacing
def test_every_linear_is_replaced_and_its_place_in_the_tree_kept():
    model = GPTModel(TINY)
    linears = [path for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    ids = tinylora.tensor([[1, 2, 3]])
    before = model(ids).detach().numpy()
    freeze(model)
    replace_linear_with_lora(model, rank=3, alpha=5)
    assert [path for path, _ in lora_modules(model)] == linears and len(linears) == 6 * 2 + 1
    np.testing.assert_allclose(model(ids).detach().numpy(), before, rtol=1e-6)
    assert {path.split(".")[-2] for path, p in model.named_parameters() if p.requires_grad} == {"lora"}
    assert "(W_query): LinearWithLoRA(" in repr(model) and "(lora): LoRALayer()" in repr(model)


def test_a_layer_is_wrapped_once():
    model = GPTModel(TINY)
    last = model.trf_blocks[1].ff.layers
    last[2] = LinearWithLoRA(last[2], 2, 3)
    with pytest.raises(RuntimeError, match=r"trf_blocks\.1\.ff\.layers\.2 has a LoRA already"):
        replace_linear_with_lora(model, 2, 3)
    assert len(list(lora_modules(model))) == 1  # and nothing on the way there was wrapped
    with pytest.raises(RuntimeError, match="this layer has a LoRA already"):
        replace_linear_with_lora(last[2], 2, 3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda linear: nn.Sequential(linear, nn.Sequential(nn.GELU(), linear)), r"0 and 1\.1 are one Linear"),
        (lambda linear: nn.Sequential(nn.Sequential(linear), linear), r"0\.0 and 1 are one Linear"),
        (lambda linear: linear, "the model is itself a Linear"),
    ],
)
def test_a_linear_in_two_places_or_none_is_not_wrapped(make, message):
    model = make(nn.Linear(4, 4))
    before = list(model.modules())
    with pytest.raises(ValueError, match=message):
        apply_lora(model, LoRAConfig(rank=2))
    assert list(model.modules()) == before and all(p.requires_grad for p in model.parameters())


def test_a_block_in_two_places_is_wrapped_once():
    block = nn.Sequential(nn.Linear(4, 4))
    assert [e.path for e in apply_lora(nn.Sequential(block, block), LoRAConfig(rank=2))] == ["0.0"]


# -------------------------------------------------------------------------------------------- merging
@given(lora_sizes(), st.booleans())
def test_merging_keeps_the_answers_and_unmerging_gives_the_same_bytes_and_the_same_array(size, double):
    layer = wrapped(size, double=double).eval()
    x = random(3, size.in_dim).to(layer.linear.weight.dtype)
    original, array, content = layer.linear.weight, layer.linear.weight.array, layer.linear.weight.array.tobytes()
    apart = layer(x).detach().numpy()
    layer.merge()
    assert layer.linear.weight.array is not array and layer.linear.weight.dtype == array.dtype
    np.testing.assert_allclose(layer(x).detach().numpy(), apart, atol=1e-12 if double else 1e-3)
    np.testing.assert_array_equal(layer.linear.weight.array, array + layer.lora.delta().T)
    layer.unmerge()
    assert layer.linear.weight is original and original.array is array and array.tobytes() == content
    np.testing.assert_array_equal(layer(x).detach().numpy(), apart)


def test_merge_and_unmerge_alternate():
    layer = shake(LinearWithLoRA(nn.Linear(4, 3), 2, 5))
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    layer.merge()
    with pytest.raises(RuntimeError, match=r"merged already: call unmerge\(\) first"):
        layer.merge()
    layer.unmerge()
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()


def test_training_while_merged_raises_and_reading_does_not():
    layer = shake(LinearWithLoRA(nn.Linear(4, 3), 2, 5))
    layer.merge()
    x = tinylora.ones(1, 4)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        layer(x)
    with tinylora.no_grad():
        layer(x)
    layer.eval()(x)
    layer.train()
    freeze(layer)
    layer(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_adapter_is_not_merged(bad):
    layer = shake(LinearWithLoRA(nn.Linear(4, 3), 2, 5))
    layer.lora.B.array = np.full((2, 3), bad, np.float32)
    array = layer.linear.weight.array
    with pytest.raises(RuntimeError, match="NaN or infinity into the weight"):
        layer.merge()
    assert layer.linear.weight.array is array and not layer.merged


def test_what_happens_to_the_model_while_merged_happens_to_the_original_weight_too():
    layer = shake(LinearWithLoRA(nn.Linear(4, 3), 2, 5))
    original = layer.linear.weight.array
    layer.merge()
    layer.to(np.float64)
    freeze(layer)
    layer.unmerge()
    weight = layer.linear.weight
    assert weight.dtype == layer.linear.bias.dtype == np.float64 and not weight.requires_grad
    np.testing.assert_array_equal(weight.array, original)
    assert layer(random(2, 4)).shape == (2, 3)
    layer.merge()
    layer.to("meta")
    layer.unmerge()
    assert layer.linear.weight.device == "meta"


def test_a_layer_without_numbers_is_not_merged():
    with tinylora.device("meta"):
        layer = LinearWithLoRA(nn.Linear(4, 3), 2, 5)
    with pytest.raises(RuntimeError, match="on the meta device holds no numbers"):
        layer.merge()
    assert not layer.merged


def test_merging_a_head_leaves_the_embedding_that_shares_its_weight_alone():
    model = GPTModel({**TINY, "tie_head": True})
    replace_linear_with_lora(model, 2, 5)
    shake(model).eval()
    ids = tinylora.tensor([[1, 2, 3]])
    before, embedding = model(ids).detach().numpy(), model.tok_emb.weight.array
    model.out_head.merge()
    assert model.tok_emb.weight.array is embedding
    np.testing.assert_allclose(model(ids).detach().numpy(), before, atol=1e-4)
    model.out_head.unmerge()
    assert model.out_head.linear.weight is model.tok_emb.weight


def test_modes_change_no_weight():
    model = GPTModel(TINY)
    replace_linear_with_lora(model, 2, 5)
    shake(model)
    for merged in (False, True):
        if merged:
            for _, layer in lora_modules(model):
                layer.merge()
        arrays = [p.array for p in model.parameters()]
        contents = [a.tobytes() for a in arrays]
        for mode in (False, True, True, False):
            model.train(mode)
            assert all(p.array is a for p, a in zip(model.parameters(), arrays, strict=True))
        assert [a.tobytes() for a in arrays] == contents


# -------------------------------------------------------------------------------------- the idea of rank r
@st.composite
def matrices(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal(shape), draw(st.integers(1, min(shape))), rng


@given(matrices())
def test_low_rank_leaves_the_error_of_the_singular_values_cut_off(drawn):
    W, r, _ = drawn
    A, B, error = low_rank(tinylora.tensor(W), r)
    assert A.shape == (W.shape[0], r) and B.shape == (r, W.shape[1]) and isinstance(error, float)
    cut_off = np.linalg.svd(W, compute_uv=False)[r:]
    np.testing.assert_allclose(error, np.sqrt((cut_off**2).sum()), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(W - A.numpy() @ B.numpy()), error, atol=1e-12)


@given(matrices())
def test_no_other_factors_leave_less(drawn):
    """Eckart & Young 1936, against random A with the best B for it, and against small moves away from the best."""
    W, r, rng = drawn
    A, B, error = low_rank(tinylora.tensor(W), r)
    for _ in range(10):
        other = rng.standard_normal(A.shape)
        best_for_it = np.linalg.lstsq(other, W, rcond=None)[0]
        assert np.linalg.norm(W - other @ best_for_it) >= error - 1e-9
        moved = (A.numpy() + 1e-2 * other) @ (B.numpy() + 1e-2 * rng.standard_normal(B.shape))
        assert np.linalg.norm(W - moved) >= error - 1e-9


def test_low_rank_finds_a_change_of_that_rank_again():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 20))
    assert low_rank(tinylora.tensor(W), 4).error < 1e-12 < 0.1 < low_rank(tinylora.tensor(W), 3).error
    assert low_rank(W, 4).A.shape == (30, 4)  # an array will do


@pytest.mark.parametrize("shape, r", [((3, 4), 0), ((3, 4), 4), ((3, 4), 1.5), ((3,), 1), ((2, 3, 4), 1)])
def test_low_rank_refuses_what_is_no_matrix_or_no_rank_of_it(shape, r):
    with pytest.raises(ValueError, match="low_rank needs a matrix and a rank"):
        low_rank(tinylora.zeros(*shape), r)


@given(lora_sizes())
def test_spectrum_is_that_of_the_whole_change(size):
    layer = wrapped(size)
    expected = np.linalg.svd(layer.lora.delta(), compute_uv=False)[: size.rank]
    for found in (spectrum(layer), spectrum(layer.lora)):
        assert found.shape == (size.rank,)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_spectrum_follows_alpha_and_not_its_sign():
    layer = wrapped(LoRASize(7, 5, 2, 3.0))
    positive = spectrum(layer)
    layer.lora.alpha = -6.0
    np.testing.assert_allclose(spectrum(layer), 2 * positive)


def test_spectrum_never_forms_the_change():
    layer = shake(LoRALayer(100_000, 90_000, rank=2, alpha=3))  # A B would be 36 GB
    tracemalloc.start()
    try:
        values = spectrum(layer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values.shape == (2,) and values[0] >= values[1] > 0
    assert peak < 20 * (layer.A.array.nbytes + layer.B.array.nbytes)
