"""Packed rows give the loss and the gradients of padded ones: examples do not see each other, and positions start anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.tasks import Classify, Text
from tinylora.tasks.batching import pack, pad
from tinylora.tasks.examples import IGNORE, Encoded
from tinylora.tasks.messages import Message
from tinylora.text.tokenizer import BYTES, END
from tinylora.training.loop import TrainConfig, Trainer

GPT = {
    "vocab_size": 257,
    "context_length": 32,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": True,
}
LLAMA = {
    "vocab_size": 257, "context_length": 32, "emb_dim": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "hidden_dim": 24,
}  # fmt: skip
MODELS = {"gpt": lambda: GPTModel(GPT), "llama": lambda: LlamaModel(LLAMA)}
examples = st.lists(st.text("abcdef", min_size=1, max_size=14), min_size=1, max_size=7)


def encoded(texts):
    return [piece for text in texts for piece in Text(BYTES, 32).encode(text)]


@given(examples, st.integers(0, 40))
def test_every_example_is_in_one_row_and_starts_tell_where(texts, length):
    pieces = encoded(texts)
    batch = pack(pieces, range(len(pieces)), END, length)
    rows, starts = batch.rows, batch.rows.starts
    assert sorted(batch.examples) == list(range(len(pieces))) and rows.ids.shape[1] == max(
        length, *(len(p.ids) for p in pieces)
    )
    found = []
    for ids, targets, begins in zip(rows.ids, rows.targets, starts, strict=True):
        for start in sorted(set(begins.tolist())):
            inside = begins == start
            if (targets[inside] != IGNORE).any():
                found.append((ids[inside].tolist(), targets[inside].tolist()))
            else:
                assert inside.sum() == 1 and ids[inside][0] == END
    assert found == [(pieces[i].ids.tolist(), pieces[i].targets.tolist()) for i in batch.examples]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("task", ["text", "classify"])
@given(texts=examples)
@settings(max_examples=8)
def test_packed_and_padded_rows_give_the_same_loss_and_gradients(name, task, texts):
    tinylora.manual_seed(0)
    model = MODELS[name]().double()
    work = Text(BYTES, 32) if task == "text" else Classify(BYTES, 32, ("a", "b"))
    if task == "classify":
        work.head(model)
        model.double()
    apply_lora(model, LoRAConfig(2, 2.0, train=work.whole))
    for p in model.parameters():
        if p.requires_grad:
            p.array = np.random.default_rng(0).standard_normal(p.shape) * 0.3
    given_examples = texts if task == "text" else [Message("ab"[i % 2], text) for i, text in enumerate(texts)]
    pieces = [piece for example in given_examples for piece in work.encode(example)]
    found = []
    for lay in (pad, pack):
        model.zero_grad()
        loss = work.loss(model, *map(tinylora.tensor, work.inputs(lay(pieces, range(len(pieces)), END).rows)))
        loss.backward()
        found.append([loss.item(), *(p.grad.array.copy() for p in model.parameters() if p.requires_grad)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_padded_packed_and_accumulated_steps_are_one(monkeypatch):
    """For the same examples in every step, the last and uneven one included."""
    texts = [Message("ab"[i % 2], "abcdef"[: 1 + i % 6] * (1 + i % 3)) for i in range(22)]
    task = Classify(BYTES, 32, ("a", "b"))

    def in_order(lengths, size, accumulate, *_, **__):
        steps = [list(range(22))[i : i + size * accumulate] for i in range(0, 22, size * accumulate)]
        return [[step[i : i + size] for i in range(0, len(step), size)] for step in steps]

    monkeypatch.setattr("tinylora.training.loop.arrange", in_order)
    weights = []
    for options in ({"batch_size": 8}, {"batch_size": 8, "pack": True}, {"batch_size": 2, "accumulate": 4, "pack": True}):
        tinylora.manual_seed(0)
        model = MODELS["llama"]()
        task.head(model)
        model.double()
        apply_lora(model, LoRAConfig(2, 2.0, train=("out_head",)))
        Trainer(model, task, texts, texts[:4], TrainConfig(epochs=2, lr=1e-2, **options)).run()
        weights.append(np.concatenate([p.array.ravel() for p in model.parameters() if p.requires_grad]))
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(weights[2], weights[0], rtol=1e-6, atol=1e-9)


def test_an_empty_row_is_no_example():
    batch = pack([Encoded(np.array([1, 2]), np.array([2, END]))], [0], END, 4)
    assert batch.rows.ids.tolist() == [[1, 2, END, END]] and batch.rows.starts.tolist() == [[0, 0, 2, 3]]
