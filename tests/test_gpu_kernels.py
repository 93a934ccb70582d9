"""Kernels on a GPU beyond the table of ops: products, attention, Adam and norms of many arrays."""

import numpy as np
import pytest
from card import apart, cupy, needs_a_card, needs_cudnn, needs_nvmath

import tinylora
from tinylora import optim
from tinylora.backend import bfloat16
from tinylora.kernels.cuda import blocks, many
from tinylora.kernels.cuda import gemm as products

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
