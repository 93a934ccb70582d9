"""Tuned versions: block boundaries, memory, work skipped, masks. (That each agrees with its definition on every
op's own test inputs is tested with the ops.)"""

import tracemalloc
import weakref

import numpy as np
import pytest

import tinylora
from tinylora import functional as F
from tinylora import ops, profile
from tinylora.kernels import attention as blocked
from tinylora.kernels import cpu
from tinylora.tensor import sum_to

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
R, LONG = blocked.ROWS, 2 * blocked.ROWS
LENGTHS = [(1, 1), (R - 1, R - 1), (R, R), (R + 1, R + 1), (3 * R, 3 * R), (1, 9), (R, R + 7), (R + 1, blocked.SHORT)]
LONG_LENGTHS = [(2, blocked.SHORT + 1), (LONG - 1, 300), (LONG, 300), (LONG + 1, 300), (300, 300)]


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), LENGTHS + LONG_LENGTHS)
def test_attention_at_block_boundaries(T, S, causal, p):
    q, k, v = heads(2, 3, T, 8), heads(2, 3, S, 8), heads(2, 3, S, 8)
    agree(ops.attention, blocked.attention, q, k, v, wrt=(0, 1, 2), causal=causal, p=p, key=2**63 - 5)


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
        "one key for all heads": (x, x[:, :1], x[:, :1]),
    }
    for what, (q, k, v) in other.items():
        assert blocked.attention(np, q, k, v) is NotImplemented, what
    assert blocked.attention(np, x, x, x, p=1.0) is NotImplemented


def test_blocks_cover_every_row_once_and_skip_the_future():
    for B, H, T, S, scores in ((2, 3, 130, 130, 2**17), (1, 12, 1024, 1024, 2**17), (4, 5, 70, 90, 10_000)):
        seen, work = np.zeros((B, H, T), int), 0
        for b, h, i, n in blocked._blocks(B, H, T, S, True, 64, scores):
            seen[b, h, i] += 1
            assert n == S - T + min(i.stop, T)  # the last row of the block sees exactly these
            block = seen[b, h, i].size * n
            assert block <= max(scores, 64 * n)
            work += block
        assert (seen == 1).all()
        assert work <= B * H * (T * S - T * (T - 1) / 2 + T * 32)
    causal = sum((i.stop - i.start) * n for _, _, i, n in blocked._blocks(1, 1, 1024, 1024, True, 64, 1))
    assert causal / 1024**2 < 0.54


def attention_bytes(T):
    """Peak of a forward and backward pass over T tokens, and what is kept between the two."""
    q, k, v, g = (heads(1, 4, T, 16) for _ in range(4))
    tracemalloc.start()
    try:
        _, vjps = blocked.attention(np, q, k, v)
        kept = tracemalloc.get_traced_memory()[0]
        for vjp in vjps:
            vjp(g)
        return tracemalloc.get_traced_memory()[1], kept
    finally:
        tracemalloc.stop()


def test_attention_memory_grows_linearly_with_length():
    peaks, kept = zip(*map(attention_bytes, (512, 1024, 2048)), strict=True)
    assert peaks[1] < 2.1 * peaks[0]
    assert peaks[2] < 2.1 * peaks[1]
    assert kept[2] < 2.1 * kept[1] < 4.41 * kept[0]
    array = 4 * 4 * 2048 * 16
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
    monkeypatch.setattr(cpu, "BLOCK", 16)
    agree(ops.gelu, cpu.gelu, draw(size, dtype=dtype), wrt=(0,))


def test_gelu_of_strided_and_0d_arrays():
    agree(ops.gelu, cpu.gelu, draw(7, 10)[::2, ::-3], wrt=(0,))
    agree(ops.gelu, cpu.gelu, draw(4, 5).T, wrt=(0,))
    agree(ops.gelu, cpu.gelu, draw(), wrt=(0,))


def test_gelu_far_out():
    x = np.array([-1e15, -30.0, -5.0, 0.0, 5.0, 30.0, 1e15], np.float32)
    with np.errstate(over="ignore"):
        y, (d_x,) = cpu.gelu(np, x)
        expected = ops.gelu.definition(np, x)[0]
        slope = d_x(np.ones_like(x))
    close(y, expected, 1e-6)
    assert slope[[0, 1, 3, 5, 6]].tolist() == [0, 0, 0.5, 1, 1]


# --------------------------------------------------------------------------------------- lora_linear
def lora_inputs(rows, d_in, d_out, r, dtype=np.float32, bias=True):
    shapes = (rows, d_in), (d_out, d_in), (d_out,), (d_in, r), (r, d_out)
    x, W, b, A, B = (draw(*shape, dtype=dtype) for shape in shapes)
    return x, W, b if bias else None, A, B, 1.7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "d_in", "d_out", "r"), [(9, 9, 4, 2), (40, 4, 9, 3), (300, 17, 5, 1), (1, 1, 1, 1)])
def test_lora_linear_through_the_changed_weight(rows, d_in, d_out, r, dtype):
    agree(ops.lora_linear, cpu.lora_linear, *lora_inputs(rows, d_in, d_out, r, dtype), wrt=(0, 1, 2, 3, 4))
    agree(ops.lora_linear, cpu.lora_linear, *lora_inputs(rows, d_in, d_out, r, dtype, bias=False), wrt=(0, 1, 3, 4))


def test_lora_linear_of_strided_inputs():
    _, W, b, A, B, scale = lora_inputs(1, 6, 4, 2)
    agree(ops.lora_linear, cpu.lora_linear, draw(5, 3, 12)[:, ::-1, ::2], W, b, A, B, scale, wrt=(0, 3, 4))


def test_lora_linear_declines_few_rows():
    assert cpu.lora_linear(np, *lora_inputs(8, 9, 4, 2)) is NotImplemented
    assert cpu.lora_linear(np, *lora_inputs(8, 4, 9, 2)) is NotImplemented
    assert cpu.lora_linear(np, *lora_inputs(0, 4, 4, 2)) is NotImplemented


def test_lora_linear_keeps_x_for_A_alone():
    x, W, b, A, B, scale = lora_inputs(20, 6, 4, 2)
    x = x.copy()
    alive = weakref.ref(x)
    _, vjps = cpu.lora_linear(np, x, W, b, A, B, scale)
    del x
    vjps = [vjps[0], vjps[3], vjps[4]]
    assert alive() is not None
    del vjps[1]  # A is frozen
    assert alive() is None


# ------------------------------------------------------------------------------------------- in place
def test_the_engine_uses_the_tuned_versions_and_meta_does_not():
    q = tinylora.randn(1, 2, 600, 8).requires_grad_()
    with profile() as p:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert p.ops["attention"].kept < 600 * 600
    with tinylora.device("meta"):
        x, W = tinylora.zeros(50, 8), tinylora.zeros(8, 8)
        assert F.lora_linear(x, W, None, tinylora.zeros(8, 2), tinylora.zeros(2, 8)).shape == (50, 8)
        assert F.gelu(x, approximate="tanh").shape == (50, 8)
