"""The optimizers take the same steps as PyTorch's, and go on from a saved state as if nothing had happened."""

import numpy as np
import pytest
from oracle import torch

import tinylora
from tinylora import nn, optim

OPTIMIZERS = [
    ("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}), ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01, "nesterov": True}), ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}), ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}), ("AdamW", {"lr": 0.1, "weight_decay": 0.5}), ("AdamW", {"betas": (0.0, 0.5)}),
]  # fmt: skip


def parameters(library, dtype="float64"):
    """A matrix, a vector and a 0-d parameter with fixed numbers."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in [(3, 2), (2,), ()]]
    return [library.tensor(a).requires_grad_() for a in arrays]


def loss_of(w, b, s, step):
    return ((w * w).sum() * s + ((w + b) ** 3).mean() + s * s * (step + 1) + b.sum()) * 0.1


def trained(library, optimizer, steps, p):
    for step in range(steps):
        loss = loss_of(*p, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [x.detach().numpy() for x in p]


@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=str)
def test_ten_steps_end_where_pytorch_ends(name, options):
    ours, theirs = parameters(tinylora), parameters(torch)
    a = trained(tinylora, getattr(optim, name)(ours, **options), 10, ours)
    b = trained(torch, getattr(torch.optim, name)(theirs, **options), 10, theirs)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)
        assert isinstance(x, np.ndarray)


@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=str)
def test_float32_parameters_stay_float32(name, options):
    ours, theirs = parameters(tinylora, "float32"), parameters(torch, "float32")
    a = trained(tinylora, getattr(optim, name)(ours, **options), 5, ours)
    b = trained(torch, getattr(torch.optim, name)(theirs, **options), 5, theirs)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
        assert x.dtype == np.float32


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_groups_have_their_own_options(name):
    results = []
    for library, package in ((tinylora, optim), (torch, torch.optim)):
        w, b, s = p = parameters(library)
        groups = [{"params": [w], "lr": 0.1}, {"params": [b, s], "weight_decay": 0.2}]
        optimizer = getattr(package, name)(groups, lr=0.01)
        optimizer.param_groups[1]["lr"] = 0.05  # a schedule
        results.append(trained(library, optimizer, 5, p))
    for x, y in zip(*results, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_a_parameter_without_a_gradient_stays_where_it_is():
    w, b, _ = parameters(tinylora)
    optimizer = optim.AdamW([w, b], lr=0.1, weight_decay=0.5)
    before = b.array
    w.sum().backward()
    optimizer.step()
    assert b.array is before and w.grad is not None
    optimizer.zero_grad()
    assert w.grad is None


def test_a_step_makes_a_new_array_so_that_views_and_snapshots_keep_theirs():
    (w, *_) = parameters(tinylora)
    snapshot, numbers = w.detach(), w.array.copy()
    w.sum().backward()
    optim.SGD([w], lr=1.0).step()
    assert np.array_equal(snapshot.array, numbers) and not np.array_equal(w.array, numbers)
    assert w.requires_grad and w.is_leaf


@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=str)
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name, options):
    first = parameters(tinylora)
    optimizer = getattr(optim, name)(first, **options)
    trained(tinylora, optimizer, 3, first)
    saved = optimizer.state_dict()
    second = [tinylora.tensor(x.array).requires_grad_() for x in first]
    other = getattr(optim, name)(second, lr=123.0)
    other.load_state_dict(saved)
    expected = trained(tinylora, optimizer, 4, first)
    for x, y in zip(trained(tinylora, other, 4, second), expected, strict=True):
        assert np.array_equal(x, y)


def test_a_state_for_other_parameters_is_refused():
    w, b, s = parameters(tinylora)
    saved = optim.Adam([w, b]).state_dict()
    with pytest.raises(ValueError, match="2 parameters, this one has 3"):
        optim.Adam([w, b, s]).load_state_dict(saved)


@pytest.mark.parametrize("options", [{"lr": -1}, {"lr": float("nan")}, {"lr": float("inf")}, {"weight_decay": -0.1}])
def test_options_that_make_no_sense_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        optim.AdamW(parameters(tinylora), **options)


def test_an_optimizer_needs_parameters():
    with pytest.raises(ValueError, match="no parameters"):
        optim.SGD([])


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_the_gradient_norm(max_norm):
    norms, gradients = [], []
    for library, utils in ((tinylora, nn.utils), (torch, torch.nn.utils)):
        p = parameters(library)
        loss_of(*p, 1).backward()
        norms.append(float(utils.clip_grad_norm_(p, max_norm)))
        gradients.append([x.grad.numpy() for x in p])
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)
    for x, y in zip(*gradients, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_clipping_nothing_and_one_tensor():
    w = tinylora.ones(2, requires_grad=True)
    assert nn.utils.clip_grad_norm_([w], 1.0).item() == 0.0
    (w * 3).sum().backward()
    assert nn.utils.clip_grad_norm_(w, 1.0).item() == pytest.approx(18**0.5)
    assert w.grad.array.dtype == np.float32 and np.linalg.norm(w.grad.array) == pytest.approx(1.0, rel=1e-4)
