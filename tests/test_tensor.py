"""What the engine promises: the graph it records, the walk back, what it frees, and what it refuses."""

import contextlib
import gc
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn, ops
from tinylora.nn import functional as F
from tinylora.op import Op
from tinylora.tensor import Tensor, record, sum_to
from tinylora.testing.strategies import array_tuples, arrays, broadcastable, shapes


def leaf(data, dtype=tinylora.float64):
    return tinylora.tensor(data, dtype=dtype, requires_grad=True)


@contextlib.contextmanager
def without_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------- the walk back
def test_a_chain_of_20_000_ops_goes_forward_back_and_away_without_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.backward(retain_graph=True)
    assert x.grad.item() == 1.0 and y.item() == 20_001.0
    del y  # its 20,000 nodes go with it


def test_sixty_doublings_take_linear_time():
    x = leaf(1.0)
    y = x
    started = time.process_time()
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**60 and time.process_time() - started < 1.0


def test_a_gradient_arrives_once_all_its_parts_have():
    x = leaf(3.0)
    a = x * x
    b = a * x
    (a * b + b).backward()  # x⁵ + x³
    assert x.grad.item() == 5 * 3.0**4 + 3 * 3.0**2


def test_gradients_add_up_over_walks():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    x.grad = None
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_the_same_tensor_on_both_sides_gets_both_gradients():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    (x @ x).sum().backward()
    assert x.grad.tolist() == [[7.0, 11.0], [9.0, 13.0]]


def test_a_second_walk_through_a_freed_graph_raises_and_a_kept_one_gives_the_same_again():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time.*retain_graph=True"):
        y.backward()
    z = (x.exp() * x).sum()
    x.grad = None
    z.backward(retain_graph=True)
    once = x.grad.array.copy()
    z.backward(retain_graph=True)
    assert (x.grad.array == 2 * once).all()
    z.backward()
    assert np.allclose(x.grad.array, 3 * once)
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


@pytest.mark.parametrize("T", [3, 70])
def test_vjps_that_share_work_compute_it_anew_for_another_gradient(T):
    rng = np.random.default_rng(0)
    q, k, v = (leaf(rng.standard_normal((1, 2, T, 4))) for _ in range(3))
    gradients = [Tensor(rng.standard_normal((1, 2, T, 4))) for _ in range(2)]

    def after(walk):
        for x in (q, k, v):
            x.grad = None
        walk()
        return [x.grad.array for x in (q, k, v)]

    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    for g in [*gradients, gradients[0]]:
        kept = after(lambda g=g: y.backward(g, retain_graph=True))
        fresh = after(lambda g=g: F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(g))
        assert all(np.array_equal(a, b) for a, b in zip(kept, fresh, strict=True))


def test_backward_takes_a_gradient_of_the_shape_of_the_tensor():
    x = leaf([1.0, 2.0])
    (x * 2).backward(tinylora.tensor([10.0, 1.0], dtype=tinylora.float64))
    assert x.grad.tolist() == [20.0, 2.0]
    with pytest.raises(RuntimeError, match=r"\(3,\).*\(2,\)"):
        (x * 2).backward(tinylora.ones(3))


def test_backward_refuses_what_is_no_scalar_and_what_nothing_flows_through():
    with pytest.raises(RuntimeError, match=r"scalar.*\(2,\)"):
        (leaf([1.0, 2.0]) * 2).backward()
    with pytest.raises(RuntimeError, match="requires no grad"):
        tinylora.ones(()).backward()
    with pytest.raises(RuntimeError, match="requires no grad"):
        leaf(1.0).detach().backward()


def test_backward_on_a_leaf_gives_it_the_gradient_one():
    x = leaf(3.0)
    x.backward()
    assert x.grad.item() == 1.0


def test_a_gradient_is_no_view_of_an_array_somebody_else_holds():
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    g = tinylora.ones(2, dtype=tinylora.float64)
    (x + y).backward(g)
    with tinylora.no_grad():
        x.grad += 1
    assert y.grad.tolist() == [1.0, 1.0] and g.tolist() == [1.0, 1.0] and x.grad.tolist() == [2.0, 2.0]


@given(array_tuples(3), st.data())
def test_broadcasting_is_undone_for_every_input(drawn, data):
    tensors = [Tensor(x, requires_grad=True) for x in drawn]
    a, b, c = tensors
    y = a + b * c
    y.backward(Tensor(data.draw(arrays(y.shape))))
    assert all(t.grad.shape == t.shape and t.grad.dtype == t.dtype for t in tensors)


@given(broadcastable(2), st.data())
def test_sum_to_is_the_adjoint_of_broadcasting(drawn, data):
    small, large = drawn[0], np.broadcast_shapes(*drawn)
    x, g = data.draw(arrays(small)), data.draw(arrays(large))
    assert sum_to(g, small).shape == small
    assert np.isclose((np.broadcast_to(x, large) * g).sum(), (x * sum_to(g, small)).sum())


@given(arrays(shapes()))
def test_any_strides_and_sizes_go_forward_and_back(x):
    t = Tensor(x, requires_grad=True)
    (t * t + t.exp()).sum().backward()
    assert np.allclose(t.grad.array, 2 * x + np.exp(x)) and t.grad.shape == x.shape


def test_empty_and_0d_tensors():
    x = tinylora.zeros(0, 3, requires_grad=True)
    ((x @ tinylora.ones(3, 2)).sum() + x.sum()).backward()
    assert x.grad.shape == (0, 3)
    s = leaf(2.0)
    (s * s * s).backward()
    assert s.grad.item() == 12.0 and s.grad.shape == () and isinstance(s.grad.array, np.ndarray)
    y = leaf(2.0) * 1
    y[()] = 5.0
    (y * 3).backward()


# ----------------------------------------------------------------------------------- what is recorded
def test_requires_grad_is_having_a_node():
    x, w = tinylora.ones(2), leaf([1.0, 2.0])
    assert not x.requires_grad and x.node is None and w.requires_grad and w.node is not None
    assert (x + x).node is None and (x + w).requires_grad
    assert w.is_leaf and x.is_leaf and not (x + w).is_leaf


def test_a_frozen_input_has_no_edge_and_its_vjp_is_dropped():
    dropped = []

    def product(xp, a, b):
        d_a, d_b = (lambda g: g * b), (lambda g: g * a)
        weakref.finalize(d_b, dropped.append, "d_b")
        return a * b, (d_a, d_b)

    a, b = leaf([1.0, 2.0]), tinylora.tensor([3.0, 4.0], dtype=tinylora.float64)
    with without_garbage_collector():
        y = record(Op(product), a, b)
        assert dropped == ["d_b"]
    assert [node for node, _ in y.node.edges] == [a.node]


def test_a_frozen_weight_keeps_no_activation():
    rng = np.random.default_rng(0)
    w = tinylora.tensor(rng.standard_normal((500, 500)))
    kept = {}
    for frozen in (False, True):
        x = leaf(rng.standard_normal((500, 500)))
        w.requires_grad_(not frozen)
        with without_garbage_collector():
            h = x * 2.0
            array = weakref.ref(h.array)
            y = F.linear(h, w)
            del h
            kept[frozen] = array() is not None
        assert y.requires_grad
    assert kept == {False: True, True: False}


def test_activations_are_freed_at_once_with_the_garbage_collector_off():
    with without_garbage_collector():
        x = leaf(np.ones(100))
        y = x * 2.0
        z = (y + 1.0) + 1.0
        array, graph = weakref.ref(y.array), weakref.ref(z.node)
        del y
        assert array() is None  # addition keeps nothing
        loss = (z.exp()).sum()
        result = weakref.ref(loss.node)
        del z
        loss.backward()
        assert graph() is None and result() is not None
        del loss
        assert result() is None


def test_a_forgotten_graph_is_freed_without_the_garbage_collector():
    layer = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64))
    x = tinylora.randn(64, 64)
    with without_garbage_collector():
        layer(x).sum()
        tracemalloc.start()
        for _ in range(20):
            F.softmax(layer(x), -1).sum()
        current, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert current < 2 * 64 * 64 * 4 < peak  # less than two arrays are left of twenty graphs


def test_memory_falls_during_the_walk():
    with without_garbage_collector():
        x = leaf(np.ones(1000))
        alive = []
        y = x
        for _ in range(4):
            y = y.exp().sin()
            alive.append(weakref.ref(y.array))
        loss = (y * y).sum()
        first = x * 1.0
        seen = []
        first.node.edges = ((x.node, lambda g: seen.append([r() is not None for r in alive]) or g),)
        del y
        loss.backward()
        assert not any(r() is not None for r in alive)


def test_a_leaf_that_is_gone_gets_no_gradient_and_does_no_harm():
    a, b = leaf(1.0), leaf(2.0)
    y = a * b
    del a
    y.backward()
    assert b.grad.item() == 1.0


# ------------------------------------------------------------------------------------------- switching
def test_nothing_is_recorded_under_no_grad():
    x = leaf([1.0, 2.0])
    with tinylora.no_grad():
        assert not (x * 2).requires_grad
        with tinylora.inference_mode():
            pass
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @tinylora.no_grad()
    def evaluate(n):
        return (x * n).requires_grad or (n > 0 and evaluate(n - 1))

    assert evaluate(3) is False and (x * 2).requires_grad
    with contextlib.suppress(ValueError), tinylora.no_grad():
        raise ValueError
    assert (x * 2).requires_grad


def test_requires_grad_can_be_switched_on_leaves_only():
    x = tinylora.ones(2)
    assert x.requires_grad_().requires_grad and not x.requires_grad_(False).requires_grad
    y = leaf([1.0]) * 2
    with pytest.raises(RuntimeError, match="leaf"):
        y.requires_grad = False
    for data in ([1, 2], [True]):
        with pytest.raises(RuntimeError, match="floating-point"):
            tinylora.tensor(data, requires_grad=True)


def test_detach_and_clone():
    x = leaf([1.0, 2.0])
    y = x * 2
    assert not y.detach().requires_grad and y.detach().array is y.array
    c = x.clone()
    assert c.array is not x.array and c.requires_grad
    c.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("data, error, message", [
    ([[1, 2], [3]], ValueError, "ragged"), (["a"], TypeError, "numbers"), ("text", TypeError, "numbers"),
    (object(), TypeError, "numbers"), ([1j], TypeError, "numbers"), ([None], TypeError, "numbers"),
    (np.array(["x"]), TypeError, "numbers"), ({1: 2}, TypeError, "numbers"),
])  # fmt: skip
def test_what_is_not_an_array_of_numbers_makes_no_tensor(data, error, message):
    with pytest.raises(error, match=message):
        tinylora.tensor(data)


def test_operands_that_are_neither_tensors_nor_numbers_are_named():
    for f in (lambda x: x + "a", lambda x: None * x, lambda x: x @ [1, 2], lambda x: tinylora.exp("a")):
        with pytest.raises(TypeError, match="str|NoneType|list"):
            f(tinylora.ones(2))


def test_an_op_is_pure_and_works_on_plain_arrays():
    y, (d_x,) = ops.exp(np.array([0.0, 1.0]))
    assert y[0] == 1.0 and d_x(np.ones(2))[1] == np.exp(1.0)


def test_infinities_and_nans_are_answers_and_no_warnings():
    x = leaf([0.0, -1.0])
    (1 / x + x.log() + x.sqrt()).sum().backward()
    assert not np.isfinite(x.grad.array).all()


@pytest.mark.parametrize(
    "function",
    [lambda x, y: x + y, lambda x, y: tinylora.cat([x, y]).reshape(2, 3).sum(0), lambda x, y: (x.reshape(3, 1) + y).T],
)
def test_gradients_of_two_leaves_share_no_memory(function):
    x, y = (tinylora.tensor([1.0, 2.0, 3.0], requires_grad=True) for _ in range(2))
    (function(x, y) ** 2).sum().backward()
    before = y.grad.array.copy()
    x.grad.array[...] = 0.0
    assert np.array_equal(y.grad.array, before) and before.all()
