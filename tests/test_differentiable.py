"""Every public function of a tensor that requires grad has a gradient exactly where PyTorch's of that name has one."""

import contextlib
import inspect
import io
import warnings

import pytest

import tinylora
from tinylora import Tensor, nn
from tinylora.torch_api.operators import Operators

SETTINGS = ("set_", "manual_seed", "seed", "save", "load", "new", "Generator")  # change a state, or take no input
PUBLIC = {
    *(f"torch.{name}" for name in tinylora.__all__ if callable(getattr(tinylora, name, None))),
    *(f"F.{name}" for name in vars(nn.functional) if name[0] != "_"),
    *(f"Tensor.{name}" for name in [*(name for name in dir(Tensor) if name[0] != "_"), *vars(Operators)]),
}
NAMES = sorted(
    name
    for name in PUBLIC
    if not name.partition(".")[2].startswith(SETTINGS)
    and not (name.startswith("Tensor.") and getattr(Tensor, name[7:]) is getattr(tinylora, name[7:], None))  # tried once
)


def calls(library):
    """Arguments to try a function with: most functions take some of these."""
    torch = library
    x = torch.tensor([[0.3, 0.6, 0.2], [0.5, 0.1, 0.9], [0.4, 0.8, 0.7]], requires_grad=True)
    y, m, s = (x * 0.9, x > 0.5, x.sum() / 9)
    ids, picks = torch.tensor([[0, 2, 1], [1, 1, 0], [2, 0, 2]]), torch.tensor([2, 0, 1])
    row, four = x[0], x[None, None]
    yield from [
        (x,),
        (x, y),
        (y, x),
        (x, 2),
        (x, 0.5),
        (2.0, x),
        (x, 0),
        (x, 0, 1),
        (x, 1, ids),
        (x, 0, picks),
        (row,),
        (s,),
    ]
    yield from [(row, row * 2), (x, y, x), (x, m), (x, m, 0.5), (m, x, y), (x, 0, ids, y), (x, 0, picks, y), (x, picks)]
    yield from [
        ([x, y],),
        (x, (3, 3)),
        (x, (1, 0)),
        (x, (1, 1)),
        (x, [3]),
        (x, (3,), row, row),
        (x, (3,), row),
        (x, 0, 0, 1),
    ]
    yield from [("ij,jk->ik", x, y), ("ij->j", x), (ids, x), (x, ids), (four, four, four), (x, y, row), (x, None, 0.5, 0.9)]
    yield from [(x, 0.1, 0.9), (x, y, 0.5), (x, row, x, y), (row, x, row), (x, ids % 2 == 0), (x[None], y[None], x[None])]
    yield from [
        (x[None], y[None]),
        (x, 1, picks[:1], 0.0),
        (x, m, y),
        (x, row, row * 0.5, row, row),
        (x, x, x, 1.0),
        (x, 9, 0),
    ]
    yield from [(x, 0, 1, 3), (x, 0, 3, 1), (x[None], 1, 1), (x, y, y - x), (row, row, row), (x, 3, 0.5), (row, row, 3.0)]
    yield from [(x, [x, y]), (x, "ij"), (x, None), (x, 0, 1, 1), (x, (0, 1)), (x, picks, 0), (x, 1, 0, ids), (x, m, row)]


def of(library, name):
    home, _, name = name.partition(".")
    return getattr({"torch": library, "F": library.nn.functional, "Tensor": library.Tensor}[home], name)


def tracked(function, arguments):
    """For every floating-point output whether it requires grad, None if the call raises or returns no tensors."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            out = function(*arguments)
            out = out if isinstance(out, tuple | list) else (out,)
            return [bool(y.requires_grad) for y in out if y.is_floating_point()] if out else None
    except Exception:
        return None


def found(name):
    """(arguments' number, ours, PyTorch's) for every call that both libraries answer."""
    torch = pytest.importorskip("torch")
    try:
        theirs = of(torch, name)
    except AttributeError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = zip(list(calls(tinylora)), list(calls(torch)), strict=True)
        answers = [(i, tracked(of(tinylora, name), a), tracked(theirs, b)) for i, (a, b) in enumerate(pairs)]
    return [(i, a, b) for i, a, b in answers if a is not None and b is not None]


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_is_where_pytorch_has_one(name):
    answers = found(name)
    if answers is None or inspect.isclass(of(tinylora, name)):
        pytest.skip("not a function of PyTorch's")
    for i, ours, theirs in answers:
        assert ours == theirs, f"{name}, call {i}"


@pytest.mark.parametrize("f", [lambda x: x // 1.0, lambda x: 1.0 // x, lambda x: x.unique()])
def test_where_pytorch_has_no_derivative_backward_says_so(f):
    x = tinylora.tensor([1.5, 2.5], requires_grad=True)
    with pytest.raises(RuntimeError, match="the derivative of (floor_divide|unique) is not implemented"):
        (f(x) + x.sum()).sum().backward()


def test_a_remainder_and_steps_have_their_gradients():
    x, y = (tinylora.tensor([5.5, -5.5], requires_grad=True) for _ in range(2))
    (x % 2.0 + x + 7.0 % y + x.floor() + x.ceil() + x.round() + x.sign()).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0] and y.grad.tolist() == [-1.0, 2.0]
