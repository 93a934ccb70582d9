"""Kin of LoRA: each starts where it says, has the gradients of its formula, and merges into the same function."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TINY, ids
from test_adapters import IDS, base, scores

import tinylora
from tinylora import nn, optim
from tinylora.adapters import (
    LoRAConfig,
    apply_lora,
    load_adapter,
    merge_and_unload,
    new_adapter,
    pissa_to_lora,
    save_adapter,
    set_adapter,
    verify_merge,
)
from tinylora.adapters.variants import DoRA, DropoutLoRA, EmbeddingWithLoRA, LoRAFA, PiSSA, lora_plus
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.models.gpt import GPTModel
from tinylora.testing import gradcheck
from tinylora.testing.strategies import lora_sizes
from tinylora.torch_api.losses import cross_entropy

KINDS = [DoRA, LoRAFA, PiSSA]


def shaken(layer, seed=0):
    """The layer in float64, with everything that is trained random: a B of zeros hides mistakes."""
    rng = np.random.default_rng(seed)
    for p in layer.lora.parameters():
        p.array = rng.standard_normal(p.shape)
    return layer.double()


def random(*shape):
    return tinylora.tensor(np.random.default_rng(1).standard_normal(shape))


def made(kind, size, bias=True):
    rank = min(size.rank, size.in_dim, size.out_dim)  # PiSSA's rank is at most that of the weight
    return kind(nn.Linear(size.in_dim, size.out_dim, bias=bias), rank, size.alpha)


# -------------------------------------------------------------------------------------------- dropout
@given(lora_sizes(), st.floats(0.1, 0.9), st.integers(0, 2**32))
def test_dropout_drops_what_A_reads_and_nothing_else(size, p, seed):
    layer = shaken(DropoutLoRA(nn.Linear(size.in_dim, size.out_dim), size.rank, size.alpha, p))
    x = random(3, size.in_dim)
    tinylora.manual_seed(seed)
    found = layer(x).detach().numpy()
    tinylora.manual_seed(seed)
    dropped = nn.functional.dropout(x, p).numpy()
    A, B = layer.lora.A.array, layer.lora.B.array
    expected = x.numpy() @ layer.linear.weight.array.T + layer.linear.bias.array + size.alpha * (dropped @ A @ B)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@given(lora_sizes())
def test_in_evaluation_and_merged_dropout_is_plain_lora(size):
    layer = shaken(DropoutLoRA(nn.Linear(size.in_dim, size.out_dim), size.rank, size.alpha, 0.5)).eval()
    plain = shaken(LinearWithLoRA(layer.linear, size.rank, size.alpha)).eval()
    x = random(3, size.in_dim)
    np.testing.assert_array_equal(layer(x).detach().numpy(), plain(x).detach().numpy())
    layer.merge()
    np.testing.assert_array_equal(layer(x).detach().numpy(), layer.linear(x).detach().numpy())
    with pytest.raises(RuntimeError, match="merged it cannot be trained"):
        layer.train()(x)


@given(lora_sizes())
def test_dropout_gradients(size):
    layer = shaken(DropoutLoRA(nn.Linear(size.in_dim, size.out_dim), size.rank, size.alpha, 0.4))

    class SameMask(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            tinylora.manual_seed(7)
            return self.layer(x)

    gradcheck(SameMask(), [random(3, size.in_dim).numpy()])


def test_dropout_by_configuration():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    apply_lora(model.eval(), LoRAConfig(rank=2, dropout=0.25))
    assert [(m.dropout.p, m.dropout.training) for _, m in lora_modules(model)] == [(0.25, False)] * 2
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="dropout is a probability"):
            LoRAConfig(dropout=wrong)


# ------------------------------------------------------------------------------------------ embeddings
@given(lora_sizes())
def test_an_embedding_with_lora_reads_rows_of_w_and_of_a(size):
    layer = shaken(EmbeddingWithLoRA(nn.Embedding(size.in_dim, size.out_dim), size.rank, size.alpha)).eval()
    tokens = ids(2, 5, high=size.in_dim)
    changed = layer.linear.weight.array + size.alpha * layer.lora.A.array @ layer.lora.B.array
    np.testing.assert_allclose(layer(tokens).detach().numpy(), changed[tokens.numpy()], rtol=1e-10, atol=1e-10)
    before = layer.linear.weight.array
    layer.merge()
    np.testing.assert_allclose(layer.linear.weight.array, changed, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(layer(tokens).detach().numpy(), layer.linear.weight.array[tokens.numpy()])
    layer.unmerge()
    assert layer.linear.weight.array is before


@given(lora_sizes())
def test_embedding_gradients(size):
    layer = shaken(EmbeddingWithLoRA(nn.Embedding(size.in_dim, size.out_dim), size.rank, size.alpha))
    gradcheck(layer, [ids(2, 5, high=size.in_dim)])


def test_embeddings_are_wrapped_by_name_and_never_by_all_linear():
    model = GPTModel({**TINY, "tie_head": True})
    assert len(apply_lora(model, LoRAConfig(rank=2))) == 13
    model = GPTModel({**TINY, "tie_head": True}).eval()
    before = model(ids(2, 6)).detach().numpy()
    plan = apply_lora(model, LoRAConfig(rank=2, targets=("tok_emb", "pos_emb", "W_query")))
    assert [(e.path, e.in_features, e.out_features) for e in plan[:2]] == [("tok_emb", 11, 8), ("pos_emb", 6, 8)]
    assert plan.added == model.summary().lora.trainable
    np.testing.assert_array_equal(model(ids(2, 6)).detach().numpy(), before)
    model.tok_emb.lora.B.array = np.ones_like(model.tok_emb.lora.B.array)
    adapted, head = model(ids(2, 6)).detach().numpy(), model.out_head.weight.array
    merge_and_unload(model)
    assert type(model.tok_emb) is nn.Embedding and model.out_head.weight.array is head  # the head keeps what it shared
    np.testing.assert_allclose(model(ids(2, 6)).detach().numpy(), adapted, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="around an Embedding, not around a Linear"):
        EmbeddingWithLoRA(nn.Linear(3, 4), 2, 1.0)


@pytest.mark.parametrize("targets", [("tok_emb",), ("W_query",)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_is_wrapped_in_evaluation_mode_stays_in_it(targets, dropout):
    model = GPTModel(TINY).eval()
    apply_lora(model, LoRAConfig(rank=2, targets=targets, dropout=dropout))
    assert not any(m.training for m in model.modules())


# -------------------------------------------------------------------------------------- DoRA, PiSSA, FA
sizes = lora_sizes().filter(lambda size: size.alpha > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_nothing_changes(kind):
    @given(sizes, st.booleans())
    def check(size, bias):
        layer = made(kind, size, bias).double()
        x = random(3, size.in_dim)
        np.testing.assert_allclose(layer(x).detach().numpy(), layer.linear(x).detach().numpy(), rtol=1e-5, atol=1e-6)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_the_same_function_and_unmerged_the_same_bytes(kind):
    @given(sizes, st.booleans())
    def check(size, bias):
        layer = shaken(made(kind, size, bias))
        x, weight = random(3, size.in_dim), layer.linear.weight.array.tobytes()
        apart = layer.eval()(x).detach().numpy()
        layer.merge()
        np.testing.assert_allclose(layer(x).detach().numpy(), apart, rtol=1e-9, atol=1e-9)
        layer.unmerge()
        assert layer.linear.weight.array.tobytes() == weight
        np.testing.assert_array_equal(layer(x).detach().numpy(), apart)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_each_kind(kind):
    @given(sizes, st.booleans())
    def check(size, bias):
        layer = shaken(made(kind, size, bias))
        layer.linear.requires_grad_(False)
        if kind is DoRA:  # to the gradient ‖V‖ is a constant; to finite differences it has to be made one
            lengths = layer.lengths()
            layer.lengths = lambda: lengths
        gradcheck(layer, [random(3, size.in_dim).numpy()])

    check()


@given(sizes)
def test_dora_is_its_formula(size):
    layer = shaken(made(DoRA, size))
    x, lora = random(3, size.in_dim), layer.lora
    V = layer.linear.weight.array + (lora.alpha * lora.A.array @ lora.B.array).T
    weight = lora.magnitude.array[:, None] * V / np.linalg.norm(V, axis=1, keepdims=True)
    expected = x.numpy() @ weight.T + layer.linear.bias.array
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert made(DoRA, size).lora.magnitude.requires_grad


def test_dora_of_a_row_of_zeros_is_zero():
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.array = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(DoRA(linear, 1, 2.0)(tinylora.ones(1, 3)).detach().numpy(), [[0, 0]])


@given(sizes)
def test_pissa_starts_from_the_best_factors_and_is_a_plain_lora_of_twice_the_rank(size):
    layer = made(PiSSA, size)
    W, lora = layer.linear.weight.array, layer.lora
    rank = lora.A.shape[1]
    U, S, Vt = np.linalg.svd(W.T)
    np.testing.assert_allclose(lora.delta(), (U[:, :rank] * S[:rank]) @ Vt[:rank], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(lora.A.array, axis=0), np.linalg.norm(lora.B.array, axis=1), rtol=1e-4)
    shaken(layer)
    plain, x = layer.as_lora(), random(3, size.in_dim)
    assert type(plain) is LinearWithLoRA and plain.linear is layer.linear and plain.lora.A.shape[1] == 2 * rank
    np.testing.assert_array_equal(plain(x).detach().numpy(), layer(x).detach().numpy())


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_pissa_needs_a_scale_above_zero(alpha):
    with pytest.raises(ValueError, match="scale above 0"):
        PiSSA(nn.Linear(4, 3), 2, alpha)


def test_lora_fa_trains_B_alone_and_keeps_no_input_for_it():
    kept = {}
    for kind in (LinearWithLoRA, LoRAFA):
        layer = kind(nn.Linear(256, 64), 2, 4.0)
        layer.linear.requires_grad_(False)
        with tinylora.profile() as p:
            y = layer(tinylora.randn(512, 256) * 1.0)
        (y**2).sum().backward()
        kept[kind] = p.ops["lora_linear"].kept
        assert (layer.lora.A.grad is None) == (kind is LoRAFA) and layer.lora.B.grad is not None
    assert kept[LinearWithLoRA] - kept[LoRAFA] >= 512 * 256 * 4


def test_lora_plus_gives_B_its_own_rate():
    model = base()
    apply_lora(model, LoRAConfig(rank=2, train=("out_head",), targets=("W_query",)))
    others, faster = lora_plus(model, lr=0.01, ratio=8.0)
    assert (others["lr"], faster["lr"]) == (0.01, 0.08)
    assert [id(p) for p in faster["params"]] == [id(m.lora.B) for _, m in lora_modules(model)]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in (others, faster) for p in group["params"]} == trained
    before = {id(p): p.array.copy() for p in model.parameters()}
    cross_entropy(model(IDS)[:, -1], tinylora.tensor([0, 1])).backward()
    optim.SGD([others, faster]).step()
    for group in (others, faster):
        for p in group["params"]:
            np.testing.assert_allclose(p.array, before[id(p)] - group["lr"] * p.grad.array, rtol=1e-6)
    for ratio in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="ratio is a finite number above 0"):
            lora_plus(model, 0.01, ratio)
    with pytest.raises(ValueError, match="no LoRA whose B is trained"):
        lora_plus(base(), 0.01)


# ------------------------------------------------------------------------------------ by configuration
def configured(variant, **options):
    """A model with adapters of this variant in which everything that is trained has moved."""
    config = LoRAConfig(2, 6.0, ("W_query", "ff.layers.0"), ("out_head",), "alpha/r", variant=variant, **options)
    model = base()
    apply_lora(model, config)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        if p.requires_grad:
            p.array = p.array + rng.standard_normal(p.shape).astype(np.float32)
    return model, config


@pytest.mark.parametrize("variant", ["lora", "dora", "lora-fa", "pissa"])
def test_each_variant_is_applied_saved_and_merged(variant, tmp_path):
    model, config = configured(variant)
    expected = scores(model)
    assert verify_merge(model, IDS) < 1e-4
    if variant == "pissa":
        with pytest.raises(ValueError, match=r"config = pissa_to_lora\(model, config\) first"):
            save_adapter(model, tmp_path / "a.safetensors", config)
        config = pissa_to_lora(model, config)
        np.testing.assert_array_equal(scores(model), expected)
    save_adapter(model, tmp_path / "a.safetensors", config)
    fresh = base()
    assert load_adapter(fresh, tmp_path / "a.safetensors") == config
    np.testing.assert_array_equal(scores(fresh), expected)
    trained = [(path, p.requires_grad) for path, p in model.named_parameters()]
    assert [(path, p.requires_grad) for path, p in fresh.named_parameters()] == trained
    merge_and_unload(fresh)
    np.testing.assert_allclose(scores(fresh), expected, rtol=1e-4, atol=1e-4)


def test_a_variant_is_not_saved_as_another(tmp_path):
    model, config = configured("dora")
    with pytest.raises(ValueError, match=r"has variant, rank and scale \('dora', 2, 3\.0\)"):
        save_adapter(model, tmp_path / "a", dataclasses.replace(config, variant="lora"))
    for variant in ("dora", "pissa", "lora-fa"):
        with pytest.raises(ValueError, match="is for a plain Linear, not for Embedding"):
            apply_lora(base(), LoRAConfig(rank=2, targets=("tok_emb",), variant=variant))


def test_a_named_pissa_is_converted_in_its_place():
    model = base()
    config = LoRAConfig(2, 6.0, ("W_query",), variant="pissa")
    with new_adapter(model, "p"):
        apply_lora(model, config)
    before = scores(model)
    with new_adapter(model, "q"):
        apply_lora(model, LoRAConfig(rank=1))
    set_adapter(model, "p")
    pissa_to_lora(model, config)
    for name in ("q", "p"):
        set_adapter(model, name)
    assert {type(m) for _, m in lora_modules(model)} == {LinearWithLoRA}
    np.testing.assert_array_equal(scores(model), before)


@pytest.mark.parametrize("wrong", [{"variant": "vera"}, {"variant": "lora-fa", "dropout": 0.1},
                                   {"variant": "pissa", "init": "peft"}])  # fmt: skip
def test_variants_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ValueError):
        LoRAConfig(**wrong)


# ----------------------------------------------------------------------------------------------- PEFT
def beside_peft(variant, **options):
    """The same two Linears with the same adapter, ours and PEFT's, and an input."""
    peft = pytest.importorskip("peft", reason="compares with PEFT: pip install peft")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = ((12, 9), (9, 7))
    theirs = torch.nn.Sequential(*[torch.nn.Linear(*size) for size in sizes])
    ours = nn.Sequential(*[nn.Linear(*size) for size in sizes])
    ours.load_state_dict({name: p.detach().numpy() for name, p in theirs.named_parameters()})
    apply_lora(ours, LoRAConfig(3, 5.0, scaling="alpha/r", variant=variant))
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0", "1"], **options))
    x = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    return ours, theirs, x, torch


def train(ours, theirs, x, torch, steps):
    """AdamW on both; returns the outputs of both before every step."""
    mine = optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=0.05)
    others = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        y, expected = ours(tinylora.tensor(x)), theirs(torch.tensor(x))
        yield y.detach().numpy(), expected.detach().numpy()
        for loss, optimizer in (((y**2).mean(), mine), ((expected**2).mean(), others)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_dora_is_that_of_peft():
    ours, theirs, x, torch = beside_peft("dora", use_dora=True)
    rng = np.random.default_rng(1)
    for (_, mine), other in zip(lora_modules(ours), theirs.base_model.model, strict=True):
        A, B = (rng.standard_normal(p.shape).astype(np.float32) for p in (mine.lora.A, mine.lora.B))
        mine.lora.A.array, mine.lora.B.array = A, B
        other.lora_A["default"].weight.data, other.lora_B["default"].weight.data = torch.tensor(A.T), torch.tensor(B.T)
        magnitude = other.lora_magnitude_vector["default"].weight.detach().numpy()
        np.testing.assert_allclose(mine.lora.magnitude.array, magnitude, rtol=1e-6)
    for found, expected in train(ours, theirs, x, torch, steps=4):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for (_, mine), other in zip(lora_modules(ours), theirs.base_model.model, strict=True):
        for p, q in (
            (mine.lora.A, other.lora_A),
            (mine.lora.B, other.lora_B),
            (mine.lora.magnitude, other.lora_magnitude_vector),
        ):
            grad = q["default"].weight.grad.numpy()
            np.testing.assert_allclose(p.grad.numpy(), grad.T, rtol=1e-3, atol=1e-4 * abs(grad).max())


def test_pissa_is_that_of_peft():
    ours, theirs, x, torch = beside_peft("pissa", init_lora_weights="pissa")
    for (_, mine), other in zip(lora_modules(ours), theirs.base_model.model, strict=True):
        A, B = (q["default"].weight.detach().numpy().T for q in (other.lora_A, other.lora_B))
        np.testing.assert_allclose(mine.lora.A.array @ mine.lora.B.array, A @ B, rtol=1e-4, atol=1e-5)
        residual = mine.linear.weight.array - mine.lora.delta().T
        np.testing.assert_allclose(residual, other.base_layer.weight.numpy(), rtol=1e-4, atol=1e-5)
    for found, expected in train(ours, theirs, x, torch, steps=4):  # a singular vector's sign is free: AdamW keeps it free
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_groups_of_lora_plus_are_those_of_peft():
    ours, theirs, _, torch = beside_peft("lora")
    create = pytest.importorskip("peft.optimizers").create_loraplus_optimizer
    optimizer = create(theirs, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=8.0)
    expected = sorted((group["lr"], sum(p.numel() for p in group["params"])) for group in optimizer.param_groups)
    found = sorted((group["lr"], sum(p.numel() for p in group["params"])) for group in lora_plus(ours, 0.01, 8.0))
    assert found == [group for group in expected if group[1]]
