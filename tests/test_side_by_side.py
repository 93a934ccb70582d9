"""Several layers of one input, and ops with several outputs: the numbers of one after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn, ops
from tinylora.adapters.variants import DoRA, DropoutLoRA, Int8Linear, LoRAFA, PiSSA, QLoRA
from tinylora.kernels.cuda.joined import joined
from tinylora.lora import LinearWithLoRA, freeze
from tinylora.op import Op
from tinylora.tensor import Tensor, record

KINDS = {
    "LoRA": LinearWithLoRA, "DoRA": DoRA, "PiSSA": PiSSA, "LoRA-FA": LoRAFA,
    "dropout": lambda *layer: DropoutLoRA(*layer, 0.5),
    "int8": lambda linear, *sizes: QLoRA(Int8Linear(linear), *sizes, 0.0),
}  # fmt: skip


def layers(kind=LinearWithLoRA, widths=(4, 4, 4)):
    tinylora.manual_seed(0)
    made = [kind(nn.Linear(6, width), 2, 3.0) for width in widths]
    for layer, width in zip(made, widths, strict=True):
        layer.lora.B.array = tinylora.randn(2, width).array
        freeze(layer.linear)
    return made


def results(run, made):
    """Outputs, and the gradients of x and of all that is trained."""
    x = Tensor(np.random.default_rng(0).standard_normal((5, 6)).astype("float32"), requires_grad=True)
    tinylora.manual_seed(5)
    outputs = run(x, *made)
    for p in (p for layer in made for p in layer.parameters()):
        p.grad = None
    sum((y * y * (i + 1)).sum() for i, y in enumerate(outputs)).backward()
    trained = [p for layer in made for p in layer.parameters() if p.requires_grad]
    return [*(y.array for y in outputs), x.grad.array, *(p.grad.array for p in trained)]


def one_by_one(x, *made):
    return [layer(x) for layer in made]


@pytest.mark.parametrize("widths", [(4, 4, 4), (4, 2), (3,)])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_one_input_are_the_layers_one_by_one_bit_for_bit(kind, widths):
    made = layers(KINDS[kind], widths)
    for a, b in zip(results(nn.fan_out, made), results(one_by_one, made), strict=True):
        assert np.array_equal(a, b)


def in_one_op(made, x):
    with tinylora.profile() as p:
        nn.fan_out(x, *made)
    return p.ops["lora_linears"].calls


def test_plain_lora_layers_run_in_one_op_and_no_others_do():
    x = tinylora.randn(5, 6)
    assert in_one_op(layers(), x) == in_one_op(layers(widths=(4, 2)), x) == 1
    assert all(in_one_op(layers(kind), x) == 0 for name, kind in KINDS.items() if name != "LoRA")
    merged = layers()
    merged[1].eval().merge()
    mixed = [*layers(), nn.Linear(6, 4)]
    wide = layers()
    wide[0].linear = Int8Linear(wide[0].linear)
    own = layers()
    own[2].forward = own[2].linear.forward
    for made in (merged, mixed, wide, own):
        assert in_one_op(made, x) == 0
        assert all(np.array_equal(y.array, layer(x).array) for y, layer in zip(nn.fan_out(x, *made), made, strict=True))


def test_a_layer_that_does_not_fit_is_the_one_that_complains():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = layers(widths=(4, 4))

        def forward(self, x):
            return nn.fan_out(x, self.q, self.k)

    model = Attention()
    model.k.lora.B = nn.Parameter(tinylora.zeros(2, 3))
    with pytest.raises(RuntimeError, match=r"^k: .*do not fit"):
        model(tinylora.randn(5, 6))


def test_a_class_that_knows_one_way_for_all_is_asked_for_its_own_layers_alone():
    class Mine(nn.Identity):
        @classmethod
        def forward_many(cls, layers, x):
            return [x * 2.0 for _ in layers]

    class Other(nn.Identity):
        pass

    x, own = tinylora.ones(2), Mine()
    own.forward = lambda x: x * 3.0
    assert [y.tolist() for y in nn.fan_out(x, Mine(), Mine())] == [[2.0, 2.0]] * 2
    assert nn.fan_out(x, Mine(), nn.Identity()) == nn.fan_out(x, Other(), Other()) == [x, x]
    assert [y.tolist() for y in nn.fan_out(x, Mine(), own)] == [[1.0, 1.0], [3.0, 3.0]]


# ------------------------------------------------------------------------------------ several outputs
def halves(xp, x):
    """x² and x³ of one x."""

    def d_x(g):
        return (2 * x * g[0] if 0 in g else 0) + (3 * x * x * g[1] if 1 in g else 0)

    return (x * x, x * x * x), (d_x,)


def test_an_op_may_have_several_outputs_and_its_vjps_get_the_gradients_by_number():
    for used, expected in (((0,), 4.0), ((1,), 12.0), ((0, 1), 16.0)):
        x = tinylora.tensor([2.0], requires_grad=True)
        outputs = record(Op(halves), x)
        assert [y.tolist() for y in outputs] == [[4.0], [8.0]]
        sum(outputs[i] for i in used).backward()
        assert x.grad.tolist() == [expected]


def test_each_output_can_be_walked_from_if_the_graph_is_kept():
    x = tinylora.tensor([2.0], requires_grad=True)
    square, cube = record(Op(halves), x)
    square.backward(retain_graph=True)
    cube.backward()
    assert x.grad.tolist() == [16.0]
    with pytest.raises(RuntimeError, match="freed graph"):
        square.backward()


def test_outputs_of_what_trains_nothing_have_no_node():
    assert [y.node for y in record(Op(halves), tinylora.ones(1))] == [None, None]


@given(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 2**31))
def test_outputs_of_one_op_train_as_outputs_of_their_own(used, seed):
    """Those that nothing was computed from get no gradient."""
    rng = np.random.default_rng(seed)
    arrays = [Tensor(rng.standard_normal(s)) for o in (4, 3, 4) for s in ((o, 6), (o,), (6, 2), (2, o))]
    gradients = []
    for together in (True, False):
        x = Tensor(np.random.default_rng(0).standard_normal((5, 6)), requires_grad=True)
        inputs = [Tensor(a.array, requires_grad=True) for a in arrays]
        if together:
            outputs = record(ops.lora_linears, x, (0.5, 1.0, 2.0), *inputs)
        else:
            outputs = [record(ops.lora_linear, x, *inputs[i : i + 4], s) for i, s in ((0, 0.5), (4, 1.0), (8, 2.0))]
        assert [y.shape for y in outputs] == [(5, 4), (5, 3), (5, 4)]
        if any(used):
            sum((y * y * (i + 1)).sum() for i, (y, use) in enumerate(zip(outputs, used, strict=True)) if use).backward()
        gradients.append([0.0 if t.grad is None else t.grad.array for t in (x, *inputs)])
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------- gradients side by side
@pytest.mark.parametrize("widths", [(4, 4, 4), (6, 2, 2), (3, 1)])
def test_gradients_that_lie_side_by_side_are_joined_without_a_copy(widths):
    whole = np.arange(4.0 * sum(widths)).reshape(2, 2, sum(widths))
    parts = np.split(whole, np.cumsum(widths)[:-1], axis=-1)
    assert np.shares_memory(joined((2, 2), widths, dict(enumerate(parts))), whole)
    assert np.array_equal(joined((2, 2), widths, dict(reversed([*enumerate(parts)]))), whole)
    for others in ([None, *parts[1:]], [part.copy() for part in parts], [parts[0], *(0 * p for p in parts[1:])]):
        found = joined((2, 2), widths, {i: part for i, part in enumerate(others) if part is not None})
        assert not np.shares_memory(found, whole)
        expected = [0 * part if p is None else p for p, part in zip(others, parts, strict=True)]
        assert np.array_equal(found, np.concatenate(expected, axis=-1))


def test_gradients_of_one_width_in_another_order_are_copied_into_theirs():
    whole = np.arange(48.0).reshape(2, 2, 12)
    parts = np.split(whole, 3, axis=-1)
    for others in (parts[::-1], [parts[0], parts[0], parts[2]]):
        found = joined((2, 2), (4, 4, 4), dict(enumerate(others)))
        assert not np.shares_memory(found, whole)
        assert np.array_equal(found, np.concatenate(others, axis=-1))


def test_neighbours_in_memory_of_other_owners_are_copied():
    """Rows of their own arrays may end where another begins: nobody would keep the second alive."""
    whole = np.arange(12.0)
    others = {n: np.frombuffer(memoryview(whole)[i : i + 4]) for n, i in enumerate((0, 4, 8))}
    assert not np.shares_memory(joined((), (4, 4, 4), others), whole)
    assert np.array_equal(joined((), (4, 4, 4), others), whole)
