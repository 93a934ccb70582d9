"""Activation checkpointing: the same numbers and less memory."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TINY, ids

import tinylora
from tinylora import nn, optim, profile
from tinylora.lora import freeze, replace_linear_with_lora
from tinylora.models.gpt import GPTModel
from tinylora.nn import functional as F
from tinylora.training.recompute import checkpoint_modules


def gpt(**changes):
    tinylora.manual_seed(1)
    model = GPTModel({**TINY, "drop_rate": 0.2, **changes})
    freeze(model)
    replace_linear_with_lora(model, rank=2, alpha=3)
    rng = np.random.default_rng(2)
    for p in model.parameters():
        if p.requires_grad:
            p.array = rng.standard_normal(p.shape).astype("float32")
    return model


def losses_and_gradients(model, steps=1):
    tinylora.manual_seed(5)
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids(3, 6)).flatten(0, 1), ids(3, 6, seed=1).flatten())
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return losses, {name: p.grad.array for name, p in model.named_parameters() if p.grad is not None}


def test_a_checkpointed_gpt_trains_as_the_other_with_the_same_dropout():
    plain, light = gpt(), gpt()
    checkpoint_modules(light.trf_blocks)
    expected, found = losses_and_gradients(plain, 5), losses_and_gradients(light, 5)
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert all(np.array_equal(found[1][name], g) for name, g in expected[1].items())


@pytest.mark.parametrize("layers", [1, 3])
def test_a_checkpointed_classifier_has_the_same_gradients(layers):
    """Its last block reads keys and values that were computed outside of it."""
    found = []
    for light in (False, True):
        model = gpt(n_layers=layers)
        if light:
            checkpoint_modules(model.trf_blocks)
        tinylora.manual_seed(5)
        model.features_at(ids(3, 6), tinylora.tensor([5, 2, 0])).pow(2).sum().backward()
        found.append({name: p.grad.array for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and all(np.array_equal(found[1][k], g) for k, g in found[0].items())


def test_it_keeps_the_blocks_inputs_and_no_more():
    kept = []
    for light in (False, True):
        model = gpt(n_layers=4)
        if light:
            checkpoint_modules(model.trf_blocks)
        with profile() as p:
            out = model(ids(3, 6))
        kept.append(p.kept)
        assert out.requires_grad
    assert kept[1] < kept[0] / 4


@given(st.lists(st.booleans(), min_size=2, max_size=2), st.floats(0.0, 0.9))
def test_gradients_of_inputs_and_of_what_is_inside(required, p):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 3)) for _ in range(3)]
    found = []
    for run in (lambda f, *x: f(*x), tinylora.checkpoint):
        a, b = (tinylora.tensor(x, requires_grad=r) for x, r in zip(arrays, required, strict=False))
        w = tinylora.tensor(arrays[2], requires_grad=True)
        tinylora.manual_seed(7)
        y = run(lambda a, b, w=w: F.dropout(a * w, p) * b + w, a, b)
        (y * y).sum().backward()
        found.append([y.array, w.grad.array, *(x.grad.array for x in (a, b) if x.requires_grad)])
    assert all(np.array_equal(x, y) for x, y in zip(*found, strict=True))


def test_dropout_after_it_draws_what_it_would_have_drawn():
    after = []
    for run in (lambda f, x: f(x), tinylora.checkpoint):
        tinylora.manual_seed(3)
        run(lambda x: F.dropout(x, 0.5), tinylora.ones(9, requires_grad=True)).sum().backward()
        after.append(F.dropout(tinylora.ones(50), 0.5).tolist())
    assert after[0] == after[1]


def test_one_inside_another():
    def inner(x):
        return F.dropout(x * 2, 0.5)

    def outer(run):
        return lambda x: run(inner, x).tanh()

    found = []
    for run in (lambda f, x: f(x), tinylora.checkpoint):
        tinylora.manual_seed(3)
        x = tinylora.ones(20, requires_grad=True)
        run(outer(run), x).sum().backward()
        found.append(x.grad.tolist())
    assert found[0] == found[1]


def test_what_trains_nothing_records_nothing():
    x = tinylora.ones(3)
    assert not tinylora.checkpoint(lambda x: x * 2, x).requires_grad
    w = tinylora.ones(3, requires_grad=True)
    with tinylora.no_grad():
        assert not tinylora.checkpoint(lambda x: x * w, x).requires_grad


def test_an_input_without_use_gets_zeros():
    x, unused = tinylora.ones(3, requires_grad=True), tinylora.ones(2, requires_grad=True)
    tinylora.checkpoint(lambda x, unused: x * 2, x, unused).sum().backward()
    assert x.grad.tolist() == [2, 2, 2] and unused.grad.tolist() == [0, 0]


def test_backward_works_twice_and_inside_no_grad():
    w = tinylora.ones(3, requires_grad=True)
    y = tinylora.checkpoint(lambda x: x * w, tinylora.ones(3)).sum()
    y.backward(retain_graph=True)
    with tinylora.no_grad():
        y.backward()
    assert w.grad.tolist() == [2, 2, 2]


def test_it_returns_one_tensor_or_raises():
    with pytest.raises(TypeError, match="one Tensor, not tuple"):
        tinylora.checkpoint(lambda x: (x, x), tinylora.ones(3, requires_grad=True))


def test_a_copy_of_a_checkpointed_model_is_a_model_of_its_own():
    model = gpt()
    checkpoint_modules(model.trf_blocks)
    other = copy.deepcopy(model)
    before = losses_and_gradients(model)
    for p in other.parameters():
        p.array = p.array * 0
    other(ids(3, 6))
    assert losses_and_gradients(copy.deepcopy(model))[0] != before[0]  # moved by one step
    assert all(block.forward.args[0].__self__ is block for block in other.trf_blocks)
    assert isinstance(other.trf_blocks, nn.Sequential)
