"""Kin of LoRA: each starts where it says, has the gradients of its formula, and merges into the same function."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TINY, ids

import tinylora
from tinylora import nn
from tinylora.adapters import LoRAConfig, apply_lora, merge_and_unload
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.models.gpt import GPTModel
from tinylora.testing import gradcheck
from tinylora.testing.strategies import lora_sizes
from tinylora.variants import DropoutLoRA, EmbeddingWithLoRA


def shaken(layer, seed=0):
    """The layer in float64, with A and B random: a B of zeros hides mistakes."""
    rng = np.random.default_rng(seed)
    for p in layer.lora.parameters():
        p.data = rng.standard_normal(p.shape)
    return layer.double()


def random(*shape):
    return tinylora.tensor(np.random.default_rng(1).standard_normal(shape))


# -------------------------------------------------------------------------------------------- dropout
@given(lora_sizes(), st.floats(0.1, 0.9), st.integers(0, 2**32))
def test_dropout_drops_what_A_reads_and_nothing_else(size, p, seed):
    layer = shaken(DropoutLoRA(nn.Linear(size.in_dim, size.out_dim), size.rank, size.alpha, p))
    x = random(3, size.in_dim)
    tinylora.manual_seed(seed)
    found = layer(x).detach().numpy()
    tinylora.manual_seed(seed)
    dropped = nn.functional.dropout(x, p).numpy()
    A, B = layer.lora.A.data, layer.lora.B.data
    expected = x.numpy() @ layer.linear.weight.data.T + layer.linear.bias.data + size.alpha * (dropped @ A @ B)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@given(lora_sizes())
def test_in_evaluation_and_merged_dropout_is_plain_lora(size):
    layer = shaken(DropoutLoRA(nn.Linear(size.in_dim, size.out_dim), size.rank, size.alpha, 0.5)).eval()
    plain = shaken(LinearWithLoRA(layer.linear, size.rank, size.alpha)).eval()
    x = random(3, size.in_dim)
    np.testing.assert_array_equal(layer(x).detach().numpy(), plain(x).detach().numpy())
    layer.merge()
    np.testing.assert_array_equal(layer(x).detach().numpy(), layer.linear(x).detach().numpy())
    with pytest.raises(RuntimeError, match="merged it cannot be trained"):
        layer.train()(x)


@given(lora_sizes())
def test_dropout_gradients(size):
    layer = shaken(DropoutLoRA(nn.Linear(size.in_dim, size.out_dim), size.rank, size.alpha, 0.4))

    class SameMask(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            tinylora.manual_seed(7)
            return self.layer(x)

    gradcheck(SameMask(), [random(3, size.in_dim).numpy()])


def test_dropout_by_configuration():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    apply_lora(model.eval(), LoRAConfig(rank=2, dropout=0.25))
    assert [(m.dropout.p, m.dropout.training) for _, m in lora_modules(model)] == [(0.25, False)] * 2
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="dropout is a probability"):
            LoRAConfig(dropout=wrong)


# ------------------------------------------------------------------------------------------ embeddings
@given(lora_sizes())
def test_an_embedding_with_lora_reads_rows_of_w_and_of_a(size):
    layer = shaken(EmbeddingWithLoRA(nn.Embedding(size.in_dim, size.out_dim), size.rank, size.alpha)).eval()
    tokens = ids(2, 5, high=size.in_dim)
    changed = layer.linear.weight.data + size.alpha * layer.lora.A.data @ layer.lora.B.data
    np.testing.assert_allclose(layer(tokens).detach().numpy(), changed[tokens.numpy()], rtol=1e-10, atol=1e-10)
    before = layer.linear.weight.data
    layer.merge()
    np.testing.assert_allclose(layer.linear.weight.data, changed, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(layer(tokens).detach().numpy(), layer.linear.weight.data[tokens.numpy()])
    layer.unmerge()
    assert layer.linear.weight.data is before


@given(lora_sizes())
def test_embedding_gradients(size):
    layer = shaken(EmbeddingWithLoRA(nn.Embedding(size.in_dim, size.out_dim), size.rank, size.alpha))
    gradcheck(layer, [ids(2, 5, high=size.in_dim)])


def test_embeddings_are_wrapped_by_name_and_never_by_all_linear():
    model = GPTModel({**TINY, "tie_head": True})
    assert len(apply_lora(model, LoRAConfig(rank=2))) == 13
    model = GPTModel({**TINY, "tie_head": True}).eval()
    before = model(ids(2, 6)).detach().numpy()
    plan = apply_lora(model, LoRAConfig(rank=2, targets=("tok_emb", "pos_emb", "W_query")))
    assert [(e.path, e.in_features, e.out_features) for e in plan[:2]] == [("tok_emb", 11, 8), ("pos_emb", 6, 8)]
    assert plan.added == model.summary().lora.trainable
    np.testing.assert_array_equal(model(ids(2, 6)).detach().numpy(), before)
    model.tok_emb.lora.B.data = np.ones_like(model.tok_emb.lora.B.data)
    adapted, head = model(ids(2, 6)).detach().numpy(), model.out_head.weight.data
    merge_and_unload(model)
    assert type(model.tok_emb) is nn.Embedding and model.out_head.weight.data is head  # the head keeps what it shared
    np.testing.assert_allclose(model(ids(2, 6)).detach().numpy(), adapted, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="around an Embedding, not around a Linear"):
        EmbeddingWithLoRA(nn.Linear(3, 4), 2, 1.0)


@pytest.mark.parametrize("targets", [("tok_emb",), ("W_query",)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_is_wrapped_in_evaluation_mode_stays_in_it(targets, dropout):
    model = GPTModel(TINY).eval()
    apply_lora(model, LoRAConfig(rank=2, targets=targets, dropout=dropout))
    assert not any(m.training for m in model.modules())
