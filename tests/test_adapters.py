"""LoRA by name: a plan before any change, the change alone in a file, and a model left as it was if anything is wrong."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import moved, state

import tinylora
from tinylora import nn
from tinylora.adapters import LoRAConfig, apply, apply_lora, load_adapter, merge, merge_and_unload, save_adapter, unmerge
from tinylora.formats import LoadError, safetensors
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.models import save_model
from tinylora.models.gpt import GPTModel
from tinylora.runs.run import Run

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip
CONFIG = LoRAConfig(rank=2, alpha=6.0, targets=("W_query", "ff.layers.0"), train=("out_head",), scaling="alpha/r")
ALONE = dataclasses.replace(CONFIG, train=())
IDS = tinylora.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def base(classes=3, seed=0, **changes):
    tinylora.manual_seed(seed)
    model = GPTModel({**TINY, **changes})
    if classes:
        model.set_classes(classes, bias=True)
    return model.eval()


def trained(config=CONFIG, model=None):
    """A model with LoRA in which everything that is trained has moved."""
    model = model or base()
    apply_lora(model, config)
    return moved(model)


def scores(model):
    with tinylora.no_grad():
        return model(IDS).numpy()


@pytest.fixture
def saved(tmp_path):
    """An adapter file, and the scores of the model that wrote it."""
    model = trained()
    save_adapter(model, tmp_path / "a.safetensors", CONFIG, labels=["x", "y", "z"])
    return tmp_path / "a.safetensors", scores(model)


def rewritten(path, change):
    """A copy of the adapter at `path` after `change(arrays)`."""
    arrays, metadata = safetensors.load(path)
    change(arrays)
    other = path.with_name("changed.safetensors")
    safetensors.save(other, arrays, metadata)
    return other


# ------------------------------------------------------------------------------------------- applying
def test_the_plan_lists_every_layer_with_what_it_adds():
    model = base()
    plan = apply_lora(model, CONFIG)
    assert [e.path for e in plan] == [
        f"trf_blocks.{i}.{name}" for i in (0, 1) for name in ("att.W_query", "ff.layers.0")
    ]  # fmt: skip
    assert [e.added for e in plan] == [2 * (8 + 8), 2 * (8 + 32)] * 2
    assert plan.added == model.summary().lora.trainable == sum(e.added for e in plan)
    assert str(plan).splitlines()[-1] == f"4 layers, {plan.added} parameters added"
    assert str(type(plan)(plan[:1])).splitlines()[-1] == f"1 layer, {plan[0].added} parameters added"
    trains = {path for path, p in model.named_parameters() if p.requires_grad}
    assert {path for path in trains if ".lora." not in path} == {"out_head.weight", "out_head.bias"}


@pytest.mark.parametrize(
    "targets, count",
    [(("all-linear",), 13), (("W_query",), 2), (("att.W_query", "trf_blocks.1.att.W_query"), 2), (("0",), 2),
     (("out_head",), 1)],
)  # fmt: skip
def test_targets_are_whole_paths_or_their_last_parts(targets, count):
    assert len(apply_lora(base(), LoRAConfig(targets=targets, rank=2))) == count


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": ("W_query", "W_qeury")}, "'W_qeury' matches no Linear"),
        ({"targets": ("query",)}, "'query' matches no Linear"),  # not a whole part of a path
        ({"targets": ("norm1",)}, "'norm1' matches no Linear"),
        ({"targets": ("out_head",), "train": ("out_head",)}, "'out_head' matches no Linear"),
        ({"train": ("head",)}, "train names 'head', and the model has no such module"),
    ],
)
def test_an_entry_that_matches_nothing_raises_and_changes_nothing(changes, message):
    model = base()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        apply_lora(model, LoRAConfig(rank=2, **changes))
    assert state(model) == before


@pytest.mark.parametrize("targets", [("all-linear",), ("W_query",), ("W_value",)])
def test_lora_is_applied_once(targets):
    model = trained()
    before = state(model)
    with pytest.raises(ValueError, match=r"applied already, to trf_blocks\.0\.att\.W_query and 3 more"):
        apply_lora(model, LoRAConfig(targets=targets))
    assert state(model) == before


@pytest.mark.parametrize("fails_at", [0, 1, 3])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_failure_half_way_restores_the_model(monkeypatch, fails_at, error):
    model = base()
    model.tok_emb.weight.requires_grad = False
    before = state(model)
    calls = iter(range(100))
    wrap = apply.wrap

    def failing(linear, config):
        if next(calls) == fails_at:
            raise error("out of luck")
        return wrap(linear, config)

    monkeypatch.setattr(apply, "wrap", failing)
    with pytest.raises(error):
        apply_lora(model, CONFIG)
    assert state(model) == before


@pytest.mark.parametrize("scaling, scale", [("alpha", 6.0), ("alpha/r", 1.5), ("rslora", 3.0)])
def test_scaling(scaling, scale):
    model = trained(LoRAConfig(rank=4, alpha=6.0, scaling=scaling), base(classes=5))
    for _, layer in lora_modules(model):
        assert layer.lora.alpha == scale
        A, B = layer.lora.A.array, layer.lora.B.array
        np.testing.assert_allclose(layer.lora.delta(), scale * (A @ B), rtol=1e-6)


def test_initialisation():
    for init, std in (("lecture", 1 / math.sqrt(4)), ("peft", 1 / math.sqrt(3 * 64))):
        model = base(emb_dim=64)
        apply_lora(model, LoRAConfig(rank=4, alpha=3, targets=("W_query", "W_key"), init=init))
        A = np.concatenate([layer.lora.A.array.ravel() for _, layer in lora_modules(model)])
        assert abs(A.std() / std - 1) < 0.15
        assert all(layer.lora.A.requires_grad and not layer.lora.B.array.any() for _, layer in lora_modules(model))
        if init == "peft":
            assert abs(A).max() <= 1 / math.sqrt(64)


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"rank": -1}, {"rank": 2.5}, {"rank": True}, {"alpha": math.nan}, {"alpha": math.inf}, {"scaling": "r"},
     {"init": "zeros"}, {"targets": "*query"}, {"train": "out_head"}],
)  # fmt: skip
def test_a_configuration_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError):
        LoRAConfig(**wrong)


def test_a_head_that_shares_its_weight_with_the_embedding_is_not_trained_whole():
    model = base(classes=0, tie_head=True)
    before = state(model)
    with pytest.raises(ValueError, match="out_head shares a weight with tok_emb"):
        apply_lora(model, LoRAConfig(rank=2, train=("out_head",)))
    assert state(model) == before


# -------------------------------------------------------------------------------------------- merging
def test_merge_and_unload_is_the_merged_model_without_the_lora():
    model = trained()
    apart = scores(model)
    merge(model)
    merged = scores(model)
    np.testing.assert_allclose(merged, apart, rtol=1e-4, atol=1e-4)
    unmerge(model)
    np.testing.assert_array_equal(scores(model), apart)
    merge_and_unload(model)
    np.testing.assert_array_equal(scores(model), merged)
    assert not list(lora_modules(model)) and "lora" not in repr(model).lower()
    assert model.state_dict().keys() == base().state_dict().keys()


def test_if_one_cannot_be_merged_none_is():
    model = trained()
    last = list(lora_modules(model))[-1][1]
    last.lora.A.array = np.full_like(last.lora.A.array, np.nan)
    before = state(model)
    for change in (merge, merge_and_unload):
        with pytest.raises(RuntimeError, match=r"trf_blocks\.1\.ff\.layers\.0: .*NaN"):
            change(model)
        assert state(model) == before


def test_merge_twice_and_unmerge_twice_raise():
    model = trained()
    merge(model)
    with pytest.raises(RuntimeError, match="merged already"):
        merge(model)
    unmerge(model)
    with pytest.raises(RuntimeError, match="not merged"):
        unmerge(model)


# -------------------------------------------------------------------------------------------- the file
@given(
    st.sets(st.sampled_from(["W_query", "W_key", "W_value", "out_proj", "layers.0", "layers.2"]), min_size=1),
    st.integers(1, 4),
    st.sampled_from(["alpha", "alpha/r", "rslora"]),
    st.booleans(),
)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path_factory, targets, rank, scaling, head):
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    config = LoRAConfig(rank, 7.0, tuple(sorted(targets)), ("out_head",) if head else (), scaling)
    model = trained(config)
    save_adapter(model, path, config)
    fresh = base()
    assert load_adapter(fresh, path) == config
    np.testing.assert_array_equal(scores(fresh), scores(model))
    for (a, p), (b, q) in zip(model.named_parameters(), fresh.named_parameters(), strict=True):
        assert (a, p.array.tobytes(), p.requires_grad) == (b, q.array.tobytes(), q.requires_grad)


def test_the_file_holds_the_change_alone(saved):
    arrays, metadata = safetensors.load(saved[0])
    layers = [f"trf_blocks.{i}.{name}.lora.{x}" for i in (0, 1) for name in ("att.W_query", "ff.layers.0") for x in "AB"]
    assert arrays.keys() == {*layers, "out_head.weight", "out_head.bias"}
    about = json.loads(metadata["tinylora"])
    assert about["labels"] == ["x", "y", "z"] and about["lora"]["alpha"] == 6.0 and len(about["base"]) == 64


def test_loading_into_a_wrapped_model_takes_the_scale_of_the_file(saved):
    model = base()
    apply_lora(model, LoRAConfig(2, 99.0, CONFIG.targets, CONFIG.train))
    load_adapter(model, saved[0])
    np.testing.assert_array_equal(scores(model), saved[1])


def test_lora_only_leaves_the_head_that_the_model_has(saved):
    model = base(classes=0)
    head = model.out_head.weight.array
    load_adapter(model, saved[0], lora_only=True)
    assert model.out_head.weight.array is head and not isinstance(model.out_head, LinearWithLoRA)
    assert [path for path, _ in lora_modules(model)] == [e.path for e in apply_lora(base(), CONFIG)]
    assert (model.features(IDS).detach().numpy() != base(classes=0).features(IDS).detach().numpy()).any()


@pytest.mark.parametrize("tied", [True, False])
def test_lora_only_of_all_linear_leaves_the_head_plain(tmp_path, tied):
    config = LoRAConfig(rank=2, alpha=6.0, train=("out_head",))
    save_adapter(trained(config, base(tie_head=tied)), tmp_path / "a.safetensors", config)
    model = base(classes=0, tie_head=tied)
    load_adapter(model, tmp_path / "a.safetensors", lora_only=True)
    assert len(list(lora_modules(model))) == 12 and type(model.out_head) is nn.Linear


def test_missing_extra_and_mis_shaped_names_are_listed_together(saved):
    def change(arrays):
        del arrays["trf_blocks.0.att.W_query.lora.A"]
        arrays["trf_blocks.9.att.W_query.lora.A"] = np.zeros((8, 2), np.float32)
        arrays["out_head.bias"] = np.zeros(4, np.float32)

    model = base()
    before = state(model)
    with pytest.raises(ValueError) as error:
        load_adapter(model, rewritten(saved[0], change))
    assert str(error.value).splitlines()[1:] == [
        "  missing: trf_blocks.0.att.W_query.lora.A",
        "  out_head.bias: expected (3,), got (4,)",
        "  unexpected: trf_blocks.9.att.W_query.lora.A",
    ]
    assert state(model) == before


def nan_in(arrays):
    arrays["trf_blocks.0.att.W_query.lora.A"][0, 0] = np.nan


def transposed(arrays):
    arrays["trf_blocks.0.att.W_query.lora.A"] = arrays["trf_blocks.0.att.W_query.lora.A"].T


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: rewritten(path, nan_in), r"NaN or infinity in trf_blocks\.0\.att\.W_query\.lora\.A"),
        (lambda path: rewritten(path, transposed), r"W_query\.lora\.A: expected \(8, 2\), got \(2, 8\)"),
        (lambda path: rewritten(path, dict.clear), "missing: out_head.bias"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]) and path, "not a readable safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:5]) and path, "not a readable safetensors file"),
        (lambda path: path.write_bytes(b"") or path, "not a readable safetensors file"),
        (lambda path: path.write_bytes(b"\x80\x04K*." * 100) and path, "not a readable safetensors file"),
        (lambda path: safetensors.save(path, {"A": np.zeros(2)}) or path, "not a tinylora adapter"),
        (lambda path: safetensors.save(path, {"A": np.zeros(2)}, {"tinylora": "[]"}) or path, "not a tinylora adapter"),
        (lambda path: safetensors.save(path, {"A": np.zeros(2)}, {"tinylora": "{"}) or path, "not a tinylora adapter"),
        (lambda path: path.rename(path.with_suffix(".bin")), r"a\.bin: refused, .* \.safetensors"),
        (lambda path: path.with_suffix(".PT"), r"a\.PT: refused, .* \.safetensors"),
        (lambda path: path.with_suffix(".pkl"), r"a\.pkl: refused, .* \.safetensors"),
        (lambda path: path.with_name("absent.safetensors"), "no such file"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(saved, make, message, wrapped):
    model = trained() if wrapped else base()
    path = make(saved[0])
    before = state(model)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_adapter(model, path)
    assert state(model) == before


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: base(seed=1), "trained on another base model"),
        (lambda: base(n_layers=1), "unexpected: trf_blocks.1"),
        (lambda: base(emb_dim=16), r"expected \(16, 2\), got \(8, 2\)"),
        (lambda: base(vocab_size=12), "trained on another base model"),
        (lambda: nn.Sequential(nn.Linear(8, 8)), "the model has no such module"),
    ],
)
def test_another_base_is_refused_and_left_as_it_was(saved, other, message):
    model = other()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        load_adapter(model, saved[0])
    assert state(model) == before


def test_a_base_that_differs_in_one_bit_is_another_base(saved):
    model = base()
    model.trf_blocks[0].norm1.scale.array = np.nextafter(model.trf_blocks[0].norm1.scale.array, 2)
    with pytest.raises(ValueError, match="another base model"):
        load_adapter(model, saved[0])


def test_a_broken_or_merged_model_is_not_saved(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="no LoRA to save"):
        save_adapter(base(), path, CONFIG)
    model = trained()
    merge(model)
    with pytest.raises(RuntimeError, match=r"merged: call unmerge\(\)"):
        save_adapter(model, path, CONFIG)
    unmerge(model)
    model.out_head.bias.array = np.full(3, np.inf, np.float32)
    with pytest.raises(ValueError, match=r"NaN or infinity in out_head\.bias"):
        save_adapter(model, path, CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"rank": 7}, {"alpha": 5.0}, {"scaling": "alpha"}])
def test_a_configuration_that_the_model_was_not_made_with_is_not_saved(tmp_path, changes):
    with pytest.raises(ValueError, match=r"trf_blocks\.0\.att\.W_query has variant, rank and scale \('lora', 2, 3\.0\)"):
        save_adapter(trained(), tmp_path / "a.safetensors", dataclasses.replace(CONFIG, **changes))
    assert not list(tmp_path.iterdir())


def test_a_model_with_lora_is_not_saved_whole(tmp_path):
    model = trained()
    with pytest.raises(ValueError, match="call merge_and_unload first, or save_adapter"):
        save_model(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "extra, message",
    [({}, "give it with --model"), ({"labels": "ab"}, "labels must be a list"),
     ({"labels": ["x", "y", "z"]}, "give it with --model"),
     ({"labels": ["x", "y", "z"], "model": 3}, "give it with --model")],
)  # fmt: skip
def test_an_adapter_of_no_classifier_or_no_base_is_named(tmp_path, extra, message):
    save_adapter(trained(), tmp_path / "a.safetensors", CONFIG, **extra)
    with pytest.raises(LoadError, match=message):
        Run.load(tmp_path / "a.safetensors")
    if not extra:
        save_model(base(classes=0), tmp_path / "base")
        save_adapter(trained(ALONE, base(classes=0)), tmp_path / "lm.safetensors", ALONE)
        with pytest.raises(LoadError, match="this model has no labels: it is no classifier"):
            Run.load(tmp_path / "lm.safetensors", str(tmp_path / "base"))


# ------------------------------------------------------------------------------ targets by pattern
@pytest.mark.parametrize(
    "targets, last",
    [
        (("W_*",), {"W_query", "W_key", "W_value"}),
        (("att.*",), {"W_query", "W_key", "W_value", "out_proj"}),
        (("trf_blocks.0.ff.*", "W_query"), {"layers.0", "layers.2", "W_query"}),
        (r".*\.(W_query|W_value)", {"W_query", "W_value"}),
        (r"trf_blocks\.\d+\.att\..*", {"W_query", "W_key", "W_value", "out_proj"}),
        ("all-linear", {"W_query", "W_key", "W_value", "out_proj", "layers.0", "layers.2", "out_head"}),
    ],
)
def test_targets_may_have_stars_or_be_a_regular_expression(tmp_path, targets, last):
    model, config = base(), LoRAConfig(2, targets=targets)
    paths = [entry.path for entry in apply_lora(model, config)]
    assert {path.split(".att.")[-1].split(".ff.")[-1] for path in paths} == last
    save_adapter(model, tmp_path / "a.safetensors", config)
    again = base()
    assert load_adapter(again, tmp_path / "a.safetensors") == config
    assert [path for path, _ in lora_modules(again)] == [path for path, _ in lora_modules(model)]


def test_patterns_that_match_nothing_or_are_none_are_named():
    for targets, message in (
        (("*.nothing",), r"target '\*\.nothing' matches no Linear; there are trf_blocks"),
        ("W_query", "the regular expression 'W_query', of whole paths, matches no Linear"),
        ("*query", r"targets '\*query' is no regular expression .*a tuple of names may have \* in them"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_lora(base(), LoRAConfig(2, targets=targets))
