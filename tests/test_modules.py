"""Modules behave as in PyTorch; every one passes the gradient check; the lecture's numbers come out; GPT agrees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TINY, ids, shaken

import tinylora
from tinylora import nn
from tinylora.lora import LinearWithLoRA, LoRALayer, freeze, replace_linear_with_lora
from tinylora.models.gpt import FeedForward, GPTConfig, GPTModel, LayerNorm, MultiHeadAttention, TransformerBlock
from tinylora.testing import gradcheck
from tinylora.testing.strategies import lora_sizes, shapes


# ------------------------------------------------------------------------------------------ registering
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.scale = nn.Parameter(tinylora.ones(3))
        self.register_buffer("mask", tinylora.ones(3))
        self.register_buffer("cache", tinylora.zeros(1), persistent=False)
        self.second = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU())

    def forward(self, x):
        return self.second(self.first(x) * self.scale * self.mask)


def test_attributes_register_themselves():
    model = Two()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["scale", "first.weight", "first.bias", "second.0.weight"]
    assert [name for name, _ in model.named_modules()] == ["", "first", "second", "second.0", "second.1"]
    assert [name for name, _ in model.named_children()] == ["first", "second"]
    assert [name for name, _ in model.named_buffers()] == ["mask", "cache"]
    assert list(model.state_dict()) == ["scale", "mask", "first.weight", "first.bias", "second.0.weight"]
    assert len(list(model.parameters())) == 4 and len(list(model.modules())) == 5 and len(list(model.children())) == 2
    assert model.get_submodule("second.0") is model.second[0]


def test_assigning_again_replaces_and_deleting_removes():
    model = Two()
    model.first = nn.Identity()
    assert [name for name, _ in model.named_modules()][1:] == ["first", "second", "second.0", "second.1"]
    del model.scale
    assert "scale" not in dict(model.named_parameters())
    with pytest.raises(AttributeError, match="Two has no attribute 'scale'"):
        model.scale
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        del model.missing
    model.mask = tinylora.zeros(3)
    assert dict(model.named_buffers())["mask"].tolist() == [0.0, 0.0, 0.0]


def test_a_parameter_is_not_replaced_by_a_plain_tensor():
    model = Two()
    with pytest.raises(TypeError, match="'scale' is a parameter"):
        model.scale = tinylora.ones(3)
    model.scale = None
    assert model.scale is None and "scale" not in dict(model.named_parameters())


def test_a_module_that_forgot_its_super_init_is_told():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 2)

    with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\)"):
        Forgetful()
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        nn.Module()(1)


def test_setattr_reaches_into_sequential_and_module_list():
    for container in (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])):
        new = nn.Linear(2, 5)
        setattr(container, "0", new)
        assert container[0] is new and len(container) == 2 and next(container.named_children())[0] == "0"
        container[-1] = nn.GELU()
        assert isinstance(container[1], nn.GELU)
        assert len(container[:1]) == 1 and type(container[:1]) is type(container) and len(container.append(nn.ReLU())) == 3
        with pytest.raises(IndexError, match="holds 3 modules"):
            container[3]


def test_apply_visits_children_first_and_modes_reach_everything():
    model, seen = Two(), []
    model.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Linear", "ReLU", "Sequential", "Two"]
    weights = [p.array for p in model.parameters()]
    assert model.eval() is model and not any(m.training for m in model.modules())
    assert all(m.training for m in model.train().modules())
    assert all(a is p.array for a, p in zip(weights, model.parameters(), strict=True))
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters())


def test_to_casts_parameters_and_buffers_and_keeps_them_parameters():
    model = Two()
    weight = model.first.weight
    model(tinylora.ones(1, 4)).sum().backward()
    model.double()
    assert model.first.weight is weight and weight.requires_grad
    assert {p.dtype.name for p in (*model.parameters(), *model.buffers())} == {"float64"} == {weight.grad.dtype.name}
    model.to("cpu", tinylora.float32).zero_grad()
    assert weight.dtype == tinylora.float32 and weight.grad is None
    assert Two().to("meta").first.weight.device == "meta"


def test_a_tied_weight_is_one_parameter_with_two_names_in_the_state():
    model = GPTModel({**TINY, "tie_head": True})
    names = [name for name, _ in model.named_parameters()]
    assert "tok_emb.weight" in names and "out_head.weight" not in names
    assert model.out_head.weight is model.tok_emb.weight
    assert {"tok_emb.weight", "out_head.weight"} <= set(model.state_dict())


# ---------------------------------------------------------------------------------------- state and errors
def test_a_state_goes_into_another_model():
    a, b = shaken(Two()), Two().double()
    assert b.load_state_dict(a.state_dict()) == ([], [])
    x = tinylora.randn(2, 4).double()
    assert b(x).equal(a(x)) and b.first.weight.array is not a.first.weight.array
    c = Two()
    c.load_state_dict({name: t.numpy() for name, t in a.state_dict().items()})
    assert c.first.weight.dtype == tinylora.float32


def test_a_state_that_does_not_fit_is_refused_with_all_its_faults_and_nothing_is_loaded():
    model = Two()
    state = {name: t * 0 for name, t in model.state_dict().items()}
    del state["scale"]
    state["third.weight"] = tinylora.zeros(1)
    state["first.weight"] = tinylora.zeros(4, 3)
    before = model.state_dict()["first.bias"].tolist()
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(state)
    for fault in ("missing: scale", "unexpected: third.weight", "first.weight: expected (3, 4), got (4, 3)"):
        assert fault in str(error.value)
    with pytest.raises(RuntimeError, match=r"first.weight: expected \(3, 4\), got \(4, 3\)"):
        model.load_state_dict(state, strict=False)
    assert model.state_dict()["first.bias"].tolist() == before
    del state["first.weight"]
    assert model.load_state_dict(state, strict=False) == (["scale", "first.weight"], ["third.weight"])
    assert model.first.bias.tolist() == [0.0] * 3


def test_an_error_names_the_path_of_the_module_it_came_from():
    model = GPTModel(TINY)
    model.trf_blocks[1].att.W_query = nn.Linear(5, 8)
    with pytest.raises(RuntimeError, match=r"^trf_blocks.1.att.W_query: linear: input of shape \(1, 3, 8\).*\(8, 5\)"):
        model(ids(1, 3))
    with pytest.raises(IndexError, match=r"^tok_emb: embedding: ids 11..11 outside the vocabulary 0..10"):
        model(tinylora.tensor([[11]]))
    with pytest.raises(IndexError, match="tok_emb: embedding: ids -1..-1"):
        model(tinylora.tensor([[-1]]))


def test_bad_configurations_and_inputs_of_gpt():
    with pytest.raises(ValueError, match="emb_dim 8 is not divisible by n_heads 3"):
        GPTModel({**TINY, "n_heads": 3})
    with pytest.raises(ValueError, match="7 tokens do not fit the context of 6"):
        GPTModel(TINY)(ids(1, 7))
    with pytest.raises(ValueError, match="lacks emb_dim, qkv_bias"):
        GPTModel({k: v for k, v in TINY.items() if k not in ("emb_dim", "qkv_bias")})
    with pytest.raises(ValueError, match="unknown preset 'gpt3': expected one of gpt2-small"):
        GPTModel("gpt3")
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            nn.Dropout(p)


# ---------------------------------------------------------------------------------------------- printing
def test_printed_trees_are_those_of_pytorch():
    pytest.importorskip("torch", minversion="2.13", reason="compares with PyTorch 2.13, which prints LayerNorm's bias")
    import torch

    def build(n):
        class Block(n.Module):
            def __init__(self):
                super().__init__()
                self.norm = n.LayerNorm(8)
                self.rms = n.Sequential(n.RMSNorm(8), n.RMSNorm((2, 3), eps=1e-6, elementwise_affine=False))
                self.layers = n.Sequential(n.Linear(8, 4, bias=False), n.GELU(), n.GELU(approximate="tanh"), n.Dropout(0.1))
                self.blocks = n.ModuleList([n.ReLU(), n.SiLU(), n.Softmax(dim=-1), n.Identity()])
                self.emb = n.Embedding(5, 8)
                self.empty = n.Sequential()

        return Block()

    # PyTorch folds equal neighbours of a ModuleList, and these are all different
    assert repr(build(nn)) == repr(build(torch.nn))


# ------------------------------------------------------------------------------------- gradients of modules
LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), (2, 4)), "Linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (2, 4)),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((2, 3)), (2, 2, 3)),
    "LayerNorm without affine": (lambda: nn.LayerNorm(4, elementwise_affine=False), (2, 4)),
    "GELU": (nn.GELU, (2, 3)), "GELU tanh": (lambda: nn.GELU("tanh"), (2, 3)), "ReLU": (nn.ReLU, (2, 3)),
    "SiLU": (nn.SiLU, (2, 3)), "Softmax": (lambda: nn.Softmax(dim=0), (2, 3)), "Identity": (nn.Identity, (2,)),
    "Dropout in evaluation": (lambda: nn.Dropout(0.5).eval(), (2, 3)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (2, 4)),
    "RMSNorm over two axes": (lambda: nn.RMSNorm((2, 3), eps=1e-5), (2, 2, 3)),
    "RMSNorm without affine": (lambda: nn.RMSNorm(4, elementwise_affine=False), (2, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 2)), (2, 3)),
    "gpt.LayerNorm": (lambda: LayerNorm(4), (2, 4)), "FeedForward": (lambda: FeedForward(GPTConfig.of(TINY)), (2, 8)),
    "MultiHeadAttention": (lambda: MultiHeadAttention(4, 6, 5, 0.0, 2, qkv_bias=True), (2, 3, 4)),
    "TransformerBlock": (lambda: TransformerBlock(GPTConfig.of(TINY)), (1, 3, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_layers(name):
    make, shape = LAYERS[name]
    assert gradcheck(shaken(make()), [np.random.default_rng(1).standard_normal(shape)])


def test_every_layer_of_nn_is_checked():
    """Here, or beside PyTorch's in test_torch_modules.py: what is in activations.py and losses.py, and containers."""
    elsewhere = {"Module", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Embedding", "Dropout"}
    elsewhere |= {"Flatten", "Unflatten"} | set(vars(nn.activations)) | set(vars(nn.losses))
    elsewhere |= {"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"}
    elsewhere |= {"MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder", "DataParallel", "BatchNorm1d"}
    layers = {name for name in nn.__dict__ if isinstance(kind := getattr(nn, name), type) and issubclass(kind, nn.Module)}
    assert layers - elsewhere <= {name.split()[0] for name in LAYERS}


def test_gradients_of_embedding_loss_and_dropout_in_training():
    assert gradcheck(shaken(nn.Embedding(5, 3)), [ids(2, 4, high=5)])
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(tinylora.tensor([0.5, 2.0, 1.0]).double(), 1, "sum")):
        assert gradcheck(loss, [np.random.default_rng(0).standard_normal((4, 3)), ids(4, high=3)])

    def drop(x):
        tinylora.manual_seed(5)
        return nn.Dropout(0.5)(x)

    assert gradcheck(drop, [np.ones((3, 4))])


@given(lora_sizes(), shapes(max_dims=2, max_side=3), st.booleans())
def test_gradients_of_lora(size, batch, bias):
    x = np.random.default_rng(0).standard_normal((*batch, size.in_dim))
    assert gradcheck(shaken(LoRALayer(*size)), [x])
    wrapped = shaken(LinearWithLoRA(nn.Linear(size.in_dim, size.out_dim, bias=bias), size.rank, size.alpha))
    assert gradcheck(wrapped, [x])
    x = tinylora.tensor(x)
    assert wrapped(x).allclose(wrapped.linear(x) + wrapped.lora(x), rtol=1e-12, atol=1e-12)
    wrapped.linear.requires_grad_(False)
    assert gradcheck(wrapped, [x.array])


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_the_whole_model_with_lora(tied):
    model = shaken(GPTModel({**TINY, "emb_dim": 4, "n_layers": 1, "vocab_size": 5, "tie_head": tied}), seed=1)
    tokens = ids(1, 3, high=5)
    assert gradcheck(model, [tokens])
    freeze(model)
    replace_linear_with_lora(model, rank=2, alpha=5)
    for p in model.double().parameters():
        p.array = np.random.default_rng(2).standard_normal(p.shape) * 0.5 if p.requires_grad else p.array
    assert gradcheck(model, [tokens])


# ------------------------------------------------------------------------- what a child does its own way
class Frozen(nn.Linear):
    """Stays in evaluation mode, and merges what it is told to."""

    def train(self, mode=True):
        self.calls = [*getattr(self, "calls", []), mode]
        return super().train(False)


class Renamed(nn.Linear):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        state[kwargs.get("prefix", "") + "extra"] = tinylora.ones(1)
        return state


def test_train_and_eval_call_train_of_every_child():
    net = nn.Sequential(nn.Sequential(Frozen(2, 2), nn.Dropout()), nn.Linear(2, 2))
    assert net.train() is net and net.eval() is net
    assert net[0][0].calls == [True, False] and not net.train()[0][0].training
    assert [m.training for m in net.modules()] == [True, True, False, True, True]


def test_state_dict_calls_state_dict_of_every_child():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Renamed(2, 2, bias=False)))
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.0.weight", "1.0.extra"]
    kept = net.state_dict(keep_vars=True)
    assert kept["0.weight"] is net[0].weight
    into = {"before": 1}
    assert net.state_dict(destination=into, prefix="net.") is into and list(into)[:2] == ["before", "net.0.weight"]


def test_load_state_dict_writes_into_the_parameters_so_that_views_of_them_follow():
    layer = nn.Linear(2, 3)
    array, row = layer.weight.array, layer.weight.detach()[1]
    layer.load_state_dict({"weight": tinylora.full((3, 2), 7.0), "bias": tinylora.zeros(3).double()})
    assert layer.weight.array is array and row.tolist() == [7.0, 7.0] and layer.bias.dtype == tinylora.float32
