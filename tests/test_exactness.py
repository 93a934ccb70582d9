"""What is easily got wrong and seldom noticed: arrays kept for nothing, copies that are none, digits and dtypes lost."""

import contextlib
import copy
import importlib.util
import subprocess
import sys
import weakref

import numpy as np
import pytest

import tinylora
from tinylora import nn

HALVES = [tinylora.float16, *([tinylora.bfloat16] if importlib.util.find_spec("ml_dtypes") else [])]


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


# ------------------------------------------------------------------------------------------------ sums
def tenths(*shape, dtype=None):
    return tinylora.full(shape, 0.1, dtype=dtype or tinylora.float32)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape, dim", [((400_000, 2), 0), ((3, 100_000, 2), (0, 1)), ((50, 60, 70), (0, 2)), ((99, 5), 0)])
def test_a_float32_sum_is_right_to_seven_digits_along_any_axis_of_any_layout(shape, dim, turned):
    x = tenths(*shape[::-1]).permute(*range(len(shape))[::-1]) if turned else tenths(*shape)
    n = np.prod([shape[d] for d in np.atleast_1d(dim)])
    tenth = float(np.float32(0.1))
    np.testing.assert_allclose(x.sum(dim).array, n * tenth, rtol=3e-7)
    np.testing.assert_allclose(x.mean(dim).array, tenth, rtol=3e-7)
    np.testing.assert_allclose((x + (x > 1)).var(dim).array, 0, atol=1e-12)


def test_a_strided_total_is_right_to_seven_digits():
    np.testing.assert_allclose(tenths(300_000, 4)[:, ::2].sum().item(), 600_000 * float(np.float32(0.1)), rtol=3e-7)


def test_running_sums_softmax_and_losses_over_long_axes_are_right():
    F, tenth = nn.functional, float(np.float32(0.1))
    np.testing.assert_allclose(tenths(300_000, 2).cumsum(0)[-1].array, 300_000 * tenth, rtol=2e-7)
    np.testing.assert_allclose(F.softmax(tenths(300_000, 2), 0).double().sum(0).array, 1.0, rtol=1e-6)
    np.testing.assert_allclose(F.log_softmax(tenths(300_000, 2), 0)[0].array, -np.log(300_000), rtol=2e-7)
    loss = F.cross_entropy(tinylora.zeros(100_000, 7), tinylora.zeros(100_000).long())
    np.testing.assert_allclose(loss.item(), np.log(7), rtol=2e-7)


def test_gradients_that_are_sums_over_many_rows_are_right():
    x, layer = tinylora.zeros(300_000, 1), nn.Linear(1, 3)
    weights = tenths(300_000, 3)
    (layer(x) * weights).sum().backward()
    np.testing.assert_allclose(layer.bias.grad.array, 300_000 * float(np.float32(0.1)), rtol=3e-7)
    table = nn.Embedding(4, 3)
    (table(tinylora.full((300_000,), 2)) * weights).sum().backward()
    np.testing.assert_allclose(table.weight.grad.array[2], 300_000 * float(np.float32(0.1)), rtol=3e-7)
    source = tinylora.zeros(4, 3, requires_grad=True)
    (source[[1] * 300_000] * weights).sum().backward()
    np.testing.assert_allclose(source.grad.array[1], 300_000 * float(np.float32(0.1)), rtol=3e-7)
    once = tinylora.zeros(4, requires_grad=True)
    (once.gather(0, tinylora.full((300_000,), 3)) * weights[:, 0]).sum().backward()
    np.testing.assert_allclose(once.grad.array[3], 300_000 * float(np.float32(0.1)), rtol=3e-7)
    added = tinylora.zeros(2).scatter_add(0, tinylora.full((300_000,), 1), weights[:, 0])
    np.testing.assert_allclose(added.array[1], 300_000 * float(np.float32(0.1)), rtol=3e-7)
    scale = tinylora.ones(3, requires_grad=True)
    (scale * weights).sum().backward()
    np.testing.assert_allclose(scale.grad.array, 300_000 * float(np.float32(0.1)), rtol=3e-7)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_sums_in_float32(dtype):
    F, ones = nn.functional, tinylora.ones(5000, 2, dtype=dtype, requires_grad=True)
    assert ones.mean(0).tolist() == [1.0, 1.0] and ones.mean().item() == 1.0
    assert ones.sum(0).tolist() == [float(np.array(5000).astype(dtype))] * 2
    assert (ones * 2).var(0).tolist() == (ones * 2).std(0).tolist() == [0.0, 0.0]
    assert ones.cumsum(0)[-1].tolist() == [float(np.array(5000).astype(dtype))] * 2
    np.testing.assert_allclose(F.softmax(ones, 0).float().sum(0).tolist(), 1.0, rtol=5e-3)
    assert F.layer_norm(tinylora.tensor([300.0, -300.0], dtype=dtype), (2,)).tolist() == [1.0, -1.0]
    assert F.rms_norm(tinylora.tensor([300.0, 300.0], dtype=dtype), (2,)).tolist() == [1.0, 1.0]
    assert abs(F.cross_entropy(tinylora.zeros(16384, 99, dtype=dtype), tinylora.zeros(16384).long()).item() - 4.595) < 0.02
    bias, table = tinylora.zeros(2, dtype=dtype, requires_grad=True), tinylora.zeros(3, 2, dtype=dtype, requires_grad=True)
    (ones + bias).sum().backward()
    F.embedding(tinylora.ones(5000).long(), table).sum().backward()
    assert bias.grad.tolist() == table.grad[1].tolist() == [float(np.array(5000).astype(dtype))] * 2
    x = tinylora.ones(1, 5000, dtype=dtype)
    for y in (x @ ones, tinylora.einsum("ij,jk->ik", x, ones), F.linear(x, ones.T)):
        assert y.tolist() == [[float(np.array(5000).astype(dtype))] * 2] and y.dtype == dtype
    w = tinylora.tensor([1.0], dtype=dtype, requires_grad=True)
    (w * 300).sum().backward()
    assert nn.utils.clip_grad_norm_([w], 1.0).item() == 300.0 and w.grad.tolist() == [1.0]


def test_without_ml_dtypes_bfloat16_is_refused_with_the_package_to_install():
    code = """
import sys
sys.modules["ml_dtypes"] = None
import tinylora as t
make = [lambda d: t.zeros(2, dtype=d), lambda d: t.randn(2, dtype=d), lambda d: t.arange(3, dtype=d),
        lambda d: t.ones(2).to(d), lambda d: t.tensor([1.0], dtype=d), lambda d: t.eye(2, dtype=d),
        lambda d: t.nn.Linear(2, 2, dtype=d), lambda d: t.nn.Linear(2, 2).to(d), lambda d: t.ones(2).sum(dtype=d),
        lambda d: t.full((2,), 1.0, dtype=d, device="meta")]
for f in make:
    try:
        print("made", f(t.bfloat16))
    except RuntimeError as error:
        assert str(error) == "bfloat16 needs the package ml_dtypes: pip install ml_dtypes"
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == ""


# ----------------------------------------------------------- in between, numbers do not leave the range
@pytest.mark.parametrize("dtype", [tinylora.float16, tinylora.float32], ids=str)
def test_intermediate_numbers_do_not_leave_the_range_where_the_result_does_not(dtype):
    F, high = nn.functional, {"float16": 3e4, "float32": 1e30}[dtype.name]
    low, near = {"float16": 1e-4, "float32": 1e-30}[dtype.name], {"rtol": 3e-3 if dtype == tinylora.float16 else 3e-6}

    def leaf(*numbers):
        return tinylora.tensor(list(numbers), dtype=dtype, requires_grad=True)

    for size in (high, low):
        x = leaf(size)
        (x.detach() / x).sum().backward()
        np.testing.assert_allclose(x.grad.tolist(), -1 / float(x.item()), **near)
        x = leaf(size, -size)
        x.std(unbiased=False).backward()
        np.testing.assert_allclose(x.detach().std(unbiased=False).item(), size, **near)
        np.testing.assert_allclose(x.grad.tolist(), [0.5, -0.5], **near)
    for norm in (lambda x: F.layer_norm(x, (2,)), lambda x: F.rms_norm(x, (2,))):
        for switch in (contextlib.nullcontext, tinylora.no_kernels):
            with switch():
                x = leaf(high, -high)
                y = norm(x)
                y[0].backward()
                assert y.tolist() == [1.0, -1.0] and np.isfinite(x.grad.array).all()
    for f in (F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.sigmoid, F.tanh, F.relu):
        x = leaf(-high, high)
        y = f(x)
        y.float().sum().backward()
        assert np.isfinite(y.array.astype(float)).all() and x.grad.tolist()[0] == 0.0 and x.grad.tolist()[1] in (0.0, 1.0)
    w = leaf(1.0)
    (w * high).sum().backward()
    nn.utils.clip_grad_norm_([w], 1.0)
    np.testing.assert_allclose(w.grad.tolist(), 1.0, **near)


# ------------------------------------------------------------------------- numbers that do not fit a dtype
def test_integers_out_of_range_wrap_in_arithmetic_and_raise_where_they_are_stored():
    x = tinylora.tensor([1, 2], dtype=tinylora.uint8)
    assert (x + 300).tolist() == [45, 46] and (x < 300).all() and not (x == 300).any()
    mask = tinylora.tensor([True, False])
    for store in (
        lambda: tinylora.tensor([300], dtype=tinylora.uint8), lambda: tinylora.full((2,), 300, dtype=tinylora.uint8),
        lambda: x.fill_(300), lambda: x.masked_fill(mask, 300), lambda: tinylora.where(mask, x, 300),
        lambda: x.clamp(0, 300), lambda: x.__setitem__(0, 300),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="300 cannot be converted to uint8"):
            store()


def test_integers_to_negative_integers_are_rounded_toward_zero_and_division_by_zero_raises():
    e = tinylora.tensor([-1, -2, 2])
    assert (2**e).tolist() == [0, 0, 4] and (1**e).tolist() == [1, 1, 1]
    assert (tinylora.tensor([-1, -1, 0]) ** e).tolist() == [-1, 1, 0] and (2.0**e).tolist() == [0.5, 0.25, 4.0]
    for divide in (lambda: e // 0, lambda: e % 0, lambda: 1 // tinylora.tensor([1, 0])):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            divide()


def test_a_variance_of_too_few_numbers_warns_and_is_infinite_or_nan():
    with pytest.warns(UserWarning, match="degrees of freedom is <= 0"):
        assert np.isnan(tinylora.ones(1).std().item())
    with pytest.warns(UserWarning, match="degrees of freedom is <= 0"):
        assert tinylora.arange(3.0).var(correction=3).item() == np.inf


def test_a_0_d_tensor_is_formatted_as_its_number():
    text = (
        f"{tinylora.tensor(1.5)} {tinylora.tensor(3)} {tinylora.tensor(True)} {tinylora.tensor(2.0):.3f} {tinylora.ones(1)}"
    )
    assert text == "1.5 3 True 2.000 tensor([1.])"
    with pytest.raises(TypeError, match="takes no format"):
        f"{tinylora.ones(1):.2f}"
