"""Kin of LoRA: each starts where it says, has the gradients of its formula, and merges into the same function."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.testing import gradcheck
from tinylora.testing.strategies import lora_sizes
from tinylora.variants import DropoutLoRA


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
