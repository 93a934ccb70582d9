"""Generating draws from the model's scores, the same for the same seed; the boxed model writes English words."""

import gzip
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora.models import load_model
from tinylora.models.gpt import GPTModel
from tinylora.text.generate import generate, generate_batch, pieces
from tinylora.text.sampling import GREEDY, Sampling
from tinylora.text.tokenizer import BYTES, END

DATA = Path(os.environ.get("TINYLORA_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
TRAIN = DATA / "text" / "wikitext-2" / "train.raw.gz"
TINY = {
    "vocab_size": 17, "context_length": 8, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.3, "qkv_bias": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    tinylora.manual_seed(0)
    return GPTModel(TINY)


def continued(model, prompt, count, sampling=Sampling(), **options):
    return list(generate(model, prompt, count, sampling, **options))


def likeliest(model, ids):
    """The greedy continuation's next token, by the whole model."""
    with tinylora.no_grad():
        return int(model(tinylora.tensor([ids[-8:]]))[0, -1].argmax().item())


# ------------------------------------------------------------------------------------------- sampling
@given(st.integers(1, 20), st.integers(0, 2**32), st.floats(0.1, 10))
def test_top_k_leaves_the_k_likeliest(k, seed, temperature):
    scores = np.random.default_rng(seed).permutation(17) / 3.0
    p = Sampling(temperature, top_k=k).probabilities(scores)
    assert set(np.flatnonzero(p)) == set(np.argsort(scores)[-k:])


@given(st.floats(0.01, 1), st.integers(0, 2**32))
def test_top_p_leaves_the_fewest_likeliest_that_make_up_p(top_p, seed):
    scores = np.random.default_rng(seed).standard_normal(17) * 3
    p, cut = Sampling().probabilities(scores), Sampling(top_p=top_p).probabilities(scores)
    kept = np.flatnonzero(cut)
    assert p[kept].min() >= np.delete(p, kept).max(initial=0)
    assert p[kept].sum() >= top_p - 1e-12 and p[kept].sum() - p[kept].min() < top_p
    np.testing.assert_allclose(cut[kept], p[kept] / p[kept].sum())


@given(st.integers(0, 2**32), st.floats(0.05, 20), st.floats(0.1, 10), st.sets(st.integers(0, 16)))
def test_probabilities_are_the_softmax_of_penalised_scores_over_the_temperature(seed, temperature, penalty, text):
    scores = np.random.default_rng(seed).standard_normal(17)
    z = scores.copy()
    for i in text:
        z[i] = z[i] / penalty if z[i] > 0 else z[i] * penalty
    expected = np.exp(z / temperature - (z / temperature).max())
    p = Sampling(temperature, repetition_penalty=penalty).probabilities(scores, sorted(text) * 2)
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-9, atol=1e-300)
    greedy = Sampling(0, repetition_penalty=penalty).probabilities(scores, sorted(text))
    assert greedy.sum() == greedy[z.argmax()] == 1


def test_tokens_are_drawn_as_likely_as_they_are():
    scores, sampling = np.array([0.0, 1.0, 2.0, -1e4]), Sampling(0.7)
    rng = np.random.default_rng(0)
    counts = np.bincount([sampling.draw(scores, (), rng) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, sampling.probabilities(scores), atol=0.015)


@pytest.mark.parametrize("name, wrong", [("temperature", -1), ("temperature", math.nan), ("top_k", 0), ("top_p", 0.0),
                                         ("top_p", 1.1), ("top_p", math.nan), ("repetition_penalty", 0)])  # fmt: skip
def test_numbers_that_cannot_be_meant_are_refused(name, wrong):
    with pytest.raises(ValueError, match=f"{name} is a"):
        Sampling(**{name: wrong})


# ----------------------------------------------------------------------------------------- generating
def test_greedy_takes_the_likeliest_token_always(model):
    ids = [1, 2, 3]
    for token in generate(model, [1, 2, 3], 20, GREEDY):
        assert token == likeliest(model, ids)
        ids.append(token)
    assert continued(model, [1, 2, 3], 20, GREEDY, seed=1) == ids[3:]
    assert continued(model, [1, 2, 3], 20, Sampling(2.0, top_k=1), seed=0) == ids[3:]


def test_a_seed_gives_the_same_text(model):
    first = continued(model, [1], 40, seed=5)
    assert continued(model, [1], 40, seed=5) == first != continued(model, [1], 40, seed=6)
    assert len(first) == 40 and all(0 <= t < 17 for t in first)


def test_a_text_ends_before_a_stop_token(model):
    whole = continued(model, [1], 40, seed=5)
    stop = {whole[7], whole[20]}
    assert continued(model, [1], 40, seed=5, stop=stop) == whole[: min(whole.index(t) for t in stop)]
    assert continued(model, [1], 40, seed=5, stop=[17]) == whole


@given(st.lists(st.lists(st.integers(0, 16), min_size=1, max_size=12), min_size=1, max_size=4))
def test_a_batch_continues_each_prompt_as_if_alone(model, prompts):
    stop = {3, 5}
    together = list(zip(*generate_batch(model, prompts, 10, GREEDY, stop), strict=True))
    for prompt, row in zip(prompts, together or [()] * len(prompts), strict=True):
        alone = continued(model, prompt, 10, GREEDY, stop=stop)
        assert list(row[: len(alone)]) == alone and not any(token is not None for token in row[len(alone) :])


def test_in_a_batch_the_draw_of_a_text_does_not_depend_on_the_others(model):
    def first(*prompts):
        return [row[0] for row in generate_batch(model, prompts, 12, seed=3)]

    assert first([1, 2]) == first([1, 2], [5]) == first([1, 2], [5, 6, 7, 8], [9]) == continued(model, [1, 2], 12, seed=3)
    same = list(generate_batch(model, [[1], [1]], 12, seed=3))
    assert [row[0] for row in same] != [row[1] for row in same]


def test_a_prompt_longer_than_the_context_is_forgotten_from_the_front(model):
    long = [1, 2, 3] * 10
    assert continued(model, long, 12, seed=0) == continued(model, long[-8:], 12, seed=0)


def test_generating_turns_dropout_off_and_records_nothing(model):
    model.train()
    assert continued(model, [1], 5, GREEDY) == continued(model, [1], 5, GREEDY)
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_prompt_of_nothing_and_tokens_out_of_range_are_refused(model):
    for prompts in ([[]], [[1], []]):
        with pytest.raises(ValueError, match="at least one token"):
            list(generate_batch(model, prompts, 1))
    for token in (-1, 17):
        with pytest.raises(IndexError, match="outside the vocabulary"):
            continued(model, [1, token], 1)


@given(st.text(), st.sampled_from(["replace", "ignore"]))
def test_pieces_are_the_text_and_hold_no_broken_character(text, errors):
    found = list(pieces(text.encode(), lambda ids: bytes(ids).decode(errors=errors)))
    assert "".join(found) == text and "" not in found


def test_a_text_cut_within_a_character_says_so():
    assert list(pieces([72, 195], lambda ids: bytes(ids).decode(errors="replace"))) == ["H", "\ufffd"]


# --------------------------------------------------------------------------------------- transformers
@pytest.fixture(scope="module")
def both():
    """A small GPT-2 of random weights, by transformers and by us."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers: pip install transformers torch")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"vocab_size": 53, "n_positions": 48, "n_embd": 32, "n_head": 4, "n_layer": 3}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, initializer_range=0.3)).eval()
    ours = GPTModel({"vocab_size": 53, "context_length": 48, "emb_dim": 32, "n_heads": 4, "n_layers": 3,
                     "drop_rate": 0.1, "qkv_bias": True, "tie_head": True})  # fmt: skip
    w = {name.removeprefix("transformer."): p.detach().numpy() for name, p in theirs.named_parameters()}
    state = {"tok_emb.weight": w["wte.weight"], "pos_emb.weight": w["wpe.weight"], "out_head.weight": w["wte.weight"],
             "final_norm.scale": w["ln_f.weight"], "final_norm.shift": w["ln_f.bias"]}  # fmt: skip
    for i in range(3):
        for norm, at in (("norm1", "ln_1"), ("norm2", "ln_2")):
            state[f"trf_blocks.{i}.{norm}.scale"] = w[f"h.{i}.{at}.weight"]
            state[f"trf_blocks.{i}.{norm}.shift"] = w[f"h.{i}.{at}.bias"]
        for kind in ("weight", "bias"):
            parts = np.split(w[f"h.{i}.attn.c_attn.{kind}"], 3, -1)
            fc = (w[f"h.{i}.{at}.{kind}"] for at in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
            for name, array in zip(("att.W_query", "att.W_key", "att.W_value", "att.out_proj", "ff.layers.0",
                                    "ff.layers.2"), (*parts, *fc), strict=True):  # fmt: skip
                state[f"trf_blocks.{i}.{name}.{kind}"] = array.T
    ours.load_state_dict(state)
    return ours.eval(), theirs, torch


def their_tokens(theirs, torch, prompts, **options):
    width = max(map(len, prompts))
    rows = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = theirs.generate(rows, attention_mask=mask, max_new_tokens=30, do_sample=False, pad_token_id=0, **options)
    return out[:, width:].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_the_greedy_continuation_is_that_of_transformers(both, penalty):
    ours, theirs, torch = both
    prompt = [7, 1, 50, 12]
    expected = their_tokens(theirs, torch, [prompt], repetition_penalty=penalty)[0]
    assert continued(ours, prompt, 30, Sampling(0, repetition_penalty=penalty)) == expected
    assert len(set(expected)) > 3


def test_a_batch_padded_on_the_left_is_continued_as_by_transformers(both):
    ours, theirs, torch = both
    prompts = [[7, 1, 50, 12], [3], [9, 9, 8, 40, 41, 2, 17]]
    expected = their_tokens(theirs, torch, prompts)
    assert [list(row) for row in zip(*generate_batch(ours, prompts, 30, GREEDY), strict=True)] == expected


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 20, "top_p": 0.9, "temperature": 1.7}])
def test_the_probabilities_are_those_of_transformers(both, options):
    ours, theirs, torch = both
    prompt = [7, 1, 50, 12]
    out = theirs.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 4), max_new_tokens=1, do_sample=True,
                          pad_token_id=0, return_dict_in_generate=True, output_scores=True,
                          **{"top_k": 0, "top_p": 1.0, **options})  # fmt: skip
    with tinylora.no_grad():
        scores = ours(tinylora.tensor([prompt]))[0, -1].numpy()
    expected = torch.softmax(out.scores[0][0].double(), -1).numpy()
    np.testing.assert_allclose(Sampling(**options).probabilities(scores, prompt), expected, atol=1e-5)


# ---------------------------------------------------------------------------------- the model in the box
@pytest.mark.skipif(not TRAIN.is_file(), reason="WikiText-2 is absent: name its folder in TINYLORA_DATA")
def test_the_boxed_model_writes_english_words():
    known = set(re.findall(r"[a-z]+", gzip.decompress(TRAIN.read_bytes()).decode().lower()))
    nano = load_model("nano")
    text = BYTES.decode(list(generate(nano, [END, *b"The "], 250, Sampling(0.7), seed=0)))
    words = [word for word in re.findall(r"[a-z]+", text.lower())[:-1] if len(word) >= 3]  # the last one may be cut
    assert len(words) > 20
    assert sum(word in known for word in words) / len(words) > 0.6
