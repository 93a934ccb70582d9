"""Random choices: permutations, coins, and draws from given weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora


@given(st.integers(0, 50), st.integers(0, 99))
def test_randperm_is_a_permutation_that_the_seed_decides(n, seed):
    tinylora.manual_seed(seed)
    order = tinylora.randperm(n)
    tinylora.manual_seed(seed)
    assert order.tolist() == tinylora.randperm(n).tolist()
    assert sorted(order.tolist()) == list(range(n)) and order.dtype == tinylora.int64


@pytest.mark.parametrize("replacement", [True, False])
def test_multinomial_draws_in_proportion_to_the_weights(replacement):
    tinylora.manual_seed(0)
    weights = tinylora.tensor([1.0, 0.0, 3.0, 6.0]).repeat(20_000, 1)
    first = tinylora.multinomial(weights, 1, replacement).flatten()
    shares = tinylora.bincount(first, minlength=4).array / 20_000
    assert np.abs(shares - [0.1, 0.0, 0.3, 0.6]).max() < 0.015  # four standard deviations


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.data())
def test_multinomial_without_replacement_draws_each_class_once(weights, data):
    count = data.draw(st.integers(1, len(weights)))
    drawn = tinylora.multinomial(tinylora.tensor(weights), count).tolist()
    assert len(drawn) == count == len(set(drawn)) and set(drawn) <= set(range(len(weights)))


@given(st.integers(1, 6), st.integers(0, 99))
def test_multinomial_never_draws_a_class_of_weight_0(ahead, seed):
    tinylora.manual_seed(seed)
    weights = tinylora.tensor([0.0] * ahead + [1e-30] + [0.0] * ahead)
    assert set(tinylora.multinomial(weights, 9, replacement=True).tolist()) == {ahead}


@pytest.mark.parametrize(
    "weights, count, message",
    [
        ([0.0, 0.0], 1, "sum is 0"),
        ([-1.0, 2.0], 1, "at least 0"),
        ([1.0, 2.0], 3, "replacement=True"),
        ([1.0], 0, "no samples"),
    ],
)
def test_multinomial_refuses_what_it_cannot_draw(weights, count, message):
    with pytest.raises(RuntimeError, match=message):
        tinylora.multinomial(tinylora.tensor(weights), count)


def test_bernoulli_is_1_as_often_as_its_input_says():
    tinylora.manual_seed(0)
    p = tinylora.tensor([0.0, 0.2, 1.0]).repeat(20_000, 1)
    drawn = tinylora.bernoulli(p)
    assert drawn.dtype == p.dtype and set(np.unique(drawn.array)) == {0.0, 1.0}
    assert np.abs(drawn.mean(0).array - [0.0, 0.2, 1.0]).max() < 0.012
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        tinylora.bernoulli(tinylora.tensor([1.5]))


def test_a_generator_of_its_own_decides_what_is_drawn():
    p = tinylora.full((30,), 0.5)
    for draw in (
        lambda g: tinylora.randperm(30, generator=g),
        lambda g: tinylora.bernoulli(p, generator=g),
        lambda g: tinylora.multinomial(p, 9, generator=g),
        lambda g: tinylora.normal(0.0, 1.0, (30,), generator=g),
        lambda g: tinylora.zeros(30).exponential_(generator=g),
    ):
        first, again, other = (draw(tinylora.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2))
        assert first == again != other


def test_filling_draws_from_the_distribution_that_is_named():
    tinylora.manual_seed(0)
    x = tinylora.zeros(50_000)
    assert abs(x.exponential_(2.0).mean().item() - 0.5) < 0.01
    assert set(np.unique(x.random_(2, 5).array)) == {2.0, 3.0, 4.0}
    assert abs(x.bernoulli_(0.3).mean().item() - 0.3) < 0.01
