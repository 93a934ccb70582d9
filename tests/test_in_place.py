"""In-place functions write into memory: views see it, graphs get PyTorch's gradients, or backward says what was lost."""

import copy
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn

LOST = "has been modified by an inplace operation"


def leaf(data):
    return tinylora.tensor(data, dtype=tinylora.float64, requires_grad=True)


# --------------------------------------------------------------------------------------- leaves
def test_a_leaf_that_requires_grad_cannot_be_changed_in_place():
    x = leaf([1.0, 2.0])

    def assign():
        x[0] = 5.0

    changes = [assign, lambda: x.__iadd__(1), lambda: x.masked_fill_(x > 1, 0.0), lambda: x.zero_(), lambda: x.add_(1)]
    changes += [lambda: x[:1].fill_(1), lambda: x.view(2, 1).mul_(2)]
    for change in changes:
        with pytest.raises(RuntimeError, match="leaf"):
            change()
    assert x.tolist() == [1.0, 2.0]


def test_under_no_grad_it_can_and_stays_a_leaf_that_requires_grad():
    x = leaf([1.0, 2.0, 3.0])
    array = x.array
    with tinylora.no_grad():
        x -= 0.5
        x[0] = 7.0
        x.mul_(2)
        x[1:].fill_(4)
    assert x.tolist() == [14.0, 4.0, 4.0] and x.is_leaf and x.requires_grad and x.array is array
    (x * x).sum().backward()
    assert x.grad.tolist() == [28.0, 8.0, 8.0]


def test_data_is_the_tensor_s_own_memory():
    p = leaf([1.0, 2.0])
    (p * p).sum().backward()
    array = p.array
    p.data += -0.5 * p.grad
    assert p.tolist() == [0.0, 0.0] and p.array is array
    p.data.fill_(3)
    p.detach()[0] = 5
    p.detach().numpy()[1] = 6
    assert p.tolist() == [5.0, 6.0] and p.requires_grad


def test_data_takes_a_tensor_of_another_shape_and_its_gradient_has_that_shape():
    w = tinylora.ones(1, 3, requires_grad=True)
    before = (w * 2).sum()
    w.data = tinylora.ones(5, 3)
    (w * 2).sum().backward()
    assert w.grad.tolist() == [[2.0] * 3] * 5
    with pytest.raises(RuntimeError, match=r"gradient of shape \(1, 3\).*has the shape \(5, 3\)"):
        before.backward()
    with pytest.raises(TypeError, match="takes a Tensor, not ndarray"):
        w.data = np.ones(3)
    with pytest.raises(RuntimeError, match="floating-point, not int64"):
        w.data = tinylora.arange(3)


# ----------------------------------------------------------------------------------------- views
VIEWS = {
    "slice": lambda x: x[1:],
    "row": lambda x: x[1],
    "element": lambda x: x[1, 2],
    "steps": lambda x: x[::2, 1:],
    "new axis": lambda x: x[:, None],
    "view": lambda x: x.view(-1),
    "transposed": lambda x: x.t(),
    "permuted twice": lambda x: x[None].permute(2, 0, 1),
    "part of a view": lambda x: x.view(2, 6)[1][2:],
    "squeezed": lambda x: x[0:1].squeeze(0),
    "split": lambda x: x.split(2)[0],
    "chunk": lambda x: x.chunk(2, 1)[1],
    "unbind": lambda x: x.unbind(1)[3],
    "flatten": lambda x: x.flatten(),
    "turned twice": lambda x: x.mT[1:3].mT,
}
WRITES = {
    "fill_": lambda v: v.fill_(7),
    "zero_": lambda v: v.zero_(),
    "mul_": lambda v: v.mul_(3),
    "+=": lambda v: v.__iadd__(1.5),
    "pow_": lambda v: v.pow_(2),
    "clamp_": lambda v: v.clamp_(2, 9),
    "v[...] = x": lambda v: v.__setitem__(..., 5.0),
    "copy_": lambda v: v.copy_(v * 2 + 1),
    "masked_fill_": lambda v: v.masked_fill_(v > 5, 0.0),
}


def both(program):
    """What a program gives here and on PyTorch."""
    return [program(library) for library in (tinylora, pytest.importorskip("torch"))]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_write_to_a_view_reaches_its_source_and_other_views(view, write):
    def program(library):
        x = library.arange(12.0).view(3, 4)
        other, whole = x[1:, 1:], x.view(-1)
        write(view(x))
        return [t.tolist() for t in (x, other, whole)]

    ours, theirs = both(program)
    assert ours == theirs


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_gradients_through_a_view_that_was_written_to_are_pytorch_s(view, write):
    def program(library):
        x = library.arange(12.0).view(3, 4).requires_grad_()
        y = x * 1.5
        other, v = y[1:, 1:], view(y)
        write(v)
        weights = library.arange(12.0).view(3, 4) + 1
        ((y * weights).sum() + (other * 2).sum() + (v * v).sum()).backward()
        return y.tolist(), other.tolist(), v.tolist(), x.grad.tolist()

    try:
        theirs = program(pytest.importorskip("torch"))
    except RuntimeError as error:
        if "multiple views" not in str(error):  # split, chunk, unbind: PyTorch refuses, we do not
            raise
        pytest.skip("PyTorch refuses to write to one of several views")
    assert program(tinylora) == theirs


def test_writes_of_tracked_values_are_tracked_wherever_they_go():
    def program(library):
        x = library.tensor([1.0, 2.0, 3.0], requires_grad=True)
        out, rows = library.zeros(4, 3), []
        last = out[3]
        out[0] = x * 2
        out[1].copy_(x * x)
        out[2, 1:] += x[:2]
        out[library.tensor([3, 0]), library.tensor([0, 2])] = x[:2] * 5
        rows.append((last * last).sum())
        (rows[0] + (out * out).sum()).backward()
        return out.tolist(), last.tolist(), x.grad.tolist()

    ours, theirs = both(program)
    assert ours == theirs


@given(st.data())
def test_any_program_of_views_and_writes_has_pytorch_s_numbers_and_gradients(data):
    """A root of shape (2, 3, 4), views of views of it, writes to some of them, plain and tracked; then all are used."""
    torch = pytest.importorskip("torch")
    steps = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 3)), max_size=8))
    results = []
    for library in (torch, tinylora):
        x = library.arange(24.0).reshape(2, 3, 4).requires_grad_()
        w = library.tensor(1.5, requires_grad=True)
        tensors = [x * 0.5 + 1]
        for kind, which, how in steps:
            t = tensors[which % len(tensors)]
            if kind == 0 and t.dim():
                tensors.append(t[how % len(t)])
            elif kind == 1 and t.dim():
                tensors.append(t[..., how % 2 :: 2])
            elif kind == 2:
                tensors.append(t.permute(*range(t.dim())[::-1]))
            elif kind == 3:
                tensors.append(t.unsqueeze(0).expand(1, *t.shape))
            elif kind == 4:
                t.mul_(how - 0.5)
            elif t.numel():
                t.copy_(w * w * how) if how % 2 else t.add_(w)
        loss = sum((t * (i + 1)).sum() + (t * t * 0.01).sum() for i, t in enumerate(tensors))
        loss.backward()
        results.append([t.detach().numpy() for t in (*tensors, x.grad, w.grad if w.grad is not None else w)])
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_copy_is_no_view():
    x = tinylora.arange(6.0).view(2, 3)
    for made in (
        x.clone(),
        x.t().reshape(-1),
        x.contiguous().clone(),
        copy.deepcopy(x),
        x[[0, 1]],
        x[x > -1],
        x * 1,
        x.double(),
    ):
        made.zero_()
    assert x.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_what_cannot_be_written_to_says_so():
    with pytest.raises(RuntimeError, match="expanded tensor of shape .*clone"):
        tinylora.ones(1, 3).expand(2, 3).add_(1)
    array = np.ones(3)
    array.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        tinylora.from_numpy(array).add_(1)
    with pytest.raises(RuntimeError, match=r"300 cannot be converted to uint8"):
        tinylora.zeros(2, dtype=tinylora.uint8).fill_(300)


# ------------------------------------------------------------------------- what the graph still needs
@pytest.mark.parametrize(
    "f, changes",
    [
        (lambda y: y * y, True), (lambda y: y.exp(), False), (lambda y: y + 1, False), (lambda y: y.sin(), True),
        (lambda y: y * 3, False), (lambda y: y.sum(), False), (lambda y: y.log(), True), (lambda y: y**3, True),
        (lambda y: y.view(1, 2) * y, True), (lambda y: nn.functional.linear(y, tinylora.ones(2, 2).double()), False),
        (lambda y: y.softmax(0), False), (lambda y: nn.functional.layer_norm(y, (2,)), False), (lambda y: y.relu(), False),
    ],
)  # fmt: skip
def test_backward_raises_if_and_only_if_what_it_needs_was_changed(f, changes):
    x = leaf([1.0, 2.0])
    y = x * 3
    z = f(y).sum()
    expected = leaf([1.0, 2.0])
    f(expected * 3).sum().backward()
    y += 100.0
    if changes:
        with pytest.raises(RuntimeError, match=LOST):
            z.backward()
    else:
        z.backward()
        assert x.grad.tolist() == expected.grad.tolist()


@pytest.mark.parametrize("name", ["exp", "sqrt", "tanh", "sigmoid", "relu"])
def test_an_op_that_keeps_its_result_notices_when_that_is_changed(name):
    x = leaf([1.0, 2.0])
    y = getattr(x, name)()
    y.mul_(2)
    with pytest.raises(RuntimeError, match=f"the gradient of '{name}' needs"):
        y.sum().backward()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.zero_(), lambda w: w.__setitem__(0, 9.0), lambda w: w.data.mul_(2), lambda w: w[1:].fill_(0),
        lambda w: w.detach().view(-1).add_(1), lambda w: w.__setitem__(w > 1, 0.0), lambda w: w.normal_(),
    ],
)  # fmt: skip
def test_a_frozen_input_that_was_changed_after_use_is_noticed(change):
    x, w = leaf([1.0, 2.0]), tinylora.tensor([3.0, 4.0], dtype=tinylora.float64)
    y = x * w
    change(w)
    with pytest.raises(RuntimeError, match=LOST):
        y.sum().backward()


def test_an_optimizer_s_step_between_forward_and_backward_is_noticed():
    layer, x = nn.Linear(2, 2), tinylora.ones(1, 2, requires_grad=True)
    optimizer = tinylora.optim.AdamW(layer.parameters(), lr=0.1)
    layer(x).sum().backward()
    late = layer(x).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match=LOST):
        late.backward()
    layer(x).sum().backward()


def test_inside_a_checkpoint_the_inputs_are_watched_too():
    x = leaf([1.0, 2.0])
    h = x * 3
    y = tinylora.checkpoint(lambda h: h * h, h)
    h.add_(1)
    with pytest.raises(RuntimeError, match=LOST):
        y.sum().backward()


def test_writes_elsewhere_and_in_other_threads_disturb_nobody():
    x, other = leaf([1.0, 2.0]), tinylora.zeros(5)
    y = x * x
    thread = threading.Thread(target=lambda: other.add_(1))
    thread.start()
    thread.join()
    other[2:].mul_(3)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


# -------------------------------------------------------------------------------------- gradients
def test_gradients_add_up_in_place():
    w = leaf([1.0, 2.0])
    (w * 2).sum().backward()
    grad, view = w.grad, w.grad.view(2, 1)
    (w * 3).sum().backward()
    assert w.grad is grad and view.tolist() == [[5.0], [5.0]]


def test_no_two_gradients_share_memory():
    def fresh():
        return [leaf([1.0, 2.0]) for _ in range(3)]

    seed = tinylora.ones(2, dtype=tinylora.float64)
    for f in (
        lambda a, b, c: a + b + c,
        lambda a, b, c: a.view(2) + b - c,
        lambda a, b, c: tinylora.stack([a, b, c]).sum(0),
    ):
        a, b, c = fresh()
        f(a, b, c).backward(seed)
        a.grad.mul_(100)
        assert b.grad.tolist() == [1.0, 1.0] and abs(c.grad.array).tolist() == [1.0, 1.0] and seed.tolist() == [1.0, 1.0]


def test_a_gradient_inside_a_checkpoint_does_not_disturb_the_walk_around_it():
    def program(through):
        w, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
        h = w + b
        y = through(lambda h: h * w, h * 1.0) + w
        y.sum().backward()
        return w.grad.tolist(), b.grad.tolist()

    assert program(tinylora.checkpoint) == program(lambda f, x: f(x))


def test_a_leaf_that_was_frozen_in_between_gets_no_gradient():
    w, x = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (w * x).sum()
    w.requires_grad_(False)
    y.backward()
    assert w.grad is None and x.grad.tolist() == [1.0, 2.0]


def test_a_second_walk_may_find_gradients_of_the_first_overwritten():
    """What an op's gradients share is remembered, and may be a leaf's gradient, to which the next walk adds in place."""
    from tinylora.op import OPS
    from tinylora.testing import gradcheck

    W, b, A, B = np.array([[0.5], [-0.9]]), np.array([0.5, -0.9]), np.array([[0.5]]), np.array([[0.5, -0.9]])
    assert gradcheck(OPS["lora_linears"], (np.array([0.5]), (0.5, 0.5, 0.5), *(W, b, A, B) * 3))
