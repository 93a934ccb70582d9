"""Generating draws from the model's scores, the same for the same seed; the boxed model writes English words."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.checkpoint import load_model
from tinylora.data import END, decode
from tinylora.generate import _draw, generate
from tinylora.models.gpt import GPTModel

DATA = Path(os.environ.get("TINYLORA_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
TRAIN = DATA / "text" / "wikitext-2" / "train.raw.gz"
TINY = {
    "vocab_size": 17, "context_length": 8, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.3, "qkv_bias": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    tinylora.manual_seed(0)
    return GPTModel(TINY)


def continued(model, prompt, count, **options):
    return list(generate(model, prompt, count, **options))


def test_temperature_zero_takes_the_likeliest_token_always(model):
    ids = [1, 2, 3]
    for token in generate(model, [1, 2, 3], 20, temperature=0):
        with tinylora.no_grad():
            scores = model(tinylora.tensor([ids[-8:]]))[0, -1]
        assert token == int(scores.argmax().item())
        ids.append(token)
    assert continued(model, [1, 2, 3], 20, temperature=0, seed=1) == ids[3:]


def test_a_seed_gives_the_same_text(model):
    first = continued(model, [1], 40, seed=5)
    assert continued(model, [1], 40, seed=5) == first != continued(model, [1], 40, seed=6)
    assert len(first) == 40 and all(0 <= t < 17 for t in first)


def test_top_1_is_temperature_zero(model):
    assert continued(model, [1], 20, temperature=2.0, top_k=1, seed=0) == continued(model, [1], 20, temperature=0)


@given(st.integers(1, 20), st.integers(0, 2**32), st.floats(0.1, 10))
def test_top_k_leaves_the_k_likeliest(k, seed, temperature):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(17) / 3.0
    drawn = {_draw(scores, temperature, k, rng) for _ in range(50)}
    assert drawn <= set(np.argsort(scores)[-k:])


def test_tokens_are_drawn_from_the_softmax():
    scores, temperature = np.array([0.0, 1.0, 2.0, -1e4]), 0.7
    rng = np.random.default_rng(0)
    counts = np.bincount([_draw(scores, temperature, None, rng) for _ in range(20_000)], minlength=4)
    expected = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
    np.testing.assert_allclose(counts / 20_000, expected, atol=0.015)


def test_a_prompt_longer_than_the_context_is_forgotten_from_the_front(model):
    long = [1, 2, 3] * 10
    assert continued(model, long, 12, seed=0) == continued(model, long[-8:], 12, seed=0)


def test_generating_turns_dropout_off_and_records_nothing(model):
    model.train()
    assert continued(model, [1], 5, temperature=0) == continued(model, [1], 5, temperature=0)
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_prompt_of_nothing_and_tokens_out_of_range_are_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        continued(model, [], 1)
    for token in (-1, 17):
        with pytest.raises(IndexError, match="outside the vocabulary"):
            continued(model, [1, token], 1)


@pytest.mark.skipif(not TRAIN.is_file(), reason="WikiText-2 is absent: name its folder in TINYLORA_DATA")
def test_the_boxed_model_writes_english_words():
    known = set(re.findall(r"[a-z]+", gzip.decompress(TRAIN.read_bytes()).decode().lower()))
    nano = load_model("nano")
    text = decode(list(generate(nano, [END, *b"The "], 250, temperature=0.7, seed=0)))
    words = [word for word in re.findall(r"[a-z]+", text.lower())[:-1] if len(word) >= 3]  # the last one may be cut
    assert len(words) > 20
    assert sum(word in known for word in words) / len(words) > 0.6
