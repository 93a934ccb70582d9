"""The functions agree with PyTorch: numbers, dtypes and gradients."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_table import NO_REPEATS
from oracle import agree, both_raise, torch

import tinylora
from tinylora import nn
from tinylora.testing.strategies import LAYOUTS, array_tuples, arrays, broadcastable, separated, shapes, uniform, within_two

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")  # PyTorch's, for zero sizes

F = {tinylora: nn.functional, torch: torch.nn.functional}
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
nan, inf = math.nan, math.inf


def name_of(library, dtype):
    return getattr(library, dtype)


# ---------------------------------------------------------------------------------- element by element
UNARY = {name: uniform(-3, 3) for name in ["abs", "cos", "erf", "exp", "neg", "relu", "sigmoid", "sin", "tanh"]}
UNARY |= {name: uniform(0.1, 9) for name in ["log", "sqrt", "rsqrt"]}


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions(name):
    @given(arrays(shapes(), UNARY[name]))
    def check(x):
        agree(lambda t, x: getattr(t, name)(x), x)
        agree(lambda t, x: getattr(x, name)(), x.astype(np.float32))

    check()


@pytest.mark.parametrize("name", ["silu", "gelu", "relu"])
@given(x=arrays(shapes(), uniform(-6, 6)))
def test_activations(name, x):
    agree(lambda t, x: getattr(F[t], name)(x), x)


@given(arrays(shapes(), uniform(-6, 6)))
def test_tanh_gelu(x):
    agree(lambda t, x: F[t].gelu(x, approximate="tanh"), x)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "erf"])
def test_functions_of_integers_give_float32(name):
    agree(lambda t, x: getattr(t, name)(x), np.array([1, 2, 3]))
    agree(lambda t, x: getattr(t, name)(x), np.array([True]))


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "abs", "relu", "erf"])
def test_unary_functions_at_the_edges(name):
    agree(lambda t, x: getattr(t, name)(x), np.array([inf, -inf, nan, 0.0, -0.0, 1e300, -1e300]), grad=False)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum"])
@given(pair=array_tuples(2, uniform(0.5, 3)))
def test_binary_functions_broadcast(name, pair):
    agree(lambda t, a, b: getattr(t, name)(a, b), *pair)
    agree(lambda t, a, b: getattr(a, name)(b), *(x.astype(np.float32) for x in pair))


OPERATORS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
}  # fmt: skip


@pytest.mark.parametrize("symbol", OPERATORS)
@given(pair=array_tuples(2, uniform(0.5, 3)), number=st.sampled_from([2, 3.0, 0.5, -1.0]))
def test_operators(symbol, pair, number):
    f = OPERATORS[symbol]
    agree(lambda t, a, b: f(a, b), *pair)
    agree(lambda t, a: f(a, number), pair[0])
    agree(lambda t, a: f(abs(number), a), pair[0].astype(np.float32))


def test_powers_at_zero():
    for exponent in (0, 1, 2, 0.0, 1.0, 2.0, 0.5):
        agree(lambda t, x, e=exponent: x**e, np.array([0.0, 1.0, 2.0]))
    agree(lambda t, a, b: a**b, np.array([0.0, 0.0, -2.0, 3.0]), np.array([0.0, 2.0, 2.0, 0.0]), grad=False)
    agree(lambda t, b: 0.0**b, np.array([0.0, 1.0, 2.0]))
    agree(lambda t, a: a**3, np.array([-2, 0, 5]))


def test_maximum_and_minimum_share_ties():
    agree(lambda t, a, b: (t.maximum(a, b), t.minimum(a, b)), np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 0.0]))
    agree(lambda t, a, b: (t.maximum(a, b), t.minimum(a, b)), np.array([nan, 1.0]), np.array([0.0, nan]), grad=False)


@given(arrays(shapes(), uniform(-3, 3)), st.sampled_from([(-1, 1), (None, 0.5), (0.25, None), (1.0, -1.0)]))
def test_clamp(x, limits):
    agree(lambda t, x: t.clamp(x, *limits), x)
    agree(lambda t, x: x.clamp(min=limits[0], max=limits[1]), x)


def test_clamp_at_the_limits_and_of_integers_and_by_tensors():
    agree(lambda t, x: t.clamp(x, -1, 1), np.array([-1.0, 0.0, 1.0, 2.0]))
    agree(lambda t, x: t.clamp(x, max=2), np.array([1, 2, 3]))
    agree(lambda t, x, low: t.clamp(x, min=low), np.array([1.0, 2.0]), np.array([1.5, 1.5]))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@given(pair=array_tuples(2))
def test_comparisons(name, pair):
    a, b = (np.rint(x, out=np.empty(x.shape)) for x in pair)
    agree(lambda t, a, b: getattr(t, name)(a, b), a, b)
    agree(lambda t, a: getattr(a, f"__{name}__")(1), a)


def test_logic_and_rounding():
    x = np.array([-2.5, -1.0, 0.0, 0.5, 1.5, inf, nan])
    for name in ("isnan", "isinf", "isfinite", "floor", "ceil", "round"):
        agree(lambda t, x, name=name: getattr(t, name)(x), x, grad=False)
    agree(lambda t, x: t.sign(x), x[:-1], grad=False)
    a, b = np.array([True, True, False]), np.array([True, False, False])
    agree(lambda t, a, b: (a & b, a | b, a ^ b, ~a, t.logical_and(a, b), t.logical_or(a, b), t.logical_not(a)), a, b)
    agree(lambda t, a: (a.any(), a.all()), a)
    agree(lambda t, a, b: (a // b, a % b), np.array([7, -7, 6]), np.array([2, 2, -4]))


# --------------------------------------------------------------------------------------------- dtypes
@pytest.mark.parametrize("left, right", [*itertools.product(DTYPES, DTYPES)])
def test_promotion_of_tensors(left, right):
    for a, b in itertools.product([(), (2,)], [(), (2,)]):

        def dtypes(t, a=a, b=b):
            x, y = t.ones(a, dtype=name_of(t, left)), t.ones(b, dtype=name_of(t, right))
            return x + y, x * y, t.where(x == 1, x, y), x / y

        agree(dtypes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [True, 2, 2.5])
def test_promotion_next_to_python_numbers(dtype, number):
    for shape in ((), (2,)):

        def dtypes(t, shape=shape):
            x = t.ones(shape, dtype=name_of(t, dtype))
            return x + number, number * x, x / number, number / x

        agree(dtypes)


def test_float32_stays_float32_next_to_any_scalar():
    x = tinylora.ones(3)
    for scalar in (2, 2.5, True, np.float64(2.5), np.int64(2), tinylora.tensor(2.5, dtype=tinylora.float64)):
        for y in (x + scalar, scalar * x, x / scalar, scalar - x, x**scalar):
            assert y.dtype == tinylora.float32, scalar


def test_integers_divide_into_floats_and_add_up_in_int64():
    agree(lambda t, x: (x / x, x.sum(), x.prod(), x.cumsum(0)), np.array([1, 2, 3], dtype=np.int32))
    agree(lambda t, x: (x.sum(), x.sum(dim=0)), np.array([True, True]))
    both_raise(lambda t, x: x.mean(), np.array([1, 2]))
    both_raise(lambda t, x: x**-1, np.array([1, 2]))


# ----------------------------------------------------------------------------------------- reductions
@st.composite
def reductions(draw, min_side=0, elements=within_two, layouts=LAYOUTS):
    x = draw(arrays(shapes(min_side=min_side), elements, layouts))
    if not x.ndim:
        return x, {}
    one = st.integers(-x.ndim, x.ndim - 1)
    several = st.lists(st.integers(0, x.ndim - 1), unique=True, min_size=1).map(tuple)
    dim = draw(st.none() | one | several)
    return x, ({} if dim is None else {"dim": dim, "keepdim": draw(st.booleans())})


@pytest.mark.parametrize("name", ["sum", "mean"])
@given(drawn=reductions())
def test_sum_and_mean(name, drawn):
    x, options = drawn
    agree(lambda t, x: getattr(t, name)(x, **options), x)
    agree(lambda t, x: getattr(x, name)(**options), x.astype(np.float32))


@pytest.mark.parametrize("name", ["amax", "amin"])
@given(drawn=reductions(min_side=1))
def test_amax_and_amin_share_ties(name, drawn):
    x, options = drawn
    agree(lambda t, x: getattr(t, name)(x, **options), np.rint(x, out=np.empty(x.shape)))


@pytest.mark.parametrize("name", ["var", "std"])
@given(drawn=reductions(2, separated, NO_REPEATS), correction=st.sampled_from([0, 1, 1.5]))
def test_var_and_std(name, drawn, correction):
    x, options = drawn
    if x.ndim:
        agree(lambda t, x: getattr(t, name)(x, correction=correction, **options), x)
        agree(lambda t, x: getattr(x, name)(unbiased=False, **options), x)
        agree(lambda t, x: getattr(x, name)(), x)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # PyTorch's
def test_var_of_one_element_is_nan_and_without_bias_zero():
    agree(lambda t, x: (x.var(), x.std(), x.var(unbiased=False)), np.array([3.0]), grad=False)


@given(arrays(shapes(min_dims=1), uniform(-2, 2)), st.data())
def test_prod_and_cumsum(x, data):
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    x = x.round()  # with zeros
    agree(lambda t, x: (t.cumsum(x, dim), x.cumsum(dim=dim), t.prod(x, dim), x.prod(dim=dim, keepdim=True), x.prod()), x)


def test_reductions_of_nothing():
    x = np.zeros((0, 3))
    agree(lambda t, x: (x.sum(), x.sum(0), x.prod(), x.mean(), x.mean(0), x.mean(1), x.sum(1)), x)
    for name in ("amax", "argmax"):
        both_raise(lambda t, x, name=name: getattr(x, name)(), x)
        both_raise(lambda t, x, name=name: getattr(x, name)(dim=0), x)
    both_raise(lambda t, x: x.max(dim=0), x)


def test_numpy_spellings_mean_the_same():
    x = tinylora.randn(2, 3)
    for name in ("sum", "mean", "var", "std", "amax", "amin", "prod", "argmax"):
        ours, numpys = getattr(x, name)(dim=1, keepdim=True), getattr(x, name)(axis=1, keepdims=True)
        assert ours.equal(numpys) and ours.shape == (2, 1), name
    assert tinylora.cat([x, x], axis=1).shape == (2, 6) and tinylora.softmax(x, axis=0).equal(x.softmax(0))


def test_a_dim_out_of_range_is_an_index_error_that_names_the_range():
    assert "-2 to 1" in both_raise(lambda t, x: x.sum(dim=2), np.zeros((2, 3)))
    assert "-2 to 1" in both_raise(lambda t, x: x.softmax(dim=-3), np.zeros((2, 3)))
    both_raise(lambda t, x: x.sum(dim=(0, 0)), np.zeros((2, 3)))


# ---------------------------------------------------------------------------------------------- softmax
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(x=arrays(shapes(min_dims=1), uniform(-50, 50)), data=st.data())
def test_softmax(name, x, data):
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    agree(lambda t, x: getattr(t, name)(x, dim), x)
    agree(lambda t, x: getattr(x, name)(dim=dim), x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", [[1e4, -1e4, 0], [1e30, 1e30, -1e30], [-inf, 0, 1], [-inf, 3, -inf], [88, 89, 104]])
def test_softmax_of_extreme_values(row, dtype):
    agree(lambda t, x: (t.softmax(x, 0), t.log_softmax(x, 0)), np.array(row, dtype), grad=False)
    agree(lambda t, x: t.softmax(x, 0), np.array(row, dtype))


def test_softmax_of_a_0d_tensor_and_of_integers():
    agree(lambda t, x: (t.softmax(x, 0), t.log_softmax(x, -1)), np.array(3.0))
    both_raise(lambda t, x: t.softmax(x, 0), np.array([1, 2]))


# ------------------------------------------------------------------------------------------------ where
@given(broadcastable(3), st.data())
def test_where_and_masked_fill(drawn, data):
    condition = np.asarray(data.draw(arrays(drawn[0])) > 0)
    a, b = data.draw(arrays(drawn[1])), data.draw(arrays(drawn[2]))
    agree(lambda t, c, a, b: t.where(c, a, b), condition, a, b)
    agree(lambda t, c, a: (t.where(c, a, 0.5), t.where(c, 2.0, a)), condition, a)
    agree(lambda t, c, a: a.masked_fill(c, -inf), np.broadcast_to(condition, np.broadcast_shapes(drawn[0], a.shape)), a)


def test_where_lets_no_nan_through_from_the_side_not_taken():
    x = tinylora.tensor([-1.0, 0.0, 4.0], requires_grad=True)
    y = tinylora.where(x > 0, x, tinylora.tensor([nan, inf, -inf]))
    y[2:].sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 1.0]
    for bad in (nan, inf):
        a = tinylora.tensor([1.0, bad], requires_grad=True)
        b = tinylora.tensor([bad, 2.0], requires_grad=True)
        loss = tinylora.where(tinylora.tensor([True, False]), a * 3, b * 5).sum()
        loss.backward()
        assert (loss.item(), a.grad.tolist(), b.grad.tolist()) == (13.0, [3.0, 0.0], [0.0, 5.0])


# --------------------------------------------------------------------------------------------- products
@given(st.sampled_from(["v,v", "v,m", "m,v", "m,m", "bm,m", "m,bm", "bm,v", "v,bm", "bm,bm", "abm,bm"]), st.data())
def test_matmul(kinds, data):
    n, k, m = (data.draw(st.integers(0, 3)) for _ in range(3))
    left, right = kinds.split(",")
    shape_of = {"v": (k,), "bm": (2, n, k), "abm": (3, 1, n, k), "m": (n, k)}
    a = data.draw(arrays(shape_of[left]))
    b = data.draw(arrays({"v": (k,), "bm": (2, k, m), "m": (k, m)}[right]))
    agree(lambda t, a, b: (t.matmul(a, b), a @ b), a, b)


def test_matmul_names_both_shapes_and_both_dtypes():
    message = both_raise(lambda t, a, b: a @ b, np.zeros((2, 3)), np.zeros((4, 5)))
    assert "(2, 3)" in message and "(4, 5)" in message
    assert "float32 and float64" in both_raise(lambda t, a, b: a @ b, np.zeros((2, 2), "f"), np.zeros((2, 2)))
    both_raise(lambda t, a, b: a @ b, np.zeros(()), np.zeros(3))


EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("bij,bjk->bik", (2, 2, 3), (2, 3, 4)),
    ("ij->ji", (2, 3)), ("ii->i", (3, 3)), ("ii->", (3, 3)), ("ii", (3, 3)), ("iij->j", (3, 3, 2)),
    ("iii->i", (2, 2, 2)), ("ij->", (2, 3)), ("i,i->", (3,), (3,)), ("i,j->ij", (3,), (2,)),
    ("i,j,k->kji", (3,), (2,), (4,)), ("...ij,...jk->...ik", (2, 2, 3), (3, 4)), ("...ij->...ji", (2, 2, 3)),
    ("...,...->...", (2, 3), (3,)), ("i...->...", (2, 3, 4)), ("...ii->...i", (2, 3, 3)),
    ("bthd,bshd->bhts", (1, 2, 2, 3), (1, 4, 2, 3)), ("ij,ij->i", (2, 3), (2, 3)),
    ("ij,kj,k->i", (2, 3), (4, 3), (4,)), ("ij , jk -> ik", (2, 3), (3, 4)), ("ba", (2, 3)), (",ij->ij", (), (2, 3)),
    ("ii,jj->ij", (2, 2), (3, 3)), ("ij,jk->ik", (0, 3), (3, 4)), ("ij,jk->ik", (2, 0), (0, 4)),
    ("aB,Ba->", (2, 3), (3, 2)), ("...i,...i", (4, 2), (4, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUMS, ids=str)
def test_einsum(case):
    equation, *sizes = case
    rng = np.random.default_rng(0)
    agree(lambda t, *x: t.einsum(equation, *x), *(np.asarray(rng.standard_normal(s)) for s in sizes))


def test_einsum_refuses_what_does_not_fit():
    message = both_raise(lambda t, a, b: t.einsum("ij,jk->ik", a, b), np.zeros((2, 3)), np.zeros((4, 5)))
    assert "(2, 3)" in message and "(4, 5)" in message
    both_raise(lambda t, a: t.einsum("ij,jk->ik", a), np.zeros((2, 3)))
    both_raise(lambda t, a: t.einsum("ijk->i", a), np.zeros((2, 3)))
    both_raise(lambda t, a: t.einsum("ij->ik", a), np.zeros((2, 3)))


def test_shapes_that_do_not_broadcast_are_both_named():
    for f in OPERATORS.values():
        message = both_raise(lambda t, a, b, f=f: f(a, b), np.zeros((2, 3)), np.zeros((4, 5)))
        assert "(2, 3)" in message and "(4, 5)" in message
