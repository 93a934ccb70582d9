"""Generation on a GPU by captured steps: the tokens of ordinary steps, padding, sampling, the end of the context."""

import numpy as np
import pytest
from card import apart, cupy, needs_a_card, needs_nvmath

import tinylora
from tinylora.backend import bfloat16
from tinylora.kernels.cuda import decode
from tinylora.lora import replace_linear_with_lora
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.text.generate import generate_batch
from tinylora.text.sampling import GREEDY, Sampling

pytestmark = needs_a_card
GPT = {
    "vocab_size": 97,
    "context_length": 64,
    "emb_dim": 64,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
}
LLAMA = {
    "vocab_size": 97, "context_length": 64, "emb_dim": 96, "n_heads": 6, "n_kv_heads": 2, "n_layers": 2, "hidden_dim": 80,
}  # fmt: skip
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]


def model_of(kind, dtype=np.float32, lora=False):
    tinylora.manual_seed(0)
    model = kind(GPT if kind is GPTModel else LLAMA)
    if lora:
        replace_linear_with_lora(model, rank=4, alpha=7)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array = (rng.standard_normal(p.shape) * (0.3 if kind is LlamaModel else 0.1)).astype(np.float32)
    return model.to("cuda", dtype).eval()


def ordinary(model, *arguments, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "new_steps", lambda self, cache: None)
        return list(generate_batch(model, *arguments))


@needs_nvmath
@pytest.mark.parametrize("kind", [GPTModel, LlamaModel])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_captured_steps_give_the_tokens_of_ordinary_ones(kind, lora, prompts, monkeypatch):
    model = model_of(kind, lora=lora)
    for sampling in (GREEDY, Sampling(temperature=0.8, top_k=20), Sampling(temperature=0, repetition_penalty=1.3)):
        expected = ordinary(model, prompts, 30, sampling, (), 3, monkeypatch=monkeypatch)
        assert list(generate_batch(model, prompts, 30, sampling, (), 3)) == expected
        if sampling.temperature:
            assert len({tuple(tokens) for tokens in expected}) > 2


@needs_nvmath
def test_generation_goes_on_past_the_context_and_ends_at_stop_tokens(monkeypatch):
    model = model_of(LlamaModel)
    expected = ordinary(model, PROMPTS, 80, GREEDY, (), None, monkeypatch=monkeypatch)
    assert list(generate_batch(model, PROMPTS, 80, GREEDY)) == expected
    stop = expected[12][0], expected[20][1]
    assert list(generate_batch(model, PROMPTS, 80, GREEDY, stop)) == ordinary(
        model, PROMPTS, 80, GREEDY, stop, None, monkeypatch=monkeypatch
    )


@needs_nvmath
def test_a_captured_step_in_bfloat16_has_the_scores_of_an_ordinary_one():
    model = model_of(LlamaModel, bfloat16)
    cache, other = model.new_cache([0, 4, 2], 32), model.new_cache([0, 4, 2], 32)
    prompts = tinylora.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 6], [0, 0, 7, 8, 9]], device="cuda")
    with tinylora.no_grad():
        model.features(prompts, cache), model.features(prompts, other)
        steps = model.new_steps(cache)
        for tokens in ([5, 6, 7], [1, 2, 3], [9, 9, 9], [4, 0, 4]):
            found = steps.scores(tokens)
            ids = tinylora.tensor([[t] for t in tokens], device="cuda")
            expected = model.out_head(model.features(ids, other)[:, -1])
            assert apart(found, expected.array) < 2e-2
    assert steps.graph is not None


def test_heads_that_the_kernel_does_not_take_are_generated_as_before():
    model = GPTModel({**GPT, "emb_dim": 60}).to("cuda")
    assert model.new_steps(model.new_cache((0,), 8)) is None
    assert len(list(generate_batch(model, PROMPTS, 5, GREEDY))) == 5


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_the_largest_number_of_a_row_is_numpys(dtype):
    x = np.random.default_rng(0).standard_normal((5, 3001)).astype(np.float32)
    x[0] = -1.0
    x[1, [7, 70]] = np.inf
    x[2, [9, 5]] = np.nan
    x[3] = -np.inf
    x[4, [100, 99]] = 50.0
    found = cupy.empty((5, 1), np.int64)
    decode.argmax_rows(cupy, cupy.asarray(x).astype(dtype), found)
    assert found.ravel().tolist() == x.argmax(axis=-1).tolist() == [0, 7, 5, 0, 99]
