"""Tuned versions: block boundaries, memory, work skipped, masks. (That each agrees with its definition on every
op's own test inputs is tested with the ops.)"""

import contextlib
import os
import subprocess
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import tinylora
from tinylora import ops, profile
from tinylora.kernels.cpu import adam as adam_of_all
from tinylora.kernels.cpu import attention as blocked
from tinylora.kernels.cpu import blocks, elementwise, linear, loss, matmul, products, rotary
from tinylora.op import this_thread
from tinylora.tensor import sum_to
from tinylora.torch_api import functional as F

RNG = np.random.default_rng(0)
FORWARD = {np.float32: 1e-5, np.float64: 1e-12}
BACKWARD = {np.float32: 1e-4, np.float64: 1e-11}


def draw(*shape, dtype=np.float32):
    x = RNG.standard_normal(shape).astype(dtype)
    x.flags.writeable = False  # a kernel that writes into an input or into g raises
    return x


def close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert np.linalg.norm(actual - expected) <= tolerance * max(np.linalg.norm(expected), 1)


def agree(op, version, *inputs, wrt, **options):
    """`version` against the definition: output and the gradients of inputs `wrt`."""
    dtype = inputs[0].dtype.type
    y, vjps = op.definition(np, *inputs, **options)
    y2, vjps2 = version(np, *inputs, **options)
    close(y2, y, FORWARD[dtype])
    g = draw(*y.shape, dtype=dtype)
    for i in wrt:
        close(sum_to(vjps2[i](g), inputs[i].shape), sum_to(vjps[i](g), inputs[i].shape), BACKWARD[dtype])
        again = vjps2[i](g)  # retain_graph: what is captured was not changed
        close(sum_to(again, inputs[i].shape), sum_to(vjps[i](g), inputs[i].shape), BACKWARD[dtype])


def heads(B, H, T, D, dtype=np.float32):
    """(B, H, T, D) as a model makes them: a transposed view of (B, T, H, D)."""
    return draw(B, T, H, D, dtype=dtype).transpose(0, 2, 1, 3)


# ----------------------------------------------------------------------------------------- attention
R = blocked.ROWS
LENGTHS = [(1, 1), (R - 1, R - 1), (R, R), (R + 1, R + 1), (3 * R, 3 * R), (1, 9), (R, R + 7), (R + 1, blocked.SHORT)]
LONG_LENGTHS = [(2, blocked.SHORT + 1), (R - 1, 300), (R, 300), (R + 1, 300), (300, 300)]


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), LENGTHS + LONG_LENGTHS)
def test_attention_at_block_boundaries(T, S, causal, p):
    q, k, v = heads(2, 3, T, 8), heads(2, 3, S, 8), heads(2, 3, S, 8)
    agree(ops.attention, blocked.attention, q, k, v, wrt=(0, 1, 2), causal=causal, p=p, key=2**63 - 5)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("T", "S"), [(1, 9), (R, R), (R + 1, R + 7), (3, 300), (R + 1, 300)])
def test_attention_with_fewer_key_heads_is_attention_with_repeated_ones(T, S, p):
    q, k, v, g = heads(2, 6, T, 8), heads(2, 2, S, 8), heads(2, 2, S, 8), heads(2, 6, T, 8)
    y, vjps = blocked.attention(np, q, k, v, p=p, key=3)
    repeated = (x.repeat(3, axis=1) for x in (k, v))
    expected, vjps_of_repeated = blocked.attention(np, q, *repeated, p=p, key=3)
    close(y, expected, 1e-5)
    close(vjps[0](g), vjps_of_repeated[0](g), 1e-4)
    for ours, theirs in zip(vjps[1:], vjps_of_repeated[1:], strict=True):
        close(ours(g), theirs(g).reshape(2, 2, 3, S, 8).sum(axis=2), 1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_with_a_mask_of_keys_and_queries_that_see_none(causal):
    q, k, v = heads(2, 4, R + 3, 8), heads(2, 2, 300, 8), heads(2, 2, 300, 8)
    left_padded = np.arange(300) >= np.array([0, 270])[:, None, None, None]  # (B, 1, 1, S)
    agree(ops.attention, blocked.attention, q, k, v, wrt=(0, 1, 2), causal=causal, mask=left_padded)
    blind = RNG.random((2, 1, R + 3, 300)) < 0.9
    blind[0, 0, 5] = False
    agree(ops.attention, blocked.attention, q, k, v, wrt=(0, 1, 2), causal=causal, mask=blind)
    assert (blocked.attention(np, q, k, v, causal=causal, mask=blind)[0][0, :, 5] == 0).all()


@pytest.mark.parametrize("scores", [1, 4 * R * R, 2**18])
def test_attention_in_blocks_of_one_head_a_few_and_all(scores, monkeypatch):
    monkeypatch.setitem(blocked.SCORES, "numpy", scores)
    q, k, v = (heads(3, 5, R + 3, 4, np.float64) for _ in range(3))
    agree(ops.attention, blocked.attention, q, k, v, wrt=(0, 1, 2), p=0.2, key=1)


def test_attention_in_float64_contiguous_and_strided():
    q, k, v = (draw(2, 2, 70, 16, dtype=np.float64)[..., ::2] for _ in range(3))
    agree(ops.attention, blocked.attention, q, k, v, wrt=(0, 1, 2))
    agree(ops.attention, blocked.attention, *map(np.ascontiguousarray, (q, k, v)), wrt=(0, 1, 2))


def test_attention_draws_the_same_dropout_mask():
    q, k = np.zeros((2, 3, 70, 4), np.float32), np.zeros((2, 3, 90, 4), np.float32)
    v = np.zeros((2, 3, 90, 4), np.float32)
    for j in (0, 44, 86):  # y shows the mask of four keys at a time
        v[:] = 0
        v[:, :, j : j + 4] = np.eye(4)
        expected = ops.attention.definition(np, q, k, v, causal=False, p=0.4, key=77)[0]
        y = blocked.attention(np, q, k, v, causal=False, p=0.4, key=77)[0]
        assert ((y == 0) == (expected == 0)).all()
        assert 0.3 < (y == 0).mean() < 0.5


def test_attention_with_large_scores_and_unreadable_future():
    q, k, v = (heads(1, 2, 80, 4) for _ in range(3))
    agree(ops.attention, blocked.attention, q * 1e4, k, v, wrt=(2,))
    k = k.copy()
    k[:, :, -1] = np.nan  # only the last query sees it
    with np.errstate(invalid="ignore"):
        y = blocked.attention(np, q, k, v)[0]
    assert np.isfinite(y[:, :, :-1]).all()
    assert np.isnan(y[:, :, -1]).all()


def test_attention_declines():
    x = draw(1, 2, 6, 4)
    other = {
        "more queries than keys": (x, x[:, :, :5], x[:, :, :5]),
        "no rows": (x[:, :, :0], x, x),
        "no features": (x[..., :0], x[..., :0], x[..., :0]),
        "no leading axes": (x[0, 0], x[0, 0], x[0, 0]),
        "float16": (x.astype(np.float16),) * 3,
        "mixed dtypes": (x.astype(np.float64), x, x),
        "values of another width": (x, x, x[..., :2]),
        "more key heads than query heads": (x[:, :1], x, x),
        "another batch": (x, x[[0, 0]], x[[0, 0]]),
    }
    for what, (q, k, v) in other.items():
        assert blocked.attention(np, q, k, v) is NotImplemented, what
    assert blocked.attention(np, x, x, x, p=1.0) is NotImplemented
    for mask in (np.zeros((6, 6), np.float32), np.ones((1, 2, 6, 6), bool)):  # added to the scores; one for each head
        assert blocked.attention(np, x, x, x, mask=mask) is NotImplemented


def test_row_blocks_cover_every_row_once_and_skip_the_future():
    for T, S in ((130, 130), (1024, 1024), (70, 90)):
        rows = list(blocked._rows(T, S, True, 64))
        assert [t for i, _ in rows for t in range(i.start, i.stop)] == list(range(T))
        assert all(n == S - T + i.stop for i, n in rows)  # the last row of a block sees exactly these
        assert sum((i.stop - i.start) * n for i, n in rows) <= T * S - T * (T - 1) / 2 + T * 32


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_groups_of_heads_cover_every_head_once_and_leave_no_thread_idle(threads):
    for B, H, at_most in ((1, 12, 3), (2, 12, 100), (8, 12, 32), (3, 5, 1), (1, 1, 9), (7, 1, 2), (1, 9, 9)):
        groups = list(blocked._groups(B, H, at_most, threads))
        seen = np.zeros((B, H), int)
        for b, h in groups:
            seen[b, h] += 1
            assert seen[b, h].size <= max(at_most, 1)
        assert (seen == 1).all() and len(groups) >= min(threads, B * H)


@pytest.fixture
def two_threads():
    """Each thread holds a block of its own, and short sequences do not fill many."""
    before = tinylora.get_num_threads()
    tinylora.set_num_threads(2)
    yield
    tinylora.set_num_threads(before)


def attention_bytes(T):
    """Peak of a forward and backward pass over T tokens, and what is kept between the two."""
    q, k, v, g = (heads(1, 16, T, 16) for _ in range(4))  # enough heads for a full block on every thread
    tracemalloc.start()
    try:
        _, vjps = blocked.attention(np, q, k, v)
        kept = tracemalloc.get_traced_memory()[0]
        for vjp in vjps:
            vjp(g)
        return tracemalloc.get_traced_memory()[1], kept
    finally:
        tracemalloc.stop()


def test_attention_memory_grows_linearly_with_length(two_threads):
    peaks, kept = zip(*map(attention_bytes, (512, 1024, 2048)), strict=True)
    assert peaks[1] < 2.1 * peaks[0]
    assert peaks[2] < 2.1 * peaks[1]
    assert kept[2] < 2.1 * kept[1] < 4.41 * kept[0]
    array = 4 * 16 * 2048 * 16
    assert kept[2] < 3 * array  # scaled q, y, and two numbers a row; a T x T matrix would be 128 arrays
    assert peaks[2] < 16 * array


def test_attention_hands_joined_heads_on_without_a_copy():
    q, k, v = (heads(2, 3, 5, 4) for _ in range(3))
    y = blocked.attention(np, q, k, v)[0]
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous


# ---------------------------------------------------------------------------------------------- gelu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 83])
def test_gelu_at_block_boundaries(size, dtype, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    agree(ops.gelu, elementwise.gelu, draw(size, dtype=dtype), wrt=(0,))


def test_gelu_of_strided_and_0d_arrays():
    agree(ops.gelu, elementwise.gelu, draw(7, 10)[::2, ::-3], wrt=(0,))
    agree(ops.gelu, elementwise.gelu, draw(4, 5).T, wrt=(0,))
    agree(ops.gelu, elementwise.gelu, draw(), wrt=(0,))


def test_gelu_far_out():
    x = np.array([-1e15, -30.0, -5.0, 0.0, 5.0, 30.0, 1e15], np.float32)
    with np.errstate(over="ignore"):
        y, (d_x,) = elementwise.gelu(np, x)
        expected = ops.gelu.definition(np, x)[0]
        slope = d_x(np.ones_like(x))
    close(y, expected, 1e-6)
    assert slope[[0, 1, 3, 5, 6]].tolist() == [0, 0, 0.5, 1, 1]


# ------------------------------------------------------------------------- rotary embedding, norm, swiglu
def test_rope_lays_out_its_result_as_its_input():
    x, angles = heads(2, 3, 5, 8), draw(5, 4)
    y, (d_x, *_) = rotary.rope(np, x, np.cos(angles), np.sin(angles))
    assert y.strides == d_x(x).strides == x.strides


def test_rope_keeps_the_length_of_every_pair_and_only_differences_of_positions_matter():
    x, y, angles = heads(1, 1, 9, 8), heads(1, 1, 9, 8), np.arange(30, dtype=np.float32)[:, None] * draw(4)
    turned = [
        [rotary.rope(np, z, np.cos(angles[start:][:9]), np.sin(angles[start:][:9]))[0] for z in (x, y)] for start in (0, 20)
    ]
    np.testing.assert_allclose((turned[0][0] ** 2).sum(-1), (x**2).sum(-1), rtol=1e-5)
    close(turned[0][0] @ turned[0][1].swapaxes(-1, -2), turned[1][0] @ turned[1][1].swapaxes(-1, -2), 1e-5)


def test_swiglu_far_out():
    gate = np.array([-1e4, -100, -30, 0, 30, 1e4], np.float32)
    with np.errstate(over="ignore"):
        y, (d_gate, _) = elementwise.swiglu(np, gate, np.full_like(gate, 3))
        slopes = d_gate(np.ones_like(gate))
    np.testing.assert_allclose(y, [0, 0, 0, 0, 90, 3e4], atol=1e-9)
    np.testing.assert_allclose(slopes, [0, 0, 0, 1.5, 3, 3], atol=1e-9)
    agree(ops.swiglu, elementwise.swiglu, draw(7, 10)[::2, ::-3], draw(4, 4), wrt=(0, 1))


# ---------------------------------------------------------------------------------- linear and cross-entropy
def test_the_loss_of_a_frozen_head_keeps_the_gradient_of_x_alone_and_never_holds_all_logits(two_threads):
    x, weight, target = draw(2048, 8), draw(32768, 8), RNG.integers(0, 32768, 2048)
    tracemalloc.start()
    try:
        _, (d_x, d_weight, _) = loss.linear_cross_entropy(np, x, weight, target)
        del d_weight
        kept, peak = tracemalloc.get_traced_memory()
        d_x(np.float32(1))
    finally:
        tracemalloc.stop()
    assert kept < 1.1 * x.nbytes + 2**15 and peak < 1.3 * 4 * loss.LOGITS < 4 * 2048 * 32768 / 2


def test_the_loss_leaves_rows_that_are_ignored_out_of_its_products():
    x, weight, target = draw(50, 8).copy(), draw(30, 8), RNG.integers(0, 30, 50)
    target[::2] = -100
    x[::2] = np.nan
    y, (d_x, d_weight, _) = loss.linear_cross_entropy(np, x, weight, target)
    expected, vjps = ops.linear_cross_entropy.definition(np, x[1::2], weight, target[1::2])
    close(y, expected, 1e-6)
    assert (d_x(y)[::2] == 0).all()
    close(d_x(y)[1::2], vjps[0](y), 1e-5)
    close(d_weight(y), vjps[1](y), 1e-5)
    target[:] = -100
    assert loss.linear_cross_entropy(np, x, weight, target) is NotImplemented


# --------------------------------------------------------------------------------------- lora_linear
def lora_inputs(rows, d_in, d_out, r, dtype=np.float32, bias=True):
    shapes = (rows, d_in), (d_out, d_in), (d_out,), (d_in, r), (r, d_out)
    x, W, b, A, B = (draw(*shape, dtype=dtype) for shape in shapes)
    return x, W, b if bias else None, A, B, 1.7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "d_in", "d_out", "r"), [(9, 9, 4, 2), (40, 4, 9, 3), (3, 17, 5, 1), (1, 1, 1, 1), (0, 4, 4, 2)]
)
def test_lora_linear_with_more_and_with_fewer_rows_than_features(rows, d_in, d_out, r, dtype, monkeypatch):
    for small in (products.SMALL, 0):  # one product at once, or cut for the threads
        monkeypatch.setattr(products, "SMALL", small)
        agree(ops.lora_linear, linear.lora_linear, *lora_inputs(rows, d_in, d_out, r, dtype), wrt=(0, 1, 2, 3, 4))
        agree(ops.lora_linear, linear.lora_linear, *lora_inputs(rows, d_in, d_out, r, dtype, bias=False), wrt=(0, 1, 3, 4))


def test_lora_linear_of_strided_inputs():
    _, W, b, A, B, scale = lora_inputs(1, 6, 4, 2)
    agree(ops.lora_linear, linear.lora_linear, draw(5, 3, 12)[:, ::-1, ::2], W, b, A, B, scale, wrt=(0, 3, 4))


def test_a_changed_matrix_is_laid_out_as_the_matrix_is():
    P, Q = draw(70, 3), draw(3, 90)
    for W in (draw(70, 90), draw(90, 70).T, draw(140, 90)[::2], draw(70, 180)[:, ::2]):
        total = linear.changed(W, P, Q)
        close(total, W + P @ Q, 1e-6)
        assert total.flags.f_contiguous == W.flags.f_contiguous


def test_lora_linear_keeps_x_for_A_alone():
    x, W, b, A, B, scale = lora_inputs(20, 6, 4, 2)
    x = x.copy()
    alive = weakref.ref(x)
    _, vjps = linear.lora_linear(np, x, W, b, A, B, scale)
    del x
    vjps = [vjps[0], vjps[3], vjps[4]]
    assert alive() is not None
    del vjps[1]  # A is frozen
    assert alive() is None


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 6, 64])
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (5, 3, 2**20), (3000, 700, 64), (700, 3000, 64), (2, 50257, 768)])
def test_rectangles_cover_a_result_once(n, m, k, threads, monkeypatch):
    monkeypatch.setattr(products, "get_num_threads", lambda: threads)
    cut = list(products.rectangles(n, m, k))
    seen = np.zeros((n, m), np.int8)
    for place in cut:
        seen[place] += 1
    assert (seen == 1).all() and len(cut) <= threads
    assert not products.BLAS_IS_OURS or n * m * k < 2 * products.ALONE or len(cut) > 1 or threads == 1


@pytest.mark.parametrize("count", [1, 3, 8, 100])
@pytest.mark.parametrize("batch", [(1,), (5,), (1, 12), (8, 12), (2, 1, 3), (3, 2, 2)])
def test_pieces_cover_a_stack_once_and_are_enough(batch, count):
    seen = np.zeros(batch, int)
    cut = list(matmul.pieces(batch, count))
    for piece in cut:
        seen[piece] += 1
    assert (seen == 1).all() and len(cut) >= min(count, seen.size)


def test_a_product_keeps_the_other_side_alone_for_a_gradient():
    for shape in ((70, 80), (3, 70, 80)):
        a, b = draw(*shape).copy(), draw(80, 90).copy()
        (alive_a, alive_b), (_, (d_a, d_b)) = map(weakref.ref, (a, b)), matmul.matmul(np, a, b)
        del a, b
        assert alive_a() is not None and alive_b() is not None
        del d_b
        assert alive_a() is None
        del d_a
        assert alive_b() is None


# ---------------------------------------------------------------------------------------------- Adam
def test_adam_goes_on_from_a_state_that_the_definition_left_in_columns():
    moved = []
    for first in (tinylora.no_kernels(), contextlib.nullcontext()):
        w = tinylora.zeros(3, 4).requires_grad_()
        optimizer = tinylora.optim.AdamW([w], lr=0.1)
        for block in (first, contextlib.nullcontext(), contextlib.nullcontext()):
            w.grad = tinylora.tensor(np.arange(12, dtype=np.float32).reshape(4, 3)).T
            with block:
                optimizer.step()
        moved.append(w.array)
    assert np.array_equal(*moved)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_adam_on_all_parameters_gives_the_numbers_of_one_by_one(name, threads, monkeypatch):
    monkeypatch.setattr(adam_of_all, "BLOCK", 7)
    monkeypatch.setattr(adam_of_all, "get_num_threads", lambda: threads)
    shapes = [(5, 4), (9,), (), (1, 0, 3), (30, 2)]
    results = []
    for kernels in (True, False):
        rng = np.random.default_rng(0)
        p = [tinylora.tensor(np.asarray(rng.standard_normal(s), np.float32)).requires_grad_() for s in shapes]
        optimizer = getattr(tinylora.optim, name)([{"params": p[:2]}, {"params": p[2:], "lr": 0.1}], weight_decay=0.1)
        for _ in range(3):
            for x in p:
                x.grad = tinylora.tensor(np.asarray(rng.standard_normal(x.shape[::-1]), np.float32)).permute(
                    *range(len(x.shape))[::-1]
                )
            with contextlib.nullcontext() if kernels else tinylora.no_kernels():
                optimizer.step()
        results.append([x.array for x in p] + [s[k] for s in optimizer.state.values() for k in ("m", "v")])
    for ours, plain in zip(*results, strict=True):
        assert np.array_equal(ours, plain) and ours.dtype == np.float32


# ------------------------------------------------------------------------------------------- in place
def test_without_kernels_the_definitions_run():
    q = tinylora.randn(1, 2, 300, 8).requires_grad_()
    kept = []
    for block in (tinylora.no_kernels(), contextlib.nullcontext(), tinylora.no_kernels()):
        with block, profile() as p:
            y = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        assert y.requires_grad
        kept.append(p.ops["attention"].kept)
    assert kept[0] == kept[2] >= 4 * 2 * 300 * 300 > kept[1]  # P, 4 bytes each


def test_no_kernels_ends_with_its_block_whatever_happens_in_it():
    with pytest.raises(ValueError), tinylora.no_kernels(), tinylora.no_kernels():
        raise ValueError
    assert this_thread.tuned


def test_no_kernels_is_for_one_thread_alone():
    seen = []
    with tinylora.no_kernels():
        other = threading.Thread(target=lambda: seen.append(this_thread.tuned))
        other.start()
        other.join()
        seen.append(this_thread.tuned)
    assert seen == [True, False]


@pytest.mark.parametrize("value, expected", [("0", "False"), ("1", "True")])
def test_an_environment_variable_turns_kernels_off(value, expected):
    code = "import tinylora; print(tinylora.op.this_thread.tuned)"
    environment = {**os.environ, "TINYLORA_KERNELS": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


def test_the_engine_uses_the_tuned_versions_and_meta_does_not():
    q = tinylora.randn(1, 2, 600, 8).requires_grad_()
    with profile() as p:
        y = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert y.requires_grad and p.ops["attention"].kept < 600 * 600
    with tinylora.device("meta"):
        x, W = tinylora.zeros(50, 8), tinylora.zeros(8, 8)
        assert F.lora_linear(x, W, None, tinylora.zeros(8, 2), tinylora.zeros(2, 8)).shape == (50, 8)
        assert F.gelu(x, approximate="tanh").shape == F.rms_norm(x, (8,)).shape == (50, 8)
        q, k = tinylora.zeros(2, 6, 5, 4), tinylora.zeros(2, 3, 7, 4)
        assert F.scaled_dot_product_attention(q, k, k, enable_gqa=True).shape == (2, 6, 5, 4)
