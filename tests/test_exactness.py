"""What is easily got wrong and seldom noticed: arrays kept for nothing, copies that are none, digits and dtypes lost."""

import copy
import weakref

import numpy as np
import pytest

import tinylora
from tinylora import nn


def leaf(data):
    return tinylora.tensor(data, dtype=tinylora.float64, requires_grad=True)


@pytest.mark.parametrize(
    "f",
    [
        lambda h, w: h @ w,
        lambda h, w: tinylora.einsum("ij,jk->ik", h, w),
        lambda h, w: h * w.mT,
        lambda h, w: nn.functional.linear(h, w.mT),
    ],
)
def test_a_product_with_a_frozen_weight_does_not_keep_the_other_side(f):
    x, w = leaf(np.ones((3, 4))), tinylora.ones(4, 3, dtype=tinylora.float64)
    h = x * 2.0
    seen = weakref.ref(h.array)
    y = f(h, w)
    del h
    assert seen() is None
    y.sum().backward()
    assert x.grad is not None


def test_a_deep_copy_is_a_leaf_of_its_own():
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    twin(tinylora.ones(1, 3)).sum().backward()
    assert model.weight.grad is None and twin.weight.grad is not None
    assert isinstance(twin.weight, nn.Parameter) and twin.weight.array is not model.weight.array
    with pytest.raises(RuntimeError, match="only leaf tensors"):
        copy.deepcopy(twin.weight * 2)


def test_equal_numbers_have_no_deviation_and_no_gradient():
    for value in (0.1, 12345.678, 1e-7):
        for dtype in (tinylora.float32, tinylora.float64):
            x = tinylora.full((1, 7), value, dtype=dtype, requires_grad=True)
            x.std().backward()
            assert (x.grad.array == 0).all()
    y = nn.functional.layer_norm(tinylora.full((2, 768), 12345.678), (768,))
    assert (y.array == 0).all()


def test_float64_does_not_leak_in():
    mask = tinylora.tensor([True, False])
    whole = tinylora.tensor([1, 2])
    for y in (tinylora.where(mask, 1.0, 0.0), tinylora.clamp(whole, min=1.5)):
        assert y.dtype == tinylora.float32
    assert tinylora.relu(whole).dtype == tinylora.cumsum(whole.to(tinylora.uint8), 0).dtype == tinylora.int64
    with pytest.raises(TypeError, match="expected a tensor, got float"):
        tinylora.exp(2.0)
    x = tinylora.ones(2, requires_grad=True)
    (x * 2).backward(tinylora.ones(2, dtype=tinylora.float64))
    assert x.grad.dtype == tinylora.float32


def test_what_is_no_number_is_not_equal():
    x = tinylora.ones(2)
    nothing = None
    assert (x == nothing) is False and (x != "a") is True
    assert x[[]].shape == (0,) and x.sum(np.int64(0)).item() == 2


def test_a_module_is_not_cast_to_integers():
    layer = nn.Linear(2, 2)
    before = layer.weight.array
    with pytest.raises(TypeError, match="floating-point dtype only, not to int64"):
        layer.to(tinylora.int64)
    assert layer.weight.array is before
