"""The optimizers take the same steps as PyTorch's, and go on from a saved state as if nothing had happened."""

import copy

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
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}), ("SGD", {"lr": 0.01, "maximize": True}),
    ("AdamW", {"lr": 0.01, "maximize": True, "foreach": False}), ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.1}), ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
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


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_step_writes_into_the_parameter_so_that_views_follow(name):
    w = tinylora.ones(3, 2, requires_grad=True)
    array, snapshot, row = w.array, w.detach(), w.detach()[1]
    (w * w).sum().backward()
    getattr(optim, name)([w], lr=0.5).step()
    assert w.array is array and snapshot.tolist() == w.tolist() and row.tolist() == w.tolist()[1] != [1.0, 1.0]
    assert w.requires_grad and w.is_leaf
    turned = nn.Parameter(tinylora.ones(2, 3).t())  # not in row order
    (turned * turned).sum().backward()
    optimizer = getattr(optim, name)([turned], lr=0.5)
    optimizer.step()
    assert turned.tolist() == w.tolist()


def given_to(library, case):
    """An optimizer made the way of `case`, after one step."""
    w, b = library.ones(3, requires_grad=True), library.ones(2, requires_grad=True)
    parameters = {
        "one tensor": lambda: w,
        "a dict with a tensor": lambda: [{"params": w}],
        "a dict with a list": lambda: [{"params": [w]}, {"params": b, "lr": 0.5}],
        "names": lambda: [("w", w), ("b", b)],
        "a generator": lambda: (x for x in (w, b)),
        "some names": lambda: [("w", w), b],
        "computed": lambda: [w * 1],
        "computed, in a dict": lambda: [{"params": w * 1}],
        "in two groups": lambda: [{"params": [w]}, {"params": [w]}],
        "nothing": list,
        "a set in a dict": lambda: [{"params": {w}}],
        "a dict alone": lambda: {"params": [w]},
        "None": lambda: [None],
        "an array": lambda: [np.ones(3)],
        "a group without params": lambda: [{"lr": 0.1}],
    }[case]()
    optimizer = (optim if library is tinylora else torch.optim).SGD(parameters, lr=0.1)
    ((w * w).sum() + (b * b).sum()).backward()
    optimizer.step()
    return [x.detach().numpy().tolist() for x in (w, b)]


CASES = """one tensor|a dict with a tensor|a dict with a list|names|a generator|some names|computed|computed, in a dict
in two groups|nothing|a set in a dict|a dict alone|None|an array|a group without params""".replace("\n", "|").split("|")


@pytest.mark.parametrize("case", CASES)
def test_what_an_optimizer_takes_and_refuses_is_pytorch_s(case):
    try:
        expected = given_to(torch, case)
    except Exception as error:
        with pytest.raises(type(error)):
            given_to(tinylora, case)
    else:
        np.testing.assert_allclose(np.concatenate(given_to(tinylora, case)), np.concatenate(expected), rtol=1e-6)


@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=str)
def test_a_deep_copy_of_parameters_and_optimizer_goes_on_alike(name, options):
    p = parameters(tinylora)
    optimizer = getattr(optim, name)(p, **options)
    trained(tinylora, optimizer, 3, p)
    p2, optimizer2 = copy.deepcopy((p, optimizer))
    expected = [x.copy() for x in trained(tinylora, optimizer, 3, p)]
    for x, y in zip(trained(tinylora, optimizer2, 3, p2), expected, strict=True):
        assert np.array_equal(x, y)


def test_the_momentum_is_not_the_gradient_s_memory():
    w = tinylora.ones(2, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1, momentum=0.9)
    (w * 3).sum().backward()
    optimizer.step()
    w.grad.zero_()
    optimizer.step()
    np.testing.assert_allclose(w.array, 1 - 0.1 * 3 - 0.1 * 0.9 * 3, rtol=1e-6)


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


@pytest.mark.parametrize(
    "options", [{"betas": (1.0, 0.9)}, {"lr": -1}, {"lr": float("nan")}, {"lr": float("inf")}, {"weight_decay": -0.1}]
)
def test_options_that_make_no_sense_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        optim.AdamW(parameters(tinylora), **options)


def test_an_optimizer_needs_parameters():
    with pytest.raises(ValueError, match="empty list"):
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
