"""Initial values of weights: each distribution has the bounds, the deviation and the structure of its formula."""

import math

import numpy as np
import pytest

import tinylora
from tinylora import nn
from tinylora.nn import init

W = (400, 300)


def drawn(function, *args, shape=W, dtype=tinylora.float32, **options):
    tensor = nn.Parameter(tinylora.full(shape, 7.0, dtype=dtype))
    assert function(tensor, *args, **options) is tensor and tensor.requires_grad and tensor.dtype == dtype
    return tensor.detach().numpy().astype(np.float64)


@pytest.mark.parametrize("name, options, std", [
    ("xavier_normal_", {}, math.sqrt(2 / 700)), ("xavier_normal_", {"gain": 3.0}, 3 * math.sqrt(2 / 700)),
    ("kaiming_normal_", {}, math.sqrt(2 / 300)), ("kaiming_normal_", {"a": math.sqrt(5)}, math.sqrt(1 / 900)),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}, math.sqrt(2 / 400)),
    ("kaiming_normal_", {"nonlinearity": "tanh"}, 5 / 3 / math.sqrt(300)), ("normal_", {"std": 0.02}, 0.02),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [tinylora.float32, tinylora.float64])
def test_normal_ones_have_their_deviation(name, options, std, dtype):
    values = drawn(getattr(init, name), dtype=dtype, **options)
    assert abs(values.std() / std - 1) < 0.01 and abs(values.mean()) < 5 * std / math.sqrt(values.size)


@pytest.mark.parametrize("name, options, bound", [
    ("xavier_uniform_", {}, math.sqrt(6 / 700)), ("kaiming_uniform_", {}, math.sqrt(6 / 300)),
    ("kaiming_uniform_", {"a": math.sqrt(5)}, 1 / math.sqrt(300)),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "linear"}, math.sqrt(3 / 400)),
    ("uniform_", {"a": -0.3, "b": 0.3}, 0.3),
])  # fmt: skip
def test_uniform_ones_fill_their_bounds(name, options, bound):
    values = drawn(getattr(init, name), **options)
    assert np.abs(values).max() <= bound * (1 + 1e-6) and np.abs(values).max() > 0.99 * bound
    assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.01


@pytest.mark.parametrize("a, b", [(-2.0, 2.0), (-0.1, 0.3), (2.5, 3.0), (-9.0, -6.0), (-100.0, 100.0)])
def test_a_truncated_normal_is_one_cut_off(a, b):
    values = drawn(init.trunc_normal_, a=a, b=b)
    grid = np.linspace(max(a, -30.0), min(b, 30.0), 200_001)
    density = np.exp(-(grid**2) / 2)
    mean = (grid * density).sum() / density.sum()
    std = math.sqrt(((grid - mean) ** 2 * density).sum() / density.sum())
    assert a <= values.min() and values.max() <= b
    assert abs(values.mean() - mean) < 5 * std / math.sqrt(values.size) and abs(values.std() / std - 1) < 0.02


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (3, 2, 4)])
def test_an_orthogonal_one_has_orthonormal_rows_or_columns(shape):
    matrix = drawn(init.orthogonal_, gain=2.0, shape=shape, dtype=tinylora.float64).reshape(shape[0], -1) / 2.0
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert np.allclose(product, np.eye(len(product)))


def test_constants_the_identity_and_sparse_columns():
    assert (drawn(init.constant_, 0.25) == 0.25).all()
    assert (drawn(init.ones_) == 1).all() and (drawn(init.zeros_) == 0).all()
    assert (drawn(init.eye_, shape=(3, 5)) == np.eye(3, 5)).all()
    assert ((drawn(init.sparse_, 0.1) == 0).sum(axis=0) == 40).all()


@pytest.mark.parametrize(
    "name", ["xavier_uniform_", "kaiming_normal_", "trunc_normal_", "orthogonal_", "uniform_", "normal_"]
)
def test_a_generator_repeats_itself_and_leaves_the_seed_alone(name):
    tinylora.manual_seed(3)
    expected = tinylora.rand(2)
    tinylora.manual_seed(3)
    first, second = (drawn(getattr(init, name), generator=tinylora.Generator().manual_seed(5)) for _ in range(2))
    assert (first == second).all() and tinylora.equal(tinylora.rand(2), expected)


@pytest.mark.parametrize("name, param", [
    ("linear", None), ("tanh", None), ("relu", None), ("selu", None), ("sigmoid", None), ("leaky_relu", None),
    ("leaky_relu", 0.2), ("conv2d", None), ("conv_transpose1d", None),
])  # fmt: skip
def test_gains_are_those_of_pytorch(name, param):
    torch = pytest.importorskip("torch")
    assert init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)


def test_what_cannot_be_filled_is_an_error():
    with pytest.raises(ValueError, match=r"at least 2 dimensions, and this has shape \(3,\)"):
        init.xavier_uniform_(tinylora.zeros(3))
    with pytest.raises(ValueError, match="no gain is known for 'gelu'"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match="mode is"):
        init.kaiming_uniform_(tinylora.zeros(2, 2), mode="fan")
