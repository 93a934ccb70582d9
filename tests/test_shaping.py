"""Views, joins, gathers, order, indexing and creation agree with PyTorch."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import agree, both_raise, torch

import tinylora
from tinylora.testing.strategies import arrays, broadcastable, separated, shapes

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")  # PyTorch's, for zero sizes


def dims(x):
    return st.integers(-x.ndim, x.ndim - 1)


# ---------------------------------------------------------------------------------------------- views
@given(arrays(shapes()), st.data())
def test_reshape_and_view(x, data):
    order = data.draw(st.sampled_from([x.shape[::-1], (x.size,), (-1,) if x.size else (0,), (1, *x.shape, 1)]))
    agree(lambda t, x: (x.reshape(order), x.contiguous().view(order), t.reshape(x, order)), x)
    if order:
        agree(lambda t, x: (x.reshape(*order), x.contiguous().view(*order)), x)


@given(arrays(shapes(min_dims=1)), st.data())
def test_flatten_and_transpose(x, data):
    a, b = sorted([data.draw(st.integers(0, x.ndim - 1)) for _ in range(2)])
    agree(lambda t, x: (x.flatten(a, b), x.flatten(a - x.ndim), t.flatten(x), x.transpose(a, b), x.transpose(-1, a)), x)


@given(arrays(shapes(min_dims=2)), st.data())
def test_permute_and_transposes(x, data):
    order = data.draw(st.permutations(range(-x.ndim, 0)))
    agree(lambda t, x: (x.permute(order), x.permute(*order), t.permute(x, tuple(order)), x.mT), x)
    if x.ndim == 2:
        agree(lambda t, x: (x.T, x.t()), x)


@given(arrays(shapes(max_side=2)), st.data())
def test_squeeze_and_unsqueeze(x, data):
    at = data.draw(st.integers(-x.ndim - 1, x.ndim))
    agree(lambda t, x: (x.squeeze(), x.unsqueeze(at), t.unsqueeze(x, dim=at)), x)
    if x.ndim:
        dim = data.draw(dims(x))
        agree(lambda t, x: (x.squeeze(dim), t.squeeze(x, dim=dim), x.squeeze((dim,))), x)


@given(broadcastable(2), st.data())
def test_expand(drawn, data):
    shape = np.broadcast_shapes(*drawn)
    agree(lambda t, x: (x.expand(shape), x.expand_as(t.zeros(shape))), data.draw(arrays(drawn[0])))


def test_expand_keeps_axes_marked_minus_one():
    agree(lambda t, x: x.expand(3, -1, 4), np.arange(2.0).reshape(2, 1))


@given(arrays(shapes(min_dims=2)), st.integers(-3, 3))
def test_triangles(x, k):
    agree(lambda t, x: (t.tril(x, k), t.triu(x, diagonal=k), x.tril(), x.triu(k)), x)


# ------------------------------------------------------------------------------- joining and splitting
@given(arrays(shapes(min_dims=1)), st.data())
def test_cat_and_stack(x, data):
    dim = data.draw(dims(x))
    agree(lambda t, x, y: (t.cat([x, y, x], dim), t.stack((x, y), dim=dim), t.stack([x])), x, np.array(x[::-1]))


def test_cat_promotes_and_names_shapes_that_differ():
    agree(lambda t, a, b: t.cat([a, b]), np.array([1, 2]), np.array([0.5], np.float32))
    message = both_raise(lambda t, a, b: t.cat([a, b]), np.zeros((2, 3)), np.zeros((2, 4)))
    assert "(2, 3)" in message and "(2, 4)" in message
    both_raise(lambda t, a, b: t.stack([a, b]), np.zeros((2, 3)), np.zeros((2, 4)))
    both_raise(lambda t, a: t.cat([a, a]), np.zeros(()))


@given(arrays(shapes(min_dims=1)), st.data())
def test_split_chunk_and_unbind(x, data):
    dim, n = data.draw(dims(x)), data.draw(st.integers(1, 4))
    size = x.shape[dim]
    agree(lambda t, x: (*x.split(n, dim), *t.split(x, [size - size // 2, size // 2], dim=dim)), x)
    if size:
        agree(lambda t, x: (*x.chunk(n, dim), *t.chunk(x, n, dim=dim)), x)
    agree(lambda t, x: (*x.unbind(dim), *t.unbind(x, dim)), x)


# --------------------------------------------------------------------------------- gathering and order
@given(arrays(shapes(min_dims=1, min_side=1)), st.data())
def test_gather_scatter_add_and_index_select(x, data):
    dim = data.draw(dims(x))
    index = data.draw(hnp.arrays(np.int64, x.shape, elements=st.integers(0, x.shape[dim] - 1)))
    agree(lambda t, x, i: (t.gather(x, dim, i), x.gather(dim, i)), x, index)
    agree(lambda t, x, i, s: (t.scatter_add(x, dim, i, s), x.scatter_add(dim, i, s)), x, index, np.cos(x))
    agree(lambda t, x, i: (t.index_select(x, dim, i), x.index_select(dim, i)), x, index.reshape(-1))


def test_gather_refuses_an_index_out_of_range():
    with pytest.raises(RuntimeError, match=r"3\.\.3 outside 0\.\.1"):
        tinylora.gather(tinylora.zeros(2, 2), 0, tinylora.tensor([[3, 3]]))
    both_raise(lambda t, x, i: t.gather(x, 0, i), np.zeros((2, 2)), np.array([0]))


@pytest.mark.parametrize("name", ["max", "min"])
@given(x=arrays(shapes(min_side=1)), data=st.data())
def test_max_and_min_pick_one_of_several_equals_along_a_dim_and_share_over_all(name, x, data):
    x = np.rint(x, out=np.empty(x.shape))
    agree(lambda t, x: (getattr(x, name)(), getattr(t, name)(x)), x)
    if x.ndim:
        dim = data.draw(dims(x))
        agree(lambda t, x: (*getattr(x, name)(dim), *getattr(t, name)(x, dim=dim, keepdim=True)), x)
        agree(lambda t, x: (getattr(x, name)(dim).values, getattr(x, name)(dim).indices), x)
    agree(lambda t, x: getattr(t, name)(x, t.zeros_like(x)), x)


@given(arrays(shapes(min_dims=1, min_side=1)), st.data())
def test_argmax_takes_the_first_of_several_equals(x, data):
    dim, x = data.draw(dims(x)), np.rint(x)
    agree(lambda t, x: (x.argmax(), t.argmax(x, dim), x.argmax(dim=dim, keepdim=True)), x)


@given(arrays(shapes(min_dims=1)), st.data())
def test_sort_is_stable(x, data):
    dim, x = data.draw(dims(x)), np.rint(x)
    for descending in (False, True):
        agree(lambda t, x, d=descending: tuple(t.sort(x, dim=dim, descending=d, stable=True)) if t is torch else
              tuple(t.sort(x, dim, descending=d)), x)  # fmt: skip
        agree(lambda t, x, d=descending: (t.argsort(x, dim=dim, descending=d, stable=True) if t is torch else
              x.argsort(dim, d)), x)  # fmt: skip


@given(arrays(shapes(min_dims=1), separated, ("contiguous", "transposed", "strided", "reversed")), st.data())
def test_topk(x, data):
    dim = data.draw(dims(x))
    k = data.draw(st.integers(0, x.shape[dim]))
    agree(lambda t, x: (*t.topk(x, k, dim), *x.topk(k, dim=dim, largest=False)), x)


def test_order_of_nans_and_of_0d_tensors():
    x = np.array([1.0, np.nan, -np.inf, 3.0])
    agree(lambda t, x: (*t.sort(x), *t.topk(x, 2), x.argmax(), x.max(), *x.max(0), x.amax()), x, grad=False)
    agree(lambda t, x: (*t.sort(x, 0), *t.topk(x, 1), *x.max(0), x.argmax(), x.max()), np.array(2.0))
    both_raise(lambda t, x: t.topk(x, 5), x)


# -------------------------------------------------------------------------------------------- indexing
@st.composite
def indices(draw, shape):
    """Any mixture of integers, slices, None, '...', integer arrays (lists, negative ones too) and masks."""
    joint = draw(st.sampled_from([(1,), (2,), (2, 1), (3,)]))  # the shape of all integer arrays
    dots = draw(st.none() | st.tuples(*[st.integers(0, len(shape))] * 2).map(sorted))  # the axes that '...' stands for
    index = []
    for axis, n in enumerate(shape):
        if dots and axis == dots[0]:
            index.append(Ellipsis)
        if dots and dots[0] <= axis < dots[1]:
            continue
        if not dots and draw(st.integers(0, 4)) == 0:
            break
        if draw(st.integers(0, 4)) == 0:
            index.append(None)
        index.append(draw(index_of_an_axis(n, joint)))
    if dots and dots[0] == len(shape):
        index.append(Ellipsis)
    if len(index) != 1 or (isinstance(index[0], list) and isinstance(index[0][0], list)):
        return tuple(index)  # PyTorch still takes a bare list of lists for a tuple, and warns that it will not
    return tuple(index) if draw(st.booleans()) else index[0]


@st.composite
def index_of_an_axis(draw, n, joint):
    kind = draw(st.sampled_from(["integer", "slice", "slice", "array", "list", "mask"]))
    if kind == "integer":
        return draw(st.integers(-n, n - 1))
    if kind == "slice":
        return slice(*draw(st.sampled_from([(None,), (1, None), (0, -1), (None, None, 2), (5, 2)])))
    if kind == "mask":  # with one place, so that it broadcasts against the other arrays
        return np.arange(n) == draw(st.integers(0, n - 1))
    picks = draw(hnp.arrays(np.int64, joint, elements=st.integers(-n, n - 1)))
    return picks.tolist() if kind == "list" else picks


def for_library(t, index):
    if isinstance(index, tuple):
        return tuple(for_library(t, i) for i in index)
    return t.tensor(index) if isinstance(index, np.ndarray) else copy.copy(index)


@given(arrays(shapes(max_dims=4, min_side=1)), st.data())
def test_getitem_and_setitem(x, data):
    index = data.draw(indices(x.shape))
    agree(lambda t, x: x[for_library(t, index)], x)

    def replaced(t, x, v):
        y = x * 1
        y[for_library(t, index)] = v
        return y

    agree(replaced, x, np.array(7.0))


CASES = [
    (0,), (-1,), (0, 1), (..., 0), (None,), (slice(None), None, 1), (slice(0, 0),), (slice(None, None, 2), -1),
    (np.array([0, 1, 1]),), (np.array([[0, -1], [1, 1]]),), (slice(None), np.array([2, 0])),
    (0, slice(None), np.array([1, 0])), (np.array([0, 1]), slice(None), np.array([1, 0])),
    (np.array([0, 1]), 0, np.array([1, 0])), (1, np.array([0, 2]), 3), (..., np.array([0, 3])),
    (np.array([[0], [1]]), np.array([0, 2])), (None, np.array([0, 1]), ..., None), (np.array([True, False]),),
    (slice(None), np.array([True, False, True])), (0, np.array([True, False, True])), (True,),
    (np.array([], dtype=np.int64),), (np.array(1),), (slice(None), np.array(0), np.array([1, 2])), (False,),
    (..., None, 0), (np.zeros((2, 3), dtype=bool),), (np.ones((2, 3), dtype=bool), 1),
    (np.array([1], dtype=np.uint8),), (range(2),),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("index", CASES, ids=str)
def test_indexing_case_by_case(index):
    if index[0] is True or index[0] is False or isinstance(index[0], range) or getattr(index[0], "dtype", 0) == np.uint8:
        as_numpy = (np.array(index[0]).astype(bool if isinstance(index[0], bool) else np.int64),)
        expected = np.arange(24.0).reshape(2, 3, 4)[as_numpy]
        assert np.array_equal(tinylora.arange(24.0).reshape(2, 3, 4)[for_library(tinylora, index)].array, expected)
        return
    x = np.arange(24.0).reshape(2, 3, 4)
    agree(lambda t, x: x[for_library(t, index)], x)
    part = x[index] if not any(isinstance(i, np.ndarray) for i in index) else None

    def replaced(t, x, v):
        y = x * 1
        y[for_library(t, index)] = v
        return y

    agree(replaced, x, np.array(-1.0))
    if part is not None:
        agree(replaced, x, np.array(-part))


def test_a_mask_of_the_whole_shape_selects_and_fills():
    x = np.arange(6.0).reshape(2, 3)
    agree(lambda t, x: x[x > 2], x)

    def filled(t, x):
        y = x * 1
        y[y > 2] = 0.0
        y[0] += 1
        return y

    agree(filled, x)


def test_an_element_taken_twice_gets_both_gradients():
    x = tinylora.tensor([1.0, 2.0], requires_grad=True)
    x[[0, 0, 1]].sum().backward()
    assert x.grad.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("index", [(2,), (-3,), (0, 0, 0), (np.array([2]),), (np.array([True]),), (0.5,), ("a",)], ids=str)
def test_a_bad_index_is_an_index_error(index):
    with pytest.raises(IndexError):
        tinylora.zeros(2, 3)[for_library(tinylora, index)]


# ------------------------------------------------------------------------------------- creation, methods
CREATIONS = [
    lambda t: t.zeros(2, 3), lambda t: t.zeros((2, 3), dtype=t.float64), lambda t: t.ones([2]), lambda t: t.zeros(()),
    lambda t: t.full((2,), 3), lambda t: t.full((2,), 2.5), lambda t: t.full((), True), lambda t: t.arange(5),
    lambda t: t.arange(1, 6, 2), lambda t: t.arange(0.0, 1.0, 0.25), lambda t: t.arange(5, 0, -2),
    lambda t: t.arange(3.0), lambda t: t.tensor([[1, 2], [3, 4]]), lambda t: t.tensor([1.5, 2]),
    lambda t: t.tensor(True), lambda t: t.tensor([]), lambda t: t.tensor(np.float64(1.5)),
    lambda t: t.tensor(np.zeros(2)), lambda t: t.tensor([1, 2], dtype=t.float32),
    lambda t: t.zeros_like(t.ones(2, 1)), lambda t: t.ones_like(t.arange(3)), lambda t: t.full_like(t.ones(2), 7.0),
    lambda t: t.eye(3), lambda t: t.empty(0, 3), lambda t: t.tensor([[]]), lambda t: t.tensor([t.tensor(1.0), 2.0]),
    lambda t: t.from_numpy(np.arange(3)), lambda t: t.tensor(3), lambda t: t.tensor([True, 2]),
    lambda t: t.tensor([1, 2.5]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CREATIONS)))
def test_creation(number):
    agree(CREATIONS[number])


def test_random_numbers_follow_the_seed_and_their_distribution():
    tinylora.manual_seed(3)
    a, b = tinylora.randn(100, 100), tinylora.rand(100, 100)
    tinylora.manual_seed(3)
    assert a.equal(tinylora.randn(100, 100)) and b.equal(tinylora.rand(100, 100))
    assert abs(a.mean().item()) < 0.05 and abs(a.std().item() - 1) < 0.05 and a.dtype == tinylora.float32
    assert b.min().item() >= 0 and b.max().item() < 1 and abs(b.mean().item() - 0.5) < 0.02
    n = tinylora.randint(2, 5, (1000,))
    assert set(n.tolist()) == {2, 3, 4} and n.dtype == tinylora.int64
    assert tinylora.randn_like(a).shape == tinylora.rand_like(a).shape == a.shape


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_casts(dtype):
    agree(lambda t, x: (x.to(getattr(t, dtype)), x.to(t.zeros(1, dtype=getattr(t, dtype)))), np.array([0.0, 1.5, 2.0]))
    agree(
        lambda t, x: (x.float(), x.double(), x.half(), x.long(), x.int(), x.bool(), x.type_as(t.ones(1))),
        np.array([0, 1]),
    )


def test_facts_about_a_tensor():
    def facts(t, x):
        return (x.numel(), x.dim(), x.ndim, x.size(1), tuple(x.size()), tuple(x.shape), x.element_size(), len(x),
                x.tolist(), x.is_contiguous(), x.T.is_contiguous(), x.is_floating_point(), x[0, 0].item(),
                float(x[0, 1]), int(x[1, 0]), bool(x[0, 1] > 0), f"{x[1, 1]:.2f}",
                [range(5)[i] for i in t.tensor([1, 2])])  # fmt: skip

    x = np.arange(6.0).reshape(2, 3)
    assert facts(tinylora, tinylora.tensor(x)) == facts(torch, torch.tensor(x))


def test_what_has_no_single_answer_raises():
    for f in (lambda t, x: x.item(), lambda t, x: bool(x), lambda t, x: len(x.sum()), lambda t, x: list(x.sum())):
        both_raise(f, np.zeros((2, 3)))
    both_raise(lambda t, x: x.numpy(), np.zeros(2))


def test_printed_form():
    for x in ([1.0, 2.0], [[1, 2], [3, 4]], True):
        assert repr(tinylora.tensor(x)) == repr(torch.tensor(x))
    assert repr(tinylora.ones(2, requires_grad=True)) == "tensor([1., 1.], requires_grad=True)"
    assert repr(tinylora.zeros(1, dtype=tinylora.float64)) == "tensor([0.], dtype=float64)"


def test_sizes_that_do_not_fit_are_named():
    for f in (lambda t, x: x.reshape(4), lambda t, x: x.reshape(-1, 4), lambda t, x: x.view(-1, -1),
              lambda t, x: x.expand(4, 3), lambda t, x: x.permute(0, 0), lambda t, x: x.split([1, 2]),
              lambda t, x: x.chunk(0)):  # fmt: skip
        both_raise(f, np.zeros((2, 3)))
    assert "(2, 3)" in both_raise(lambda t, x: x.reshape(4), np.zeros((2, 3)))
    for f in (
        lambda t, x: x.transpose(0, 2),
        lambda t, x: x.unsqueeze(4),
        lambda t, x: x.squeeze(2),
        lambda t, x: x.size(5),
    ):
        both_raise(f, np.zeros((2, 3)))


def test_in_place_spellings():
    def changed(t, x):
        y = x * 1
        y += 1
        y -= 0.5
        y *= x
        y /= 2
        return y.masked_fill_(y > 3, 9.0).add_(1).mul_(x).clamp_(-2, 50), y.clone()

    agree(changed, np.array([1.0, 2.0, 3.0]))
    agree(lambda t: (t.ones(2).zero_(), t.ones(2).fill_(3), t.zeros(2, 2).copy_(t.tensor([1, 2]))))
    both_raise(lambda t, x: x.__iadd__(t.ones(2, 3)), np.array([1, 2, 3]))
    both_raise(lambda t, x: x.__iadd__(0.5), np.array([1, 2, 3]))


def test_every_pair_of_small_shapes_adds_like_pytorch():
    for a, b in itertools.product([(), (1,), (3,), (2, 3), (1, 3), (1, 0)], repeat=2):
        if {0, 3} <= {*a, *b}:
            continue
        agree(lambda t, x, y: x + y * 2, np.ones(a), np.ones(b))
