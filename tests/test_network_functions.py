"""Losses, normalisation, attention, embedding and dropout agree with PyTorch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import agree, both_raise, torch

import tinylora
from tinylora import nn, ops
from tinylora.testing.strategies import arrays, shapes, uniform

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")  # PyTorch's, for zero sizes

F = {tinylora: nn.functional, torch: torch.nn.functional}


# ---------------------------------------------------------------------------------------- cross entropy
@st.composite
def classifications(draw):
    classes = draw(st.integers(1, 5))
    extra = draw(shapes(max_dims=2, min_side=1, max_side=3))
    N = draw(st.integers(1, 4))
    scale = draw(st.sampled_from([1.0, 30.0, 1e4]))
    logits = draw(arrays((N, classes, *extra), uniform(-scale, scale)))
    ignored = draw(st.sampled_from([-100, 0, classes - 1]))
    size = N * int(np.prod(extra))
    values = st.lists(st.sampled_from([ignored, *range(classes)]), min_size=size, max_size=size)
    target = np.array(draw(values), dtype=np.int64).reshape(N, *extra)
    weight = draw(st.none() | arrays((classes,), uniform(0.1, 2)))
    return (
        logits,
        target,
        weight,
        {"ignore_index": ignored, "reduction": draw(st.sampled_from(["mean", "sum", "none"]))},
    )


@given(classifications())
def test_cross_entropy(drawn):
    logits, target, weight, options = drawn

    def loss(t, logits, target):
        w = None if weight is None else t.tensor(weight.copy(), dtype=t.float64)
        return F[t].cross_entropy(logits, target, w, **options)

    everything_ignored = options["reduction"] == "mean" and (target == options["ignore_index"]).all()
    agree(loss, logits, target, grad=not everything_ignored)


def test_cross_entropy_of_one_row_and_of_float32_logits_of_10_000():
    agree(lambda t, x, y: F[t].cross_entropy(x, y), np.array([1.0, 2.0, 3.0]), np.array(2))
    x = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], np.float32)
    agree(lambda t, x, y: F[t].cross_entropy(x, y), x, np.array([0, 0, 1]))


@given(classifications(), st.integers(1, 3))
def test_linear_cross_entropy_is_the_loss_of_the_logits(drawn, features):
    logits, target, _, options = drawn
    classes, rng, ignored = logits.shape[1], np.random.default_rng(0), options["ignore_index"]
    x, weight = rng.standard_normal((*target.shape, features)), rng.standard_normal((classes, features))

    def loss(t, x, weight, target):
        if t is tinylora:
            return F[t].linear_cross_entropy(x, weight, target, ignore_index=ignored)
        return F[t].cross_entropy((x @ weight.T).flatten(0, -2), target.flatten(), ignore_index=ignored)

    agree(loss, x, weight, target, grad=not (target == ignored).all())


def test_linear_cross_entropy_refuses_what_it_cannot_score():
    x, weight = tinylora.zeros(2, 3), tinylora.zeros(5, 3)
    with pytest.raises(IndexError, match="target 5 is not one of the 5 classes"):
        nn.functional.linear_cross_entropy(x, weight, tinylora.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"\(2, 3\) does not fit targets of shape \(3,\)"):
        nn.functional.linear_cross_entropy(x, weight, tinylora.tensor([0, 1, 2]))
    with pytest.raises(RuntimeError, match="targets must be integers"):
        nn.functional.linear_cross_entropy(x, weight, tinylora.zeros(2))


def test_cross_entropy_refuses_what_it_cannot_score():
    x, y = np.zeros((2, 3)), np.array([0, 3])
    assert "target 3 is not one of the 3 classes 0..2" in both_raise(lambda t, x, y: F[t].cross_entropy(x, y), x, y)
    both_raise(lambda t, x, y: F[t].cross_entropy(x, y), x, np.array([0, -1]))
    message = both_raise(lambda t, x, y: F[t].cross_entropy(x, y), x, np.array([0, 1, 2]))
    assert "(2, 3)" in message and "(3,)" in message
    both_raise(lambda t, x, y: F[t].cross_entropy(x, y, reduction="total"), x, np.array([0, 1]))
    with pytest.raises(RuntimeError, match="targets must be integers"):
        nn.functional.cross_entropy(tinylora.zeros(2, 3), tinylora.zeros(2))


# ------------------------------------------------------------------------------------- network functions
@given(arrays(shapes(min_dims=1), uniform(-3, 3)), st.data())
def test_layer_norm(x, data):
    shape = x.shape[data.draw(st.integers(0, x.ndim - 1)) :]
    w, b = data.draw(arrays(shape)), data.draw(arrays(shape))
    if x.size:
        agree(lambda t, x, w, b: F[t].layer_norm(x, shape, w, b), x, w, b, tolerance=1e-9)
        agree(lambda t, x: F[t].layer_norm(x, shape), x, tolerance=1e-9)


@given(arrays(shapes(min_dims=1), uniform(0.1, 3)), st.data(), st.sampled_from([None, 1e-5]))
def test_rms_norm(x, data, eps):
    shape = x.shape[data.draw(st.integers(0, x.ndim - 1)) :]
    w = data.draw(arrays(shape))
    if x.size:
        agree(lambda t, x, w: F[t].rms_norm(x, shape, w, eps), x, w, tolerance=1e-9)
        agree(lambda t, x: F[t].rms_norm(x, shape, eps=eps), x, tolerance=1e-9)
        agree(lambda t, x: t.nn.RMSNorm(shape, eps, dtype=t.float64)(x), x, tolerance=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rms_norm_of_rows_that_are_0_small_and_large(dtype):
    x = np.array([[0.0] * 4, [1e-4, 2e-4, 3e-4, 0.0], [300.0, -200.0, 100.0, 1.0]], dtype)
    agree(lambda t, x, w: F[t].rms_norm(x, (4,), w), x, np.ones(4, dtype), tolerance=2e-3 if dtype == np.float16 else 1e-5)


def test_rms_norm_refuses_what_does_not_fit():
    both_raise(lambda t, x: F[t].rms_norm(x, (2,)), np.ones((2, 3)))
    both_raise(lambda t, x, w: F[t].rms_norm(x, (3,), w), np.ones((2, 3)), np.ones(2))
    with pytest.raises(RuntimeError, match="floating-point"):
        nn.functional.rms_norm(tinylora.ones(2, 3).long(), (3,))


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.data())
def test_rope_is_rotate_half(B, H, T, half, data):
    x, angles = data.draw(arrays((B, H, T, 2 * half))), data.draw(arrays((T, half)))

    def rotate(t, x):
        if t is tinylora:
            return F[t].rope(x, np.cos(angles), np.sin(angles))
        cos, sin = (torch.tensor(np.concatenate([f(angles)] * 2, axis=-1)) for f in (np.cos, np.sin))
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    agree(rotate, x)


def test_rope_refuses_tables_that_do_not_fit():
    x = tinylora.zeros(1, 2, 3, 4)
    for shape in [(3, 4), (2, 2), (5, 1, 3, 2)]:
        with pytest.raises(RuntimeError, match=r"rope: tables of shape .* do not fit an input of shape \(1, 2, 3, 4\)"):
            nn.functional.rope(x, tinylora.zeros(*shape), tinylora.zeros(*shape))


@given(arrays(shapes(), uniform(-6, 6)), st.data())
def test_swiglu_is_silu_of_the_gate_times_up(gate, data):
    def product(t, gate, up):
        return F[t].swiglu(gate, up) if t is tinylora else F[t].silu(gate) * up

    agree(product, gate, data.draw(arrays(gate.shape)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_norm_of_constant_rows(dtype):
    x = np.array([[3.0] * 4, [0.0] * 4, [10.0] * 4], dtype)
    agree(lambda t, x, w, b: F[t].layer_norm(x, (4,), w, b), x, np.ones(4, dtype), np.ones(4, dtype), tolerance=1e-4)


@given(st.integers(1, 4), st.integers(1, 3), shapes(max_dims=2), st.data())
def test_linear_and_embedding(d_in, d_out, batch, data):
    x, w, b = data.draw(arrays((*batch, d_in))), data.draw(arrays((d_out, d_in))), data.draw(arrays((d_out,)))
    agree(lambda t, x, w, b: (F[t].linear(x, w, b), F[t].linear(x, w)), x, w, b)
    ids = np.random.default_rng(0).integers(0, d_out, batch)
    agree(lambda t, ids, w: F[t].embedding(ids, w), ids, w)


def test_embedding_refuses_ids_outside_the_vocabulary():
    for ids in ([0, 5], [-1, 0]):
        message = both_raise(lambda t, ids, w: F[t].embedding(ids, w), np.array(ids), np.zeros((5, 2)))
        assert "vocabulary 0..4" in message
    with pytest.raises(RuntimeError, match="ids must be integers"):
        nn.functional.embedding(tinylora.zeros(2), tinylora.zeros(5, 2))


@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.data())
def test_attention(B, H, T, D, causal, data):
    q, k, v = (data.draw(arrays((B, H, T, D))) for _ in range(3))
    agree(lambda t, q, k, v: F[t].scaled_dot_product_attention(q, k, v, is_causal=causal), q, k, v)


def test_attention_may_look_at_more_keys_than_it_has_queries():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 2, n, 3)) for n in (2, 5, 5))
    agree(lambda t, q, k, v: F[t].scaled_dot_product_attention(q, k, v), q, k, v)
    last = ops.attention(q, k, v)[0][:, :, -1]  # the op lets the last query see all keys, the one before it one less
    np.testing.assert_allclose(last, ops.attention(q, k, v, causal=False)[0][:, :, -1], atol=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_causal_attention_of_other_lengths_lets_the_first_query_see_the_first_key(T, S, data):
    q, k, v = (data.draw(arrays((2, 2, n, 3))) for n in (T, S, S))
    agree(lambda t, q, k, v: F[t].scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


@st.composite
def masked_attention(draw):
    B, H_kv, G, T, S, D = (draw(st.integers(1, n)) for n in (2, 2, 3, 4, 4, 3))
    q, k, v = (draw(arrays((B, h, n, D))) for h, n in ((G * H_kv, T), (H_kv, S), (H_kv, S)))
    shape = draw(st.sampled_from([(B, 1, 1, S), (B, 1, T, S), (1, G * H_kv, T, S), (T, S)]))
    mask = draw(st.none() | hnp.arrays(bool, shape) | arrays(shape))
    if mask is not None and mask.dtype != bool:
        mask = np.where(draw(hnp.arrays(bool, shape)), mask, -np.inf)
    return q, k, v, mask, {"scale": draw(st.sampled_from([None, 0.3, 2.0])), "is_causal": draw(st.booleans())}


@given(masked_attention())
def test_attention_with_masks_scales_and_fewer_key_heads(drawn):
    *qkv, mask, options = drawn

    def attend(t, q, k, v):
        m = None if mask is None else t.tensor(mask.copy())
        return F[t].scaled_dot_product_attention(q, k, v, m, enable_gqa=True, **options)

    agree(attend, *qkv)


def test_attention_refuses_what_pytorch_refuses():
    q, k, pair = np.zeros((1, 4, 2, 3)), np.zeros((1, 3, 2, 3)), np.zeros((1, 2, 2, 3))
    message = both_raise(lambda t, q, k: F[t].scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)
    assert "3 key heads do not divide 4" in message
    message = both_raise(lambda t, q, k: F[t].scaled_dot_product_attention(q, k, k), q, pair)
    assert "enable_gqa=True" in message
    for mask in (np.ones((2, 2), np.int64), np.ones((2, 3), bool), np.ones((2, 1, 2, 2), bool)):
        both_raise(lambda t, q, m: F[t].scaled_dot_product_attention(q, q, q, m), q, mask)


def test_attention_refuses_mixed_dtypes():
    k = tinylora.zeros(1, 1, 4, 3)
    with pytest.raises(RuntimeError, match="one dtype, got float32 and float64"):
        nn.functional.scaled_dot_product_attention(k, k, k.double())


def test_attention_names_shapes_that_do_not_fit():
    q, k = tinylora.zeros(1, 1, 2, 3), tinylora.zeros(1, 1, 2, 4)
    with pytest.raises(RuntimeError, match=r"\(1, 1, 2, 3\).*\(1, 1, 2, 4\)"):
        nn.functional.scaled_dot_product_attention(q, k, k)


def test_dropout_keeps_the_mean_and_does_nothing_in_evaluation():
    tinylora.manual_seed(0)
    x = tinylora.ones(200, 200, requires_grad=True)
    y = nn.functional.dropout(x, 0.25)
    y.sum().backward()
    assert abs(y.mean().item() - 1) < 0.02 and abs((y == 0).float().mean().item() - 0.25) < 0.01
    assert (x.grad.array == y.array).all()
    assert nn.functional.dropout(x, 0.25, training=False) is x and nn.functional.dropout(x, 0.0) is x
    assert nn.functional.dropout(x, 1.0).sum().item() == 0.0
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            nn.functional.dropout(x, p)


def test_a_seed_gives_the_same_masks_again():
    masks = []
    for _ in range(2):
        tinylora.manual_seed(7)
        masks.append([nn.functional.dropout(tinylora.ones(50), 0.5).tolist() for _ in range(2)])
    assert masks[0] == masks[1] and masks[0][0] != masks[0][1]
