"""Layers of one input, side by side: the numbers of one after the other, and gradients that meet without a copy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn, ops
from tinylora.adapters.variants.dora import DoRA
from tinylora.lora import LinearWithLoRA
from tinylora.lora_side_by_side import Parts, joined, unbound
from tinylora.nn.side_by_side import IN_ONE_OP, side_by_side
from tinylora.tensor import Tensor, record


def layers(count, kind=LinearWithLoRA):
    tinylora.manual_seed(0)
    made = [kind(nn.Linear(6, 4), 2, 3.0) for _ in range(count)]
    for layer in made:
        layer.lora.B.data = tinylora.randn(2, 4).data
    return made


@pytest.mark.parametrize("kind", [LinearWithLoRA, DoRA])
def test_layers_side_by_side_are_the_layers_one_by_one(kind):
    made, x = layers(3, kind), tinylora.randn(5, 6)
    assert all(np.array_equal(y.data, layer(x).data) for y, layer in zip(side_by_side(x, *made), made, strict=True))


def test_a_type_that_knows_one_op_for_all_is_asked_and_may_decline(monkeypatch):
    class Mine(nn.Identity):
        pass

    asked = []
    monkeypatch.setitem(IN_ONE_OP, Mine, lambda layers, x: asked.append(len(layers)) or NotImplemented)
    x = tinylora.ones(2)
    assert side_by_side(x, Mine(), Mine()) == [x, x] and side_by_side(x, Mine(), nn.Identity()) == [x, x]
    assert asked == [2]


def test_a_layer_with_a_forward_of_its_own_is_called(monkeypatch):
    made = [nn.Identity(), nn.Identity()]
    monkeypatch.setitem(IN_ONE_OP, nn.Identity, lambda layers, x: [x, x])
    made[1].forward = lambda x: x * 2.0
    x = tinylora.ones(2)
    assert [y.tolist() for y in side_by_side(x, *made)] == [[1.0, 1.0], [2.0, 2.0]]


@given(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 2**31))
def test_parts_of_one_output_train_as_outputs_of_their_own(used, seed):
    """Those that nothing was computed from get no gradient."""
    rng = np.random.default_rng(seed)
    arrays = [Tensor(rng.standard_normal(s)) for _ in range(3) for s in ((4, 6), (4,), (6, 2), (2, 4))]
    gradients = []
    for together in (True, False):
        x = Tensor(np.random.default_rng(0).standard_normal((5, 6)), requires_grad=True)
        inputs = [Tensor(a.data, requires_grad=True) for a in arrays]
        if together:
            outputs = unbound(record(ops.lora_linears, x, 0.5, *inputs))
        else:
            outputs = [record(ops.lora_linear, x, *inputs[i : i + 4], 0.5) for i in (0, 4, 8)]
        assert [y.shape for y in outputs] == [(5, 4)] * 3
        if any(used):
            sum((y * y * (i + 1)).sum() for i, (y, use) in enumerate(zip(outputs, used, strict=True)) if use).backward()
        gradients.append([0.0 if t.grad is None else t.grad.data for t in (x, *inputs)])
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_gradients_that_lie_side_by_side_are_joined_without_a_copy():
    whole = np.arange(48.0).reshape(2, 2, 3, 4)
    parts = [whole[:, :, i] for i in range(3)]
    assert np.shares_memory(joined(whole.shape, Parts(parts)), whole)
    assert np.array_equal(joined(whole.shape, Parts(parts)), whole)
    for others in ([parts[0], None, parts[2]], parts[::-1], [part.copy() for part in parts], [parts[0], parts[0], parts[2]]):
        found = joined(whole.shape, Parts(others))
        assert not np.shares_memory(found, whole)
        assert all(np.array_equal(found[:, :, i], 0 * parts[0] if p is None else p) for i, p in enumerate(others))


def test_neighbours_in_memory_of_other_owners_are_copied():
    """Rows of their own arrays may end where another begins: nobody would keep the second alive."""
    whole = np.arange(12.0)
    others = [np.frombuffer(memoryview(whole)[i : i + 4]) for i in (0, 4, 8)]
    assert not np.shares_memory(joined((3, 4), Parts(others)), whole)
    assert np.array_equal(joined((3, 4), Parts(others)), whole.reshape(3, 4))


def test_nothing_is_recorded_of_what_trains_nothing():
    y = record(
        ops.lora_linears,
        Tensor(np.ones((1, 2))),
        1.0,
        *map(Tensor, (np.ones((3, 2)), np.ones(3), np.ones((2, 1)), np.ones((1, 3)))),
    )
    assert [part.node for part in unbound(y)] == [None]
