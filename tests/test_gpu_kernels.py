"""Kernels on a GPU beyond the table of ops: products, attention, Adam and norms of many arrays."""

import weakref

import numpy as np
import pytest
from card import apart, cupy, needs_a_card, needs_cudnn, needs_nvmath

import tinylora
from tinylora import optim
from tinylora.backend import bfloat16
from tinylora.kernels.cuda import again, blocks, head, many
from tinylora.kernels.cuda import gemm as products
from tinylora.kernels.cuda.joined import joined

pytestmark = needs_a_card


# ---------------------------------------------------------------------------------- products, attention
@needs_nvmath
@pytest.mark.parametrize("dtype", ["float32", "float16", bfloat16])
@pytest.mark.parametrize("a_order, b_order", [("C", "C"), ("C", "F"), ("F", "C"), ("F", "F")])
def test_products_of_any_layout(dtype, a_order, b_order):
    rng = cupy.random.default_rng(0)
    a, b = (cupy.array(rng.standard_normal(s), order=o).astype(dtype) for s, o in (((33, 20), a_order), ((20, 41), b_order)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    near = {"float32": 1e-6}.get(np.dtype(dtype).name, 1e-2)
    out = cupy.ones((33, 41), dtype)
    assert apart(products.product(cupy, a, b), exact) < near
    assert apart(products.product(cupy, a, b, out=out, alpha=2.0, plus=out), 2 * exact + 1) < near
    assert apart(products.product(cupy, a, b, dtype=np.float32), exact) < 1e-6
    assert apart(products.product(cupy, a[1:, ::2], b[::2, 3:]), a[1:, ::2].astype("d") @ b[::2, 3:].astype("d")) < near
    assert apart(products._by_cupy(cupy, a, b, out, 2.0, cupy.ones((33, 41), dtype)), 2 * exact + 1) < 2 * near


@needs_nvmath
def test_precision_high_is_tf32():
    rng = cupy.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256), dtype=np.float32) for _ in range(2))
    exact, found = a.astype("d") @ b.astype("d"), {}
    try:
        for precision in ("highest", "high"):
            tinylora.set_float32_matmul_precision(precision)
            found[precision] = apart(tinylora.ops.matmul(a, b)[0], exact)
    finally:
        tinylora.set_float32_matmul_precision("highest")
    assert found["highest"] < 1e-6 < 1e-5 < found["high"] < 1e-3


@needs_cudnn
@pytest.mark.parametrize("size", [1.0, 1e-9])
@pytest.mark.parametrize("dtype, near", [(bfloat16, 1e-2), ("float16", 2e-3), ("float32", 2e-3)])
def test_cudnn_attention(dtype, near, size):
    """In float32 at precision "high", with gradients that float16 could not tell from 0."""
    rng = np.random.default_rng(0)
    q, k, v, g = (cupy.asarray(rng.standard_normal((2, 130, 3, 64))).astype(dtype).transpose(0, 2, 1, 3) for _ in range(4))
    g = (g * size).astype(dtype) if np.dtype(dtype) != np.float16 else g
    attend = tinylora.kernels.cuda.attention.attention
    try:
        tinylora.set_float32_matmul_precision("high")
        y, vjps = attend(cupy, q, k, v)
        found = [y, *(vjp(g) for vjp in vjps)]
    finally:
        tinylora.set_float32_matmul_precision("highest")
    y, vjps = tinylora.ops.attention.definition(cupy, *(x.astype("d") for x in (q, k, v)))
    for a, b in zip(found, [y, *(vjp(g.astype("d")) for vjp in vjps)], strict=True):
        assert a.dtype == q.dtype and apart(a, b) < near
    assert np.dtype(dtype) != np.float32 or attend(cupy, q, k, v) is NotImplemented


def test_blocks_of_attention_cover_every_query_once_and_memory_is_linear():
    for heads, T, S, causal in ((24, 1024, 1024, True), (5, 300, 400, False), (3, 4096, 4096, True)):
        seen = np.zeros((heads, T), int)
        for h, rows, n in blocks._blocks(heads, T, S, causal):
            seen[h, rows] += 1
            assert seen[h, rows].size * n <= max(blocks.SCORES, blocks.ROWS * S)
        assert (seen == 1).all()
    peaks = []
    for T in (2048, 4096):
        q = cupy.random.standard_normal((1, 8, T, 64), dtype=np.float32)
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(pool.malloc):
            y, vjps = blocks.attention(cupy, q, q, q)
            for vjp in vjps:
                vjp(y)
        peaks.append(pool.total_bytes())
    assert peaks[1] < 2.5 * peaks[0] and peaks[1] < 4 * 8 * 4096**2  # scores of all heads would be so many bytes


@needs_cudnn
def test_cudnn_attention_with_grouped_heads_has_adjacent_gradients():
    rng = np.random.default_rng(0)
    q, g = (cupy.asarray(rng.standard_normal((2, 130, 6, 64))).astype(bfloat16).transpose(0, 2, 1, 3) for _ in range(2))
    k, v = (cupy.asarray(rng.standard_normal((2, 130, 2, 64))).astype(bfloat16).transpose(0, 2, 1, 3) for _ in range(2))
    y, vjps = tinylora.kernels.cuda.attention.attention(cupy, q, k, v)
    found = [vjp(g) for vjp in vjps]
    exact, vjps = tinylora.ops.attention.definition(cupy, *(x.astype("d") for x in (q, k, v)))
    for a, b in zip([y, *found], [exact, *(vjp(g.astype("d")) for vjp in vjps)], strict=True):
        assert a.dtype == q.dtype and apart(a, b) < 1e-2
    flat = {i: d.transpose(0, 2, 1, 3).reshape(2, 130, -1) for i, d in enumerate(found)}
    assert cupy.shares_memory(joined((2, 130), [6 * 64, 2 * 64, 2 * 64], flat), found[0])


def test_a_gradient_of_rope_is_turned_in_place_only_if_nobody_else_reads_it():
    rng = np.random.default_rng(0)
    x, g = (cupy.asarray(rng.standard_normal((2, 3, 50, 64))).astype(bfloat16) for _ in range(2))
    angle = cupy.asarray(rng.standard_normal((50, 32)), np.float32)
    _, (d_x, *_) = tinylora.kernels.cuda.rotary.rope(cupy, x, cupy.cos(angle), cupy.sin(angle))
    before = g.copy()
    apart_from_g = d_x(g)
    assert (g == before).all() and not cupy.shares_memory(apart_from_g, g)
    in_place = d_x(again.spare(g))
    assert in_place.data.ptr == g.data.ptr and (in_place == apart_from_g).all()
    assert not again.is_spare(g)


def test_what_is_cheap_is_computed_again_and_not_held():
    x, w = cupy.ones((64, 64), np.float32), cupy.ones(64, np.float32)
    y, _ = tinylora.kernels.cuda.rms.rms_norm(cupy, x, w, 1e-5)
    (compute, cheap), expected, alive = again.kept(y), y.get(), weakref.ref(y)
    del y
    assert cheap and alive() is None and (compute().get() == expected).all()
    assert again.kept(x).compute() is x and not again.kept(x).cheap


@pytest.mark.parametrize("dtype, near", [(np.float32, 1e-5), (bfloat16, 2e-2)])
@pytest.mark.parametrize("n, C, classes", [(300, 40, 20001), (1500, 4096, 9000), (5, 8, 3)])
def test_a_head_and_its_loss_over_several_tiles(dtype, near, n, C, classes):
    """Rows of which some are ignored, one has a target that fits far better than the others, and one far worse."""
    rng = np.random.default_rng(0)
    x, W = (cupy.asarray(rng.standard_normal(s) / C**0.25).astype(dtype) for s in ((n, C), (classes, C)))
    target = cupy.asarray(np.where(np.arange(n) % 5 == 3, -100, rng.integers(0, classes, n)))
    x[0], x[1] = 4 * W[int(target[0])], -4 * W[int(target[1])]
    loss, (d_x, d_weight, _) = head.linear_cross_entropy(cupy, x, W, target)
    g = cupy.asarray(0.5, np.float32)
    exact, vjps = tinylora.ops.linear_cross_entropy.definition(cupy, x.astype("d"), W.astype("d"), target)
    assert abs(loss.item() - exact.item()) < near * exact.item()
    for found, vjp in ((d_x(g), vjps[0]), (d_weight(g), vjps[1])):
        assert found.dtype == dtype and apart(found, vjp(g.astype("d"))) < near
    assert head.linear_cross_entropy(cupy, x, W, target, d_x_too=False)[0].item() == loss.item()
    x[2] = np.nan
    target[2] = 0
    broken, (d_x, *_) = head.linear_cross_entropy(cupy, x, W, target)
    assert (
        np.isnan(broken.item()) and cupy.isnan(d_x(g)[2].astype("f")).all() and not cupy.isnan(d_x(g)[0].astype("f")).any()
    )


def test_the_loss_of_256_000_classes_takes_less_than_100_megabytes():
    x = cupy.random.standard_normal((8192, 2304), dtype=np.float32).astype(bfloat16)
    W = (cupy.random.standard_normal((256000, 2304), dtype=np.float32) * 0.02).astype(bfloat16)
    target = cupy.random.randint(0, 256000, 8192)
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        loss, vjps = head.linear_cross_entropy(cupy, x, W, target)
    assert len(vjps) == 3 and np.isfinite(loss.item()) and pool.total_bytes() < 100e6


# ------------------------------------------------------------------------------------ many arrays at once
@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
def test_adam_in_one_launch_is_adam(kind):
    shapes, weights = [(3, 5), (1,), (700, 17), ()], {}
    for device in ("cpu", "cuda"):
        rng = np.random.default_rng(0)
        ps = [tinylora.tensor(rng.standard_normal(s).astype("float32"), device=device, requires_grad=True) for s in shapes]
        groups = [{"params": ps[:2], "lr": 0.1}, {"params": ps[2:], "weight_decay": 0.2}]
        optimizer = kind(groups, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
        for i in range(5):
            for p in ps:
                p.grad = tinylora.tensor(rng.standard_normal(p.shape).astype("float32"), device=device)
            if i == 1:
                ps[0].grad = None  # from here on it is a step behind
            optimizer.step()
        weights[device] = [p.detach().cpu().numpy() for p in ps]
    for a, b in zip(weights["cuda"], weights["cpu"], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_gradients_are_clipped_in_three_launches():
    arrays = [cupy.random.standard_normal(s, dtype=np.float32) for s in ((3,), (100, 170), (1, 1))]
    expected = np.sqrt(sum((x.astype("d") ** 2).sum().item() for x in arrays))
    for most in (1.0, 1e6):
        (norm, *scaled), _ = many.clip_norm(cupy, *arrays, max_norm=most)
        assert abs(norm.item() - expected) < 1e-4
        assert all(apart(y, x * min(1.0, most / expected)) < 1e-6 for x, y in zip(arrays, scaled, strict=True))
    assert many.clip_norm(cupy, arrays[0].astype("d"), max_norm=1.0) is NotImplemented
