"""The counter itself: calls, names, FLOPs and bytes against what can be worked out by hand."""

import gc
import itertools
import weakref

import numpy as np
import pytest

import tinylora
from tinylora import nn, ops, profile, randn
from tinylora.adapters.variants import Int8Linear
from tinylora.nn import functional as F
from tinylora.op import run, this_thread
from tinylora.tensor import record


def trained(*shape):
    return randn(*shape).requires_grad_()


def test_counts_calls_and_vjps_by_name():
    x, w, b = randn(5, 3), trained(4, 3), trained(4)
    with profile() as p:
        (F.linear(x, w, b) * 2.0 + w.sum()).sum().backward()
    assert (p.ops["linear"].calls, p.ops["mul"].calls, p.ops["sum"].calls) == (1, 1, 2)
    assert {name: c.calls for name, c in p.ops["linear"].vjps.items()} == {"d_weight": 1, "d_bias": 1}
    assert p.ops["linear"].vjps["d_x"].calls == 0
    assert {name: c.calls for name, c in p.ops["add"].vjps.items()} == {"d_0": 1, "d_1": 1}
    assert p.ops["conv"].calls == 0


def test_a_lambda_is_named_by_the_number_of_its_input():
    with profile() as p:
        (randn(3) * trained(3)).sum().backward()
    assert {name: c.calls for name, c in p.ops["mul"].vjps.items()} == {"d_1": 1}
    x = trained(3)
    with profile() as p:
        (x * x).sum().backward()
    assert {name: c.calls for name, c in p.ops["mul"].vjps.items()} == {"d_0": 1, "d_1": 1}


def counts(p, op):
    return p.ops[op].flops, {name: c.flops for name, c in p.ops[op].vjps.items()}


def test_flops_of_products():
    with profile() as p:
        (trained(2, 5, 3) @ trained(3, 4)).sum().backward()
    assert counts(p, "matmul") == (2 * 2 * 5 * 3 * 4, {"d_a": 240, "d_b": 240})
    with profile() as p:
        F.einsum("bij,bjk->bk", trained(2, 5, 3), trained(2, 3, 4)).sum().backward()
    assert counts(p, "einsum") == (2 * 2 * 5 * 3 * 4, {"d_operand": 480})
    with profile() as p:
        F.linear(trained(2, 5, 3), trained(4, 3), trained(4)).sum().backward()
    assert counts(p, "linear") == (2 * 10 * 3 * 4, {"d_x": 240, "d_weight": 240, "d_bias": 40})


def test_flops_of_quantized_linear():
    layer = Int8Linear(nn.Linear(3, 4))
    with profile() as p:
        layer(trained(2, 5, 3)).sum().backward()
    assert counts(p, "quantized_linear") == (2 * 10 * 3 * 4, {"d_x": 240, "d_bias": 40})


def test_flops_of_lora_linear():
    N, d_in, d_out, r = 10, 6, 4, 2
    inputs = trained(2, 5, d_in), trained(d_out, d_in), trained(d_out), trained(d_in, r), trained(r, d_out)
    with profile() as p:
        F.lora_linear(*inputs, 0.5).sum().backward()
    forward, vjps = counts(p, "lora_linear")
    assert forward == 2 * N * (d_in * d_out + d_in * r + r * d_out)
    assert vjps == {
        "d_x": 2 * N * (d_in * d_out + d_in * r),
        "d_weight": 2 * N * d_in * d_out,
        "d_bias": N * d_out,
        "d_A": 2 * N * r * (d_in + d_out),
        "d_B": 2 * N * r * d_out,
    }


def test_flops_of_layers_in_one_op_are_those_of_the_layers():
    x, sizes = trained(2, 5, 6), ((4, 6), (4,), (6, 2), (2, 4))
    layers = [[trained(*size) for size in sizes] for _ in range(3)]
    with profile() as together:
        sum(y.sum() for y in record(ops.lora_linears, x, (0.5,) * 3, *itertools.chain(*layers))).backward()
    with profile() as apart:
        sum(F.lora_linear(x, *layer, 0.5).sum() for layer in layers).backward()
    assert together.ops["lora_linears"].flops == apart.ops["lora_linear"].flops
    assert counts(together, "lora_linears") == counts(apart, "lora_linear")


@pytest.mark.parametrize(("causal", "pairs"), [(True, 1 + 2 + 3 + 4), (False, 16)])
def test_flops_of_attention(causal, pairs):
    q, k, v = (trained(2, 3, 4, 8) for _ in range(3))
    with profile() as p:
        F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()
    product = 2 * 3 * pairs * 2 * 8
    assert counts(p, "attention") == (2 * product, {"d_q": 2 * product, "d_k": product, "d_v": product})


def test_flops_of_attention_with_fewer_key_heads_are_those_of_its_query_heads():
    q, k, v = trained(2, 6, 5, 4), trained(2, 3, 7, 4), trained(2, 3, 7, 4)
    with profile() as p:
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True).sum().backward()
    product = 2 * 2 * 6 * 5 * 7 * 4
    assert counts(p, "attention") == (2 * product, {"d_q": 2 * product, "d_k": product, "d_v": product})


def test_flops_of_a_head_with_its_loss():
    with profile() as p:
        F.linear_cross_entropy(trained(2, 5, 3), trained(7, 3), tinylora.zeros(2, 5).long()).backward()
    assert counts(p, "linear_cross_entropy") == (2 * 10 * 3 * 7, {"d_x": 420, "d_weight": 420})


def test_flops_of_attention_at_one_position_are_those_of_attention_with_one_query():
    q, k, v = trained(2, 3, 8), trained(2, 3, 5, 8), trained(2, 3, 5, 8)
    with profile() as p:
        record(ops.attention_at, q, k, v, np.array([4, 4])).sum().backward()
        F.scaled_dot_product_attention(q[:, :, None], k, v).sum().backward()
    assert counts(p, "attention_at") == counts(p, "attention")


def test_other_ops_count_elements():
    with profile() as p:
        F.exp(trained(3, 4)).sum().backward()
    assert counts(p, "exp") == (12, {"d_0": 12})
    assert counts(p, "sum") == (12, {"d_0": 12})


# ---------------------------------------------------------------------------------------------- kept
def test_kept_counts_each_memory_once_and_not_what_was_given():
    x = trained(100)
    with profile() as p:
        y = F.exp(x)  # keeps its own output
    assert p.kept == p.ops["exp"].kept == 400
    with profile() as p:
        y = F.exp(x)
        z = y * y.reshape(10, 10).reshape(100)  # the same memory three times
    assert p.kept == 400 and z.requires_grad
    with profile() as p:
        a = x * x  # a parameter
        b = x * randn(100)  # and data
    assert p.kept == 0 and a.requires_grad and b.requires_grad


def test_kept_counts_activations_that_no_gradient_flows_through():
    x, w = randn(100), trained(100)
    with profile() as p:
        y = (x * 2.0) * w
    assert p.kept == 400 and y.requires_grad


def test_nothing_is_kept_without_gradients():
    with profile() as p, tinylora.no_grad():
        F.gelu(F.exp(trained(100)), approximate="tanh")
    assert p.kept == 0
    assert p.ops["gelu"].calls == 1
    assert not p.ops["gelu"].vjps


def test_memory_that_was_freed_and_used_again_counts_again():
    x = trained(1000)
    with profile() as p:
        for _ in range(5):
            F.exp(x).sum().backward()
    assert p.kept == 5 * 4000


# ------------------------------------------------------------------------------------------ manners
def test_gradients_are_the_same_bytes():
    x, w = randn(5, 3), trained(4, 3)

    def gradient():
        w.grad = None
        F.gelu(F.linear(x, w), approximate="tanh").sum().backward()
        return w.grad.numpy().tobytes()

    plain = gradient()
    with profile():
        assert gradient() == plain


def test_a_counted_vjp_keeps_nothing_alive_that_the_vjp_does_not():
    gc.disable()
    try:
        with profile() as p:
            y = F.exp(trained(10))
            array = weakref.ref(y.array)
            loss = y.sum()
            del y
            assert array() is not None  # exp needs it
            loss.backward()
            assert array() is None
        assert p.ops["exp"].vjps["d_0"].calls == 1
    finally:
        gc.enable()


def test_a_backward_after_the_block_is_counted_and_new_ops_are_not():
    with profile() as p:
        loss = F.exp(trained(3)).sum()
    F.exp(trained(3)).sum().backward()
    assert (p.ops["exp"].calls, p.ops["exp"].vjps["d_0"].calls) == (1, 0)
    loss.backward()
    assert p.ops["exp"].vjps["d_0"].calls == 1


def test_profiles_nest():
    with profile() as outer:
        with profile() as inner:
            F.linear(randn(2, 3), trained(4, 3)).sum().backward()
        F.exp(trained(3))
    assert inner.ops["linear"].vjps["d_weight"].calls == outer.ops["linear"].vjps["d_weight"].calls == 1
    assert (inner.ops["exp"].calls, outer.ops["exp"].calls) == (0, 1)
    assert this_thread.run is run


def test_an_error_in_the_block_ends_the_watching():
    with pytest.raises(ZeroDivisionError), profile() as p:
        F.exp(trained(3))
        raise ZeroDivisionError
    assert this_thread.run is run
    assert p.seconds > 0


def test_scalar_and_meta_results():
    with profile() as p:
        trained(3).sum().exp().backward()
    assert p.ops["exp"].vjps["d_0"].calls == 1
    with tinylora.device("meta"):
        x = tinylora.zeros(1000, 1000).requires_grad_()
        with profile() as p:
            F.exp(x)
    assert p.kept == 0


def test_the_table_is_aligned():
    with profile() as p:
        F.linear(randn(50, 30), trained(40, 30)).exp().sum().backward()
    lines = str(p).splitlines()
    assert lines[0].split() == ["op", "calls", "ms", "MFLOP", "kept", "kB"]
    assert len({len(line) for line in lines}) == 1
    linear = next(line.split() for line in lines if line.startswith("linear"))
    assert (linear[0], linear[1], linear[3], linear[4]) == ("linear", "1", "0.12", "0.0")
    assert any(line.startswith("  d_weight") for line in lines)
    assert lines[-2].startswith("in ops")
    assert lines[-2].split()[-1] == "8.0"
    assert np.isclose(float(lines[-1].split()[-1]), 1e3 * p.seconds, atol=0.01)
