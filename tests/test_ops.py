"""Every op of the table: its gradients, its dtypes, its manners, and its tuned versions."""

import importlib.util
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_table import LARGE, ROWS, Call

import tinylora  # registers the tuned versions
from tinylora import ops
from tinylora.backend import is_floating
from tinylora.kernels.cpu import attention, blocks, linear, loss, matmul, products
from tinylora.op import OPS, Op, once
from tinylora.tensor import record, sum_to
from tinylora.testing import KinkError, gradcheck
from tinylora.testing.strategies import arrays

HALVES = [tinylora.float16, *([tinylora.bfloat16] if importlib.util.find_spec("ml_dtypes") else [])]
NAMES = sorted(name for name, op in OPS.items() if op.definition.__module__.startswith("tinylora."))
CUTS = [
    (blocks, "BLOCK", 5), (products, "ALONE", 1), (products, "SMALL", 0),
    (linear, "ROWS", 2), (loss, "LOGITS", 5), (matmul, "ALONE", 1), (matmul, "SMALL", 0),
    (attention, "ROWS", 2), (attention, "SMALL", 0), (attention, "SHORT", 3), (attention, "SCORES", {"numpy": 8}),
]  # fmt: skip
OUTSIDE_OF_GRAPHS = {"accumulate", "adam", "clip_norm"}  # they work on gradients, of which nobody asks for the gradient
OVERWRITES = {"adam"}  # the weights, and what belongs to the optimizer alone
TUNED = [(name, i) for name in NAMES for i in range(len(OPS[name].tuned["numpy"]))]


def is_float(x):
    return isinstance(x, np.ndarray) and is_floating(x.dtype)


def as_dtype(call, dtype):
    """The call in another precision, with the strides it has."""
    inputs, options = call
    return Call(
        tuple(x.astype(dtype, order="K") if is_float(x) else x for x in inputs),
        {name: x.astype(dtype) if is_float(x) else x for name, x in options.items()},
    )


def run(version, call):
    """Output and vjps of one version of an op."""
    with np.errstate(all="ignore"):
        return version(np, *call.inputs, **call.options)


def pull(call, vjps, g):
    """The gradient of every floating input, in the input's shape; None where the op gives none."""
    with np.errstate(all="ignore"):
        pairs = zip(call.inputs, vjps, strict=False)
        return [sum_to(vjp(g), x.shape) if is_float(x) and vjp is not None else None for x, vjp in pairs]


def outputs_of(out):
    """A list of the outputs, of which most ops have one."""
    return [np.asarray(y) for y in (out if isinstance(out, tuple) else (out,))]


def gradient_of(out, make):
    """`make(shape)` for the output, or by number for each of several."""
    return {i: make(y.shape) for i, y in enumerate(out)} if isinstance(out, tuple) else make(np.shape(out))


def parts_of(g):
    return list(g.values()) if isinstance(g, dict) else [g]


def close(a, b, tolerance):
    scale = 1 + np.abs(b).max(initial=0.0, where=np.isfinite(b))
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)


def test_every_op_has_a_row():
    assert set(NAMES) == set(ROWS)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OUTSIDE_OF_GRAPHS])
def test_gradients_are_right(name):
    @given(ROWS[name])
    def check(call):
        gradcheck(OPS[name], call.inputs, **call.options)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32(name):
    @given(ROWS[name])
    def check(call):
        call = as_dtype(call, np.float32)
        if name == "cast":
            call.options["dtype"] = np.dtype("float32")
        with np.errstate(all="ignore"):
            out, vjps = OPS[name](*call.inputs, **call.options)
        gradients = pull(call, vjps, gradient_of(out, lambda shape: np.ones(shape, np.float32)))
        assert all(y.dtype == np.float32 for y in outputs_of(out))
        assert all(d.dtype == np.float32 for d in gradients if d is not None)

    check()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_float64_rounded_once(name, dtype):
    """Outputs and gradients keep the dtype, and are as near to the float64 definition as its rounding allows."""

    @settings(max_examples=8)
    @given(ROWS[name])
    def check(call):
        call = as_dtype(call, dtype)
        exact = as_dtype(call, np.float64)  # the same numbers
        if name == "cast":
            call.options["dtype"], exact.options["dtype"] = dtype, np.dtype("float64")
        with np.errstate(all="ignore"):
            out, vjps = OPS[name](*call.inputs, **call.options)
        expected, exact_vjps = run(OPS[name].definition, exact)
        g = gradient_of(out, lambda shape: np.ones(shape, dtype))
        wide = {i: x.astype(np.float64) for i, x in g.items()} if isinstance(g, dict) else g.astype(np.float64)
        found = [*zip(outputs_of(out), outputs_of(expected), strict=True)]
        found += zip(pull(call, vjps, g), pull(exact, exact_vjps, wide), strict=True)
        for ours, theirs in [(a, b) for a, b in found if b is not None and is_float(b)]:
            assert ours.dtype == dtype and close(ours.astype(np.float64), theirs, 2 * spacing(dtype))

    check()


def spacing(dtype):
    """The distance from 1 to the next number."""
    return 2.0**-7 if dtype == tinylora.bfloat16 else np.finfo(dtype).eps


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OVERWRITES])
def test_a_vjp_writes_neither_into_g_nor_into_an_input(name):
    @given(ROWS[name], st.data())
    def check(call, data):
        out, _ = run(OPS[name].definition, call)
        g = gradient_of(out, lambda shape: data.draw(arrays(shape)).view())
        frozen = [*(x.view() for x in call.inputs if isinstance(x, np.ndarray)), *parts_of(g)]
        for x in frozen:
            x.flags.writeable = False
        before = [x.tobytes() for x in frozen]
        views = iter(frozen)
        call = Call(tuple(next(views) if isinstance(x, np.ndarray) else x for x in call.inputs), call.options)
        with np.errstate(all="ignore"):
            first, vjps = OPS[name](*call.inputs, **call.options)
        kept = [np.array(y) for y in outputs_of(first)]
        pull(call, vjps, g)
        assert [x.tobytes() for x in frozen] == before
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outputs_of(first), kept, strict=True))

    check()


@pytest.fixture
def cut_small(monkeypatch):
    """Make the kernels cut even small arrays into blocks and pieces."""
    for module, name, size in CUTS:
        monkeypatch.setattr(module, name, size)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize("name, i", TUNED)
def test_a_tuned_version_agrees_with_the_definition_in_however_many_pieces(name, i, dtype, tolerance, threads, cut_small):
    before = tinylora.get_num_threads()
    tinylora.set_num_threads(threads)
    try:
        agrees_with_the_definition(name, i, dtype, tolerance)
    finally:
        tinylora.set_num_threads(before)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize("name, i", TUNED)
def test_a_tuned_version_agrees_with_the_definition(name, i, dtype, tolerance):
    agrees_with_the_definition(name, i, dtype, tolerance)


def agrees_with_the_definition(name, i, dtype, tolerance):
    op, accepted = OPS[name], []

    def compare(call, draw):
        call = as_dtype(call, dtype)
        result = run(op.tuned["numpy"][i], as_dtype(call, dtype))  # a copy, for what it may overwrite
        if result is NotImplemented:
            return
        accepted.append(call)
        expected, vjps = run(op.definition, call)
        for ours, theirs in zip(outputs_of(result[0]), outputs_of(expected), strict=True):
            assert ours.dtype == theirs.dtype and close(ours, theirs, tolerance)
        g = gradient_of(expected, lambda shape: draw(shape).astype(dtype, order="K"))
        for ours, theirs in zip(pull(call, result[1], g), pull(call, vjps, g), strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or (ours.dtype == theirs.dtype and close(ours, theirs, tolerance))

    @given(ROWS[name], st.data())
    def small(call, data):
        compare(call, lambda shape: data.draw(arrays(shape)))

    small()
    assert name in LARGE, f"{name} has a tuned version: give it a call in op_table.LARGE"
    for call in LARGE[name]:
        compare(call, lambda shape: np.asarray(np.random.default_rng(0).standard_normal(shape)))
    assert accepted, f"version {i} of {name} declined everything"


# ------------------------------------------------------------------------------------- the op machinery
def test_a_tuned_version_that_declines_gives_way_to_the_definition():
    square = Op(lambda xp, x: (x * x, (lambda g: 2 * g * x,)))
    asked = []

    @square.tune("numpy")
    def only_large(xp, x):
        asked.append(x.size)
        return (x**2, (lambda g: 2 * g * x,)) if x.size > 2 else NotImplemented

    assert square(np.array([3.0]))[0] == 9.0 and asked == [1]


def test_the_latest_tuned_version_is_asked_first():
    constant = Op(lambda xp, x: (x, (None,)))
    constant.tune("numpy")(lambda xp, x: (x + 1, (None,)))
    constant.tune("numpy", "cupy")(lambda xp, x: (x + 2, (None,)))
    assert constant(np.zeros(1))[0] == 2.0 and len(constant.tuned["cupy"]) == 1


def test_once_computes_once_per_gradient():
    calls = []
    shared = once(lambda g: calls.append(1) or g * 2)
    a, b = np.ones(2), np.ones(2)
    assert (shared(a) == shared(a)).all() and len(calls) == 1
    shared(b)
    assert len(calls) == 2


# ---------------------------------------------------------------------------------------- the checker
def test_gradcheck_names_the_op_the_input_the_index_and_both_values():
    def scaled(xp, a, b):
        return a * b, (lambda g: g * b, lambda g: 3 * g * a)

    message = r"scaled: wrong gradient of input 1 at index \(0, 1\).*gives 6, finite differences 2.*output 0"
    with pytest.raises(AssertionError, match=message):
        gradcheck(Op(scaled), [np.array([[0.0, 2.0]]), np.array([[5.0, 7.0]])])


def test_gradcheck_names_a_kink_as_a_kink():
    with pytest.raises(KinkError, match=r"relu: a kink in input 0 at index \(1,\).*slope 0 .* and 1 to the right"):
        gradcheck(ops.relu, [np.array([1.0, 0.0])])


def test_gradcheck_takes_a_step_over_a_nearby_kink_for_no_error():
    assert gradcheck(ops.relu, [np.array([1.0, 5e-7])])


def test_gradcheck_finds_a_gradient_of_the_wrong_place():
    def shifted(xp, x):
        return x * x, (lambda g: (2 * x * g)[::-1],)

    with pytest.raises(AssertionError, match="shifted"):
        gradcheck(Op(shifted), [np.array([1.0, 2.0])])


def test_gradcheck_checks_all_outputs_of_a_function_and_all_its_inputs():
    assert gradcheck(lambda x, y: (x * y, x.exp(), x > 0), [np.array([1.0, 2.0]), np.array(3.0)])


def test_gradcheck_checks_the_parameters_of_a_module_and_leaves_them_as_they_were():
    layer = tinylora.nn.Linear(3, 2).double()
    before = layer.weight.array.tobytes()
    assert gradcheck(layer, [np.ones((2, 3))])
    assert layer.weight.array.tobytes() == before and layer.weight.grad is None
    with pytest.raises(TypeError, match="parameter weight is float32: use .double"):
        gradcheck(layer.float(), [np.ones((2, 3))])


# ------------------------------------------------------------------------------------- special numbers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_is_right_to_the_last_digits(dtype):
    x = np.linspace(-7, 7, 20001).astype(dtype)
    exact = np.array([math.erf(v) for v in x])
    assert np.abs(ops.erf(x)[0] - exact).max() <= 16 * np.finfo(dtype).eps


def test_dropout_masks_depend_on_key_and_position_alone():
    a, b, other = (ops.dropout(np.ones((40, 50)), 0.3, key)[0] for key in (1, 1, 2))
    assert (a == b).all() and (a != other).any()
    assert abs((a == 0).mean() - 0.3) < 0.03 and set(np.unique(a)) == {0.0, 1 / 0.7}


@pytest.mark.parametrize("name", ["sigmoid", "silu", "tanh", "gelu", "erf", "softmax", "log_softmax"])
def test_large_arguments_give_finite_values_and_gradients(name):
    x = tinylora.tensor([[-1e4, 1e4, 0.0, 89.0, -89.0]], requires_grad=True)
    y = record(OPS[name], x, **({"axis": -1} if "softmax" in name else {}))
    y.sum().backward()
    assert np.isfinite(y.array).all() and np.isfinite(x.grad.array).all()
