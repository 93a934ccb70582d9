"""Modules of nn beside PyTorch's: outputs, gradients, names and shapes of weights, and what is printed."""

import numpy as np
import pytest
from oracle import torch

import tinylora
from tinylora import nn
from tinylora.nn import activations, losses

X = (4, 6)
ACTIVATIONS = [
    ("CELU", (0.7,)), ("ELU", (1.3,)), ("GELU", ()), ("GELU", ("tanh",)), ("GLU", ()), ("GLU", (0,)), ("Hardsigmoid", ()),
    ("Hardswish", ()), ("Hardtanh", (-0.5, 0.7)), ("LeakyReLU", (0.2,)), ("LogSigmoid", ()), ("LogSoftmax", (1,)),
    ("Mish", ()), ("PReLU", ()), ("PReLU", (6,)), ("ReLU", ()), ("ReLU6", ()), ("SELU", ()), ("Sigmoid", ()), ("SiLU", ()),
    ("Softmax", (0,)), ("Softplus", (2.0, 10.0)), ("Softsign", ()), ("Tanh", ()), ("Flatten", ()), ("Flatten", (0, 1)),
    ("Identity", ()), ("Unflatten", (1, (2, 3))),
]  # fmt: skip


def both(make):
    """The same module in both libraries, in float64, with the weights of PyTorch's."""
    theirs = make(torch.nn).double()
    ours = make(nn).double()
    names = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert {name: t.shape for name, t in ours.state_dict().items()} == names and list(ours.state_dict()) == list(names)
    result = ours.load_state_dict({name: tinylora.from_numpy(t.numpy().copy()) for name, t in theirs.state_dict().items()})
    assert repr(result) == "<All keys matched successfully>" and result.missing_keys == []
    return ours, theirs


def leaves(*arrays):
    ours = [tinylora.tensor(a).requires_grad_(a.dtype.kind == "f") for a in arrays]
    return ours, [torch.tensor(a).requires_grad_(a.dtype.kind == "f") for a in arrays]


def tensors(y):
    return [t for part in y for t in tensors(part)] if isinstance(y, tuple | list) else [] if y is None else [y]


def agree(ours, theirs, ours_in, theirs_in, rtol=1e-9):
    """Outputs, gradients of inputs and of weights agree."""
    a, b = tensors(ours(*ours_in)), tensors(theirs(*theirs_in))
    assert [tuple(x.shape) for x in a] == [tuple(x.shape) for x in b]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=rtol, atol=1e-11)
    for values in (a, b):
        sum(((i + 1.5) * x.cos()).sum() for i, x in enumerate(values)).backward()
    grads = [(x.grad, y.grad) for x, y in zip(ours_in, theirs_in, strict=True)]
    grads += [(x.grad, y.grad) for x, y in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for x, y in grads:
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=rtol, atol=1e-10)


@pytest.mark.parametrize("name, arguments", ACTIVATIONS, ids=str)
def test_activations_and_shapes(name, arguments):
    ours, theirs = both(lambda n: getattr(n, name)(*arguments))
    assert repr(ours) == repr(theirs)
    in_float32 = name in ("CELU", "Hardsigmoid")  # PyTorch rounds 1 / alpha and 1 / 6 to float32
    agree(ours, theirs, *leaves(np.random.default_rng(0).standard_normal(X)), rtol=1e-7 if in_float32 else 1e-9)


def test_every_activation_and_loss_is_compared():
    def public(module):
        return {
            n for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module.__name__ and n[0] != "_"
        }

    assert public(activations) <= {name for name, _ in ACTIVATIONS}
    assert public(losses) <= {name for name, *_ in LOSSES}


@pytest.mark.parametrize("name", ["ReLU", "SiLU", "LeakyReLU", "ELU", "Hardtanh"])
def test_in_place_activations_write_into_their_input(name):
    x = np.random.default_rng(0).standard_normal(X)
    results = []
    for library, module in ((tinylora, nn), (torch, torch.nn)):
        layer, values = getattr(module, name)(inplace=True), library.tensor(x)
        assert "inplace=True" in repr(layer)
        y = layer(values)
        results.append((y.numpy(), values.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# ------------------------------------------------------------------------------------------------- losses
PAIR = [(4, 6), (4, 6)]
LOSSES = [
    ("MSELoss", {}, "real"), ("MSELoss", {"reduction": "sum"}, "real"), ("L1Loss", {"reduction": "none"}, "real"),
    ("SmoothL1Loss", {"beta": 0.5}, "real"), ("HuberLoss", {"delta": 0.5}, "real"),
    ("KLDivLoss", {"reduction": "sum"}, "unit"),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}, "real"), ("BCELoss", {}, "unit"),
    ("BCELoss", {"weight": [0.5, 1, 2, 1, 1, 3.0], "reduction": "sum"}, "unit"), ("BCEWithLogitsLoss", {}, "real"),
    ("BCEWithLogitsLoss", {"pos_weight": [0.5, 1, 2, 1, 1, 3.0], "weight": [2.0]}, "real"), ("NLLLoss", {}, "class"),
    ("NLLLoss", {"weight": [0.5, 1, 2, 1, 1, 3.0], "ignore_index": 2}, "class"), ("CrossEntropyLoss", {}, "class"),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}, "class"), ("CrossEntropyLoss", {}, "probabilities"),
    ("CrossEntropyLoss", {"label_smoothing": 0.2, "reduction": "none"}, "probabilities"),
    ("CrossEntropyLoss", {"weight": [0.5, 1, 2, 1, 1, 3.0], "label_smoothing": 0.3, "ignore_index": 1}, "class"),
    ("CosineSimilarity", {}, "real"),
]  # fmt: skip


@pytest.mark.parametrize("name, options, target", LOSSES, ids=str)
def test_losses(name, options, target):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(X)
    y = {
        "real": rng.standard_normal(X), "unit": rng.uniform(0.1, 0.9, X), "class": rng.integers(0, 6, 4),
        "probabilities": rng.dirichlet(np.ones(6), 4),
    }[target]  # fmt: skip
    x = 1 / (1 + np.exp(-x)) if name == "BCELoss" else x

    def make(library, module):
        tensor_options = {k: library.tensor(v) if isinstance(v, list) else v for k, v in options.items()}
        return getattr(module, name)(**tensor_options).double()

    ours, theirs = make(tinylora, nn), make(torch, torch.nn)
    assert repr(ours) == repr(theirs)
    (a, b), (c, d) = leaves(x, y)
    agree(ours, theirs, (a, b.detach()), (c, d.detach()))


# --------------------------------------------------------------------------------------------- recurrent
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("options", [
    {}, {"num_layers": 2}, {"bidirectional": True}, {"batch_first": True, "bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("with_state", [False, True])
def test_recurrent_networks(kind, options, with_state):
    ours, theirs = both(lambda n: getattr(n, kind)(3, 5, **options))
    assert repr(ours) == repr(theirs)
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((2, 7, 3) if options.get("batch_first") else (7, 2, 3))]
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    if with_state:
        arrays += [rng.standard_normal((count, 2, 5)) for _ in range(1 + (kind == "LSTM"))]
    a, b = leaves(*arrays)

    def call(module):
        return lambda x, *state: module(x, state if len(state) == 2 else state[0] if state else None)

    for module in (ours, theirs):
        module.call = call(module)
    ours.call.parameters, theirs.call.parameters = ours.parameters, theirs.parameters
    agree(ours.call, theirs.call, a, b)


def test_a_sequence_without_batch_and_an_rnn_with_relu():
    ours, theirs = both(lambda n: n.RNN(3, 5, nonlinearity="relu"))
    agree(ours, theirs, *leaves(np.random.default_rng(0).standard_normal((7, 3))))
    ours, theirs = both(lambda n: n.LSTM(3, 5, batch_first=True))
    agree(ours, theirs, *leaves(np.random.default_rng(0).standard_normal((7, 3))))


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_recurrent_cells(kind, bias, shape):
    ours, theirs = both(lambda n: getattr(n, kind)(3, 5, bias=bias))
    assert repr(ours) == repr(theirs)
    a, b = leaves(np.random.default_rng(0).standard_normal(shape))
    agree(ours, theirs, a, b)
    state = np.random.default_rng(1).standard_normal((*shape[:-1], 5))
    (x, h), (y, g) = leaves(np.random.default_rng(0).standard_normal(shape), state)
    ours_state, theirs_state = ((h, h * 2), (g, g * 2)) if kind == "LSTMCell" else (h, g)
    for p, q in zip(tensors(ours(x, ours_state)), tensors(theirs(y, theirs_state)), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-9)


def test_what_a_recurrent_network_refuses():
    with pytest.raises(NotImplementedError, match="proj_size"):
        nn.LSTM(3, 5, proj_size=2)
    with pytest.raises(RuntimeError, match=r"expected inputs of size 3, got shape \(7, 2, 4\)"):
        nn.GRU(3, 5)(tinylora.zeros(7, 2, 4))
    with pytest.raises(RuntimeError, match=r"expected a state of shape \(1, 2, 5\)"):
        nn.GRU(3, 5)(tinylora.zeros(7, 2, 3), tinylora.zeros(1, 3, 5))
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.RNN(3, 5, nonlinearity="gelu")


# --------------------------------------------------------------------------------------------- attention
@pytest.mark.parametrize("masks", ["none", "causal", "padding", "numbers", "heads"])
@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
def test_multi_head_attention(masks, options):
    ours, theirs = both(lambda n: n.MultiheadAttention(8, 2, batch_first=True))
    rng = np.random.default_rng(3)
    given = {
        "none": {}, "causal": {"attn_mask": ~np.tri(4, 5, dtype=bool)},
        "numbers": {"attn_mask": rng.standard_normal((4, 5))},
        "padding": {"key_padding_mask": np.array([[False] * 5, [False, False, False, True, True]])},
        "heads": {"attn_mask": rng.random((4, 4, 5)) < 0.3},
    }[masks]  # fmt: skip
    a, b = leaves(*(rng.standard_normal(shape) for shape in [(2, 4, 8), (2, 5, 8), (2, 5, 8)]))
    results = []
    for library, module, inputs in ((tinylora, ours, a), (torch, theirs, b)):
        y, weights = module(*inputs, **{k: library.tensor(v) for k, v in given.items()}, **options)
        y.cos().sum().backward()
        grads = [x.grad for x in inputs] + [p.grad for p in module.parameters()]
        results.append([x.detach().numpy() for x in [y, *([] if weights is None else [weights]), *grads]])
    for x, y in zip(*results, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu", "batch_first": True}], ids=str)
def test_transformer_encoder(options):
    def make(n):
        layer = n.TransformerEncoderLayer(8, 2, 16, dropout=0.0, **options)
        return n.TransformerEncoder(layer, 2, n.LayerNorm(8), enable_nested_tensor=False)

    ours, theirs = both(make)
    a, b = leaves(np.random.default_rng(4).standard_normal((3, 5, 8)))
    agree(ours, theirs, a, b)


# ---------------------------------------------------------------------------------------------- batch norm
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
@pytest.mark.parametrize("options", [{}, {"momentum": None, "affine": False}, {"track_running_stats": False}], ids=str)
def test_batch_norm(shape, options):
    ours, theirs = both(lambda n: n.BatchNorm1d(3, **options))
    assert repr(ours) == repr(theirs)
    rng = np.random.default_rng(5)
    for _ in range(3):
        agree(ours, theirs, *leaves(rng.standard_normal(shape) * 2 + 1))
        ours.zero_grad()
        theirs.zero_grad()
    for name, buffer in ours.named_buffers():
        np.testing.assert_allclose(buffer.numpy(), theirs.get_buffer(name).numpy(), rtol=1e-12)
    agree(ours.eval(), theirs.eval(), *leaves(rng.standard_normal(shape)))
    with pytest.raises(ValueError, match=r"expected \(N, 3\) or"):
        ours(tinylora.zeros(2, 4))


# ------------------------------------------------------------------------------------------------ embedding
def test_the_padding_row_is_zero_and_stays_so():
    ours, theirs = both(lambda n: n.Embedding(5, 3, padding_idx=-4))
    assert repr(ours) == repr(theirs) and ours.weight[1].tolist() == [0.0] * 3
    ids = np.array([[1, 2], [4, 1]])
    for library, layer in ((tinylora, ours), (torch, theirs)):
        layer(library.tensor(ids)).cos().sum().backward()
        (layer(library.tensor(ids)) ** 2).sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-9)
    assert not ours.weight.grad.numpy()[1].any()
    rows = tinylora.randn(4, 2)
    layer = nn.Embedding.from_pretrained(rows)
    assert not layer.weight.requires_grad and tinylora.equal(layer(tinylora.tensor([3])), rows[3:])


# ---------------------------------------------------------------------------------------------- containers
def test_lists_and_dictionaries_behave_as_pytorchs():
    seen = []
    for library, n in ((tinylora, nn), (torch, torch.nn)):
        a = n.ModuleList([n.ReLU(), n.Tanh()])
        a.append(n.Sigmoid())
        a.extend([n.GELU(), n.SiLU()])
        a.insert(1, n.Identity())
        del a[0]
        b = n.ModuleDict({"x": n.ReLU()})
        b["y"] = n.Linear(2, 3)
        b.update({"z": n.Tanh()})
        popped = b.pop("x")
        c = n.Sequential(n.ReLU(), n.Linear(2, 2)).append(n.Tanh())
        c.insert(1, n.SiLU())
        d = n.ParameterList([n.Parameter(library.zeros(2)), library.ones(3)])
        d.append(library.ones(1))
        e = n.ParameterDict({"a": library.zeros(2)})
        e["b"] = n.Parameter(library.ones(2))
        f = n.ModuleDict([["p", n.ReLU()], ["q", n.Tanh()]])
        kinds = [[type(m).__name__ for m in modules] for modules in (a, a[1:3], b.values(), c, c[:2], f.values())]
        names = [list(m.state_dict()) for m in (b, c, d, e)] + [list(b), list(b.keys()), list(e.keys()), "x" in b]
        seen.append((kinds, names, len(a), len(b), len(d), type(popped).__name__, [tuple(p.shape) for p in d]))
        assert all(p.requires_grad for p in d)
    assert seen[0] == seen[1]


# --------------------------------------------------------------------------------- hooks and further methods
def hooked(library, n):
    """What hooks see and change, in one library."""
    seen = []
    layer = n.Sequential(n.Linear(3, 3, bias=False), n.Tanh())
    with library.no_grad():
        layer[0].weight.copy_(library.tensor(np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)))
    before = layer[0].register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    after = layer[1].register_forward_hook(lambda m, args, out: seen.append((type(m).__name__, tuple(out.shape))))
    layer.register_forward_hook(lambda m, args, out: out + 1)
    x = library.ones(2, 3)
    first = layer(x)
    before.remove()
    after.remove()
    second = layer(x)
    h = layer[0](x)
    h.retain_grad()
    double = h.register_hook(lambda g: g * 2)
    (h * h).sum().backward()
    double.remove()
    return [first, second, h.grad, layer[0].weight.grad], seen


def test_hooks_see_and_change_what_pytorchs_do():
    (a, seen), (b, expected) = hooked(tinylora, nn), hooked(torch, torch.nn)
    assert seen == expected
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-6)


def test_retain_grad_after_the_tensor_was_used():
    for library in (tinylora, torch):
        x = library.ones(3, requires_grad=True)
        h = x * 2
        y = h * 3 + h
        h.retain_grad()
        y.sum().backward()
        assert h.grad.tolist() == [4.0] * 3 and x.grad.tolist() == [8.0] * 3


def test_modules_are_found_by_name_and_registered():
    for library, n in ((tinylora, nn), (torch, torch.nn)):
        model = n.Sequential(n.Linear(2, 2), n.LayerNorm(2))
        model.register_module("extra", n.Linear(2, 1))
        assert model.get_parameter("0.weight") is model[0].weight
        assert model.get_submodule("extra") is model.extra
        with pytest.raises(AttributeError):
            model.get_parameter("0.nothing")
        with pytest.raises(KeyError):
            model.register_module("a.b", n.ReLU())
        assert [name for name, _ in model.named_parameters(recurse=False)] == []
        model.extra.register_buffer("seen", library.ones(1))
        assert model.get_buffer("extra.seen").tolist() == [1.0]
        model(library.ones(2)).sum().backward()
        model.zero_grad(set_to_none=False)
        assert model[0].weight.grad.abs().sum() == 0
        model.zero_grad()
        assert model[0].weight.grad is None
        assert str(model.half()[0].weight.dtype).endswith("float16") and model.float().cpu() is model
        missing, unexpected = model.load_state_dict({"other": library.ones(1)}, strict=False)
        assert len(missing) == 7 and unexpected == ["other"]
