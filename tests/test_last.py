"""`features_at` computes what the whole model computes at one position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.lora import freeze, replace_linear_with_lora
from tinylora.models.gpt import GPTModel

CONFIG = {
    "vocab_size": 20, "context_length": 9, "emb_dim": 12, "n_heads": 3, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip


@pytest.mark.parametrize("last", [[0, 9], [-1, 0], [0], [0, 0, 0]])
def test_positions_outside_the_rows_are_named(last):
    with pytest.raises(IndexError, match="do not fit rows of shape"):
        GPTModel(CONFIG).features_at(tinylora.randint(0, 20, (2, 9)), tinylora.tensor(last))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.integers(0, 2**31))
def test_features_at_a_position_are_those_of_the_whole_model(last, seed):
    tinylora.manual_seed(seed)
    model = GPTModel(CONFIG)
    freeze(model)
    replace_linear_with_lora(model, rank=2, alpha=3)
    for name, p in model.named_parameters():
        if name.endswith("lora.B"):
            p.array = tinylora.randn(p.shape).array
    model.double()
    ids = tinylora.randint(0, 20, (len(last), 9))
    at = tinylora.tensor(last)
    gradients = []
    for features in (model.features_at(ids, at), model.features(ids)[tinylora.arange(len(last)), at]):
        model.zero_grad()
        (features * features).sum().backward()
        found = [p.grad.numpy() for p in model.parameters() if p.grad is not None]
        gradients.append([features.detach().numpy(), *found])
    for short, whole in zip(*gradients, strict=True):
        np.testing.assert_allclose(short, whole, rtol=1e-9, atol=1e-10)
