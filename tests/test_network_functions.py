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
from tinylora.testing.strategies import array_tuples, arrays, shapes, uniform

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


@given(st.sampled_from(["none", "bool", "added"]), st.sampled_from([1, 2, 3]), st.sampled_from([None, 0.3]), st.data())
def test_attention_with_masks_shared_keys_and_a_scale(kind, group, scale, data):
    q, k, v = (data.draw(arrays(shape)) for shape in ((2, 2 * group, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4)))
    shape = data.draw(st.sampled_from([(2, 2 * group, 3, 5), (2, 1, 3, 5), (1, 1, 1, 5), (3, 5)]))
    mask = {"none": None, "bool": data.draw(hnp.arrays(bool, shape)), "added": data.draw(arrays(shape))}[kind]
    if kind == "bool":
        mask[..., 0] = True  # what sees nothing is NaN in some versions of PyTorch, and zeros in others

    def attend(t, q, k, v):
        masks = {} if mask is None else {"attn_mask": t.tensor(np.ascontiguousarray(mask))}
        return F[t].scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True, **masks)

    agree(attend, q, k, v)


def test_a_query_that_may_see_nothing_gives_zeros_and_disturbs_no_other():
    q, k, v = (tinylora.randn(1, 2, 3, 4).requires_grad_() for _ in range(3))
    mask = tinylora.tensor([[True, True, False], [False, False, False], [True, True, True]])
    y = nn.functional.scaled_dot_product_attention(q, k, v, mask)
    y.sum().backward()
    assert not y[:, :, 1].any() and not q.grad[:, :, 1].any() and q.grad[:, :, 0].any()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@given(st.integers(0, 2), st.data())
def test_rms_norm(lead, data):
    x = data.draw(arrays((*(2,) * lead, 3, 4)))
    axes = data.draw(st.sampled_from([1, 2]))
    weight = data.draw(st.none() | arrays(x.shape[-axes:]))
    inputs = [x] if weight is None else [x, weight]
    for eps in (1e-5, None):
        agree(lambda t, x, *w, eps=eps: F[t].rms_norm(x, x.shape[-axes:], *w, eps=eps), *inputs)


def test_rotary_embedding_turns_each_pair_by_its_angle_and_keeps_scores_of_equal_distance():
    """A score depends on how far apart two positions are, and the halves of a head are what is paired."""
    rng = np.random.default_rng(0)
    q, k = (tinylora.tensor(rng.standard_normal((1, 1, 1, 8))) for _ in range(2))

    def at(x, position):
        angles = tinylora.tensor(position * 10_000.0 ** (-np.arange(4) / 4))[None]
        return nn.functional.rope(x, angles.cos(), angles.sin())

    score = (at(q, 7.0) * at(k, 4.0)).sum()
    assert score.allclose((at(q, 103.0) * at(k, 100.0)).sum()) and not score.allclose((q * k).sum())
    x, angle = q.numpy()[0, 0, 0], 7.0
    turned = (x[0] + 1j * x[4]) * np.exp(1j * angle)
    np.testing.assert_allclose(at(q, angle).numpy()[0, 0, 0, [0, 4]], [turned.real, turned.imag])


@given(array_tuples())
def test_a_gated_product(pair):
    agree(lambda t, a, b: nn.functional.swiglu(a, b) if t is tinylora else F[t].silu(a) * b, *pair)


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_a_head_and_its_loss_in_one(N, V, data):
    x, weight = data.draw(arrays((N, 3))), data.draw(arrays((V, 3)))
    target = data.draw(hnp.arrays(np.int64, (N,), elements=st.sampled_from([-100, *range(V)])))
    target[0] = 0

    def loss(t, x, W):
        if t is tinylora:
            return nn.functional.linear_cross_entropy(x, W, t.tensor(target))
        return F[t].cross_entropy(F[t].linear(x, W), t.tensor(target))

    agree(loss, x, weight)


def test_attention_may_look_at_more_keys_than_it_has_queries():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 2, n, 3)) for n in (2, 5, 5))
    agree(lambda t, q, k, v: F[t].scaled_dot_product_attention(q, k, v), q, k, v)
    last = ops.attention(q, k, v)[0][:, :, -1]  # the op lets the last query see all keys, the one before it one less
    np.testing.assert_allclose(last, ops.attention(q, k, v, causal=False)[0][:, :, -1], atol=1e-12)


def test_attention_refuses_what_pytorch_would_answer_otherwise():
    q, k = tinylora.zeros(1, 1, 2, 3), tinylora.zeros(1, 1, 4, 3)
    with pytest.raises(RuntimeError, match="as many queries as keys, got 2 and 4"):
        nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True)
    with pytest.raises(RuntimeError, match="give attn_mask or is_causal, not both"):
        nn.functional.scaled_dot_product_attention(k, k, k, tinylora.zeros(4, 4), is_causal=True)
    with pytest.raises(RuntimeError, match="attn_mask is boolean or float32, not int64"):
        nn.functional.scaled_dot_product_attention(k, k, k, tinylora.zeros(4, 4).long())
    many = tinylora.zeros(1, 4, 4, 3)
    with pytest.raises(RuntimeError, match="enable_gqa=True lets query heads share keys"):
        nn.functional.scaled_dot_product_attention(many, k, k)
    with pytest.raises(RuntimeError, match="the heads of key do not divide those of query"):
        nn.functional.scaled_dot_product_attention(tinylora.zeros(1, 3, 4, 3), many[:, :2], many[:, :2], enable_gqa=True)
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
    assert (x.grad.data == y.data).all()
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
