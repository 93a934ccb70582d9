"""Kept keys and values change no number: the oracle is the model's plain forward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TINY, ids, shaken

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.models.gpt import GPTModel

B, T = 3, TINY["context_length"]


@pytest.fixture(scope="module")
def model():
    tinylora.manual_seed(0)
    model = GPTModel(TINY)
    apply_lora(model, LoRAConfig(rank=2, alpha=3.0))
    return shaken(model).eval()


def kept(model, tokens, cache):
    with tinylora.no_grad():
        return model.features(tokens, cache)


def plain(model, tokens):
    with tinylora.no_grad():
        return model.features(tokens).numpy()


@given(st.lists(st.integers(1, T), min_size=1).map(lambda sizes: [n for n in np.cumsum(sizes) if n <= T]))
def test_any_cut_into_pieces_gives_the_features_of_the_whole(model, stops):
    tokens, cache = ids(B, T), model.new_cache([0] * B)
    found, start = [], 0
    for stop in stops:
        found.append(kept(model, tokens[:, start:stop], cache).numpy())
        start = cache.length
    if stops:
        np.testing.assert_allclose(np.concatenate(found, 1), plain(model, tokens)[:, :start], rtol=1e-10, atol=1e-12)


@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=4), st.integers(0, 9))
def test_padding_on_the_left_changes_no_number(model, padding, junk):
    tokens = ids(len(padding), T)
    padded = np.full((len(padding), T), junk)
    for row, pad in enumerate(padding):
        padded[row, pad:] = tokens.numpy()[row, : T - pad]
    cache = model.new_cache(padding)
    halves = [kept(model, tinylora.tensor(part), cache).numpy() for part in np.split(padded, [T // 2], 1)]
    found = np.concatenate(halves, 1)
    assert np.isfinite(found).all()
    for row, pad in enumerate(padding):
        expected = plain(model, tokens[row : row + 1, : T - pad])[0]
        np.testing.assert_allclose(found[row, pad:], expected, rtol=1e-10, atol=1e-12)


def test_in_float32_every_position_agrees_to_rounding():
    tinylora.manual_seed(0)
    model = GPTModel({**TINY, "context_length": 64, "emb_dim": 64, "n_heads": 4}).eval()
    tokens, cache = ids(2, 64), model.new_cache([0, 0])
    found = np.concatenate([kept(model, tokens[:, i : i + 1], cache).numpy() for i in range(64)], 1)
    np.testing.assert_allclose(found, plain(model, tokens), rtol=0, atol=2e-5)


def test_what_does_not_fit_and_training_are_refused(model):
    cache = model.new_cache(size=4)
    kept(model, ids(1, 3), cache)
    with pytest.raises(ValueError, match="5 tokens do not fit a cache of 4"):
        kept(model, ids(1, 2), cache)
    assert cache.length == 3
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\), and run it under no_grad\(\)"):
        model.features(ids(1, 1), cache)


def test_keys_of_another_shape_than_the_cache_has_are_named():
    model = GPTModel(TINY).eval()
    model.kv_heads = lambda: (1, 4)
    cache = model.new_cache()
    with (
        tinylora.no_grad(),
        pytest.raises(ValueError, match="1 key heads of 4, and the block 2 key heads of 4: define kv_h"),
    ):
        model(ids(1, 3), cache)
