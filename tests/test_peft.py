"""PEFT's format without PEFT: what is refused, by name and before the model is touched, and what patterns mean."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import moved, state

import tinylora
from tinylora import nn
from tinylora.adapters import (
    LoRAConfig,
    apply_lora,
    disable_adapters,
    load_adapter,
    merge,
    new_adapter,
    save_adapter,
    set_adapter,
)
from tinylora.adapters.peft import config as peft
from tinylora.adapters.variants import DoRA, Int8Linear, NF4Linear, quantize
from tinylora.formats import LoadError, safetensors
from tinylora.lora import LinearWithLoRA, lora_modules
from tinylora.models.gpt import GPTModel
from tinylora.models.names import kinds

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip
CONFIG = LoRAConfig(2, 6.0, ("W_query", "W_key", "W_value", "layers.0"), ("out_head",), "alpha/r")
IDS = tinylora.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
ATTENTION = "base_model.model.transformer.h.0.attn.c_attn"


def base(seed=0, classes=3):
    tinylora.manual_seed(seed)
    model = GPTModel(TINY)
    if classes:
        model.set_classes(classes)
    return model.eval()


def trained(config=CONFIG, **changes):
    model = base(**changes)
    apply_lora(model, config)
    return moved(model)


def scores(model):
    with tinylora.no_grad():
        return model(IDS).numpy()


@pytest.fixture
def saved(tmp_path):
    """A folder as PEFT writes it, and the scores of the model that wrote it."""
    model = trained()
    save_adapter(model, tmp_path, CONFIG, format="peft", labels=["x", "y", "z"])
    return tmp_path, scores(model)


def changed(folder, entries=None, arrays=lambda a: None):
    config = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps({**config, **(entries or {})}))
    found, metadata = safetensors.load(folder / peft.WEIGHTS)
    found = arrays(found) or found
    safetensors.save(folder / peft.WEIGHTS, found, metadata)


def test_a_classifiers_adapter_tells_a_language_model_what_to_do(saved):
    with pytest.raises(LoadError, match=r"unexpected: score\.weight\n.*call model\.set_classes\(3\) before loading it"):
        load_adapter(base(classes=0), saved[0])


def test_what_is_saved_is_loaded_and_computes_the_same(saved):
    model = base()
    config = load_adapter(model, saved[0])
    np.testing.assert_allclose(scores(model), saved[1], rtol=1e-5, atol=1e-5)
    assert config.train == ("out_head",) and config.scale == pytest.approx(3.0)
    assert {path for path, p in model.named_parameters() if p.requires_grad and ".lora." not in path} == {"out_head.weight"}
    q, k = model.trf_blocks[0].att.W_query.lora, model.trf_blocks[0].att.W_key.lora
    assert q.A is k.A and q.A.shape == (8, 6)


def test_under_another_head_the_lora_alone(saved):
    model = base(classes=0)
    head = model.out_head.weight
    load_adapter(model, saved[0], lora_only=True)
    assert model.out_head.weight is head and len(list(lora_modules(model))) == 8
    assert (scores(model) != scores(base(classes=0))).any()


def test_as_one_of_several_named_adapters(saved):
    model = base()
    before = scores(model)
    with new_adapter(model, "theirs"):
        load_adapter(model, saved[0])
    with new_adapter(model, "ours"):
        apply_lora(model, LoRAConfig(2))
    set_adapter(model, "theirs")
    np.testing.assert_allclose(scores(model), saved[1], rtol=1e-5, atol=1e-5)
    with disable_adapters(model):
        np.testing.assert_array_equal(scores(model), before)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"), ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, r"missing: transformer\.h\.0\.attn\.c_attn\.lora_magnitude_vector"),
        ({"use_dora": 1}, "use_dora must be"),
        ({"lora_bias": True}, "lora_bias is"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is"), ({"target_parameters": ["w"]}, "target_parameters is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa': it may change the base"),
        ({"trainable_token_indices": [99]}, "trainable_token_indices are not different tokens of 11"),
        ({"new_in_peft": 3}, "new_in_peft is '3'"),
        ({"bias": "some"}, "bias is none, all or lora_only"), ({"target_modules": None}, "target_modules is missing"),
        ({"target_modules": ["c_atn"]}, "names no module"), ({"target_modules": ["attn"]}, "neither a linear layer nor"),
        ({"target_modules": ["ln_1"]}, "neither a linear layer nor"), ({"target_modules": [3]}, "must be a list of names"),
        ({"target_modules": "("}, "is no regular expression"), ({"target_modules": "(a|a)*b"}, "a repeated group"),
        ({"target_modules": "(.*)+x"}, "a repeated group"), ({"target_modules": ".*" * 6 + "x"}, "too many repeats"),
        ({"target_modules": ".*c_attn", "layers_to_transform": [0]}, "go with a list"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be"), ({"rank_pattern": {"c_attn": 0}}, "must be a rank"),
        ({"rank_pattern": {"(a*)*": 1}}, "a repeated group"), ({"alpha_pattern": {"c_attn": "1"}}, "must be a number"),
        ({"rank_pattern": [1]}, "rank_pattern must map"),
        ({"rank_pattern": {f".*.*.*.*{i}": 1 for i in range(40)}}, "together have too many"),
        ({"target_modules": ".?" * 40 + "!"}, "too many repeats"), ({"target_modules": "(.|.)" * 40 + "!"}, "too many"),
        ({"rank_pattern": {"(|" * 10**6: 1}}, "together have too many"), ({"target_modules": "x" * 1001}, "too many"),
        ({"modules_to_save": [".*score"]}, "too many"), ({"layers_pattern": ["h.*"]}, "too many repeats"),
        ({"r": 2.0}, "r must be a rank"),
        ({"r": True}, "r must be a rank"), ({"r": 10**9}, "r must be a rank"),
        ({"lora_alpha": "6"}, "lora_alpha must be a number"),
        ({"lora_dropout": 1.0}, "lora_dropout must be"), ({"use_rslora": 1}, "use_rslora must be true or false"),
        ({"modules_to_save": "score("}, "is no regular expression"), ({"modules_to_save": [1]}, "modules_to_save must be"),
        ({"r": 5, "rank_pattern": {}}, r"lora_A\.weight: expected \(5, 8\), got \(6, 8\)"),
        ({"target_modules": ["c_attn"]}, r"unexpected: transformer\.h\.0\.mlp\.c_fc\.lora_A"),
        ({"target_modules": ["c_attn", "c_fc", "c_proj"]}, r"missing: transformer\.h\.0\.attn\.c_proj\.lora_A"),
        ({"modules_to_save": None}, r"unexpected: score\.weight"),
        ({"modules_to_save": ["score", "ln_f"]}, "missing: transf"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_honoured_is_named_and_the_model_untouched(saved, entries, message):
    changed(saved[0], entries)
    model = base()
    before = state(model)
    with pytest.raises(LoadError, match=message):
        load_adapter(model, saved[0])
    assert state(model) == before


@pytest.mark.parametrize("name", ["auto_mapping", "base_model_name_or_path", "revision", "peft_version", "loftq_config"])
def test_what_is_data_is_neither_imported_nor_followed(saved, name):
    changed(saved[0], {name: {"base_model_class": "os.system", "parent_library": "/nowhere"}})
    model = base()
    load_adapter(model, saved[0])
    np.testing.assert_allclose(scores(model), saved[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arrays, message",
    [
        (lambda a: a.pop(f"{ATTENTION}.lora_B.weight") is None, r"missing: transformer\.h\.0\.attn\.c_attn\.lora_B"),
        (lambda a: {**a, f"{ATTENTION}.lora_C.weight": np.zeros(1, "f4")}, r"unexpected: .*lora_C"),
        (lambda a: {**a, f"{ATTENTION}.bias": np.ones(24, "f4")}, r"unexpected: transformer\.h\.0\.attn\.c_attn\.bias"),
        (lambda a: {n: x.T.copy() for n, x in a.items()}, r"lora_A\.weight: expected \(6, 8\), got \(8, 6\)"),
        (lambda a: {n: x * np.nan for n, x in a.items()}, "NaN or infinity in base_model"),
        (lambda a: {n: x.astype("i4") for n, x in a.items()}, "weights are floating point"),
        (lambda a: {n.removeprefix("base_model."): x for n, x in a.items()}, r"does not begin with base_model\.model\."),
    ],
)
def test_arrays_that_do_not_fit_are_named_and_the_model_untouched(saved, arrays, message):
    changed(saved[0], arrays=arrays)
    model = base()
    before = state(model)
    with pytest.raises(LoadError, match=message):
        load_adapter(model, saved[0])
    assert state(model) == before


def test_a_pickle_another_base_and_a_wrapped_model_are_refused(saved):
    with pytest.raises(LoadError, match="another base model"):
        load_adapter(base(seed=1), saved[0])
    with pytest.raises(ValueError, match=r"LoRA is applied already, to trf_blocks\.0\.att\.W_query and 7 more"):
        load_adapter(trained(), saved[0])
    (saved[0] / peft.WEIGHTS).rename(saved[0] / "adapter_model.bin")
    with pytest.raises(LoadError, match=r"adapter_model\.bin: refused, since unpickling runs code"):
        load_adapter(base(), saved[0])
    (saved[0] / "adapter_model.bin").unlink()
    with pytest.raises(LoadError, match="no such file"):
        load_adapter(base(), saved[0])


def drop_bias(model):
    model.trf_blocks[0].att.W_query.linear.bias.requires_grad = True


def drop_norm(model):
    model.final_norm.requires_grad_(True)


def drop_embedding(model):
    model.tok_emb.requires_grad_(True)


@pytest.mark.parametrize("change", [drop_bias, drop_norm, drop_embedding])
def test_what_is_trained_and_would_be_lost_is_named(tmp_path, change):
    model = trained()
    change(model)
    with pytest.raises(ValueError, match="would be trained and not stored: name it in LoRAConfig.train, or freeze it"):
        save_adapter(model, tmp_path / "a", CONFIG, format="peft")
    assert not (tmp_path / "a").exists()


def test_what_peft_has_no_place_for_is_not_written(tmp_path):
    part = LoRAConfig(2, 6.0, ("W_key",), ("trf_blocks.0.att.W_query",))
    with pytest.raises(ValueError, match="c_attn is one layer in PEFT, and only a part of it is trained whole"):
        save_adapter(trained(part), tmp_path / "a", part, format="peft")
    with pytest.raises(ValueError, match="format is 'tinylora' or 'peft'"):
        save_adapter(trained(), tmp_path / "a", CONFIG, format="onnx")
    model = trained()
    model.out_head = nn.Linear(8, 3)
    with pytest.raises(ValueError, match="out_head has a bias"):
        save_adapter(model, tmp_path / "a", CONFIG, format="peft")
    model = trained()
    merge(model)
    with pytest.raises(RuntimeError, match="merged"):
        save_adapter(model, tmp_path / "a", CONFIG, format="peft")
    model = trained()
    model.out_head.weight.array = model.out_head.weight.array * np.float32(np.inf)
    with pytest.raises(ValueError, match=r"NaN or infinity in score\.weight"):
        save_adapter(model, tmp_path / "a", CONFIG, format="peft")
    assert not (tmp_path / "a").exists()


# ------------------------------------------------------------------------------------- whatever is in the file
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from(["all-linear", "c_attn", ".*", "h.0", "LORA", "score"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=5,
)  # fmt: skip
FIELDS = sorted({*peft.PeftConfig.__dataclass_fields__, *peft.WITHOUT_EFFECT, "peft_type", "init_lora_weights", "use_dora"})


ATTENTION_AND_MLP = "(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
PROJECTIONS = "(?:q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|c_attn|c_fc)"


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (r".*\.(c_attn|c_proj)", {"attn.c_attn", "attn.c_proj", "mlp.c_proj"}),
        (r".*\.mlp\.c_.*", {"mlp.c_fc", "mlp.c_proj"}),
        (r"transformer\.h\.[0-9]+\.attn\.c_(attn|proj)", {"attn.c_attn", "attn.c_proj"}),
        (r"^(?!.*mlp).*(?:c_attn|c_proj|c_fc)$", {"attn.c_attn", "attn.c_proj"}),
        (rf"(?:.*?(?:language|text|transformer).*?{ATTENTION_AND_MLP}.*?{PROJECTIONS}.*?)"
         rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.{ATTENTION_AND_MLP}\.(?:{PROJECTIONS}))", {"attn.c_attn", "mlp.c_fc"}),
    ],
)  # fmt: skip
def test_patterns_of_targets_as_people_write_them(pattern, expected):
    found = peft._parsed({"peft_type": "LORA", "target_modules": pattern}).targets(kinds(base(classes=0)))
    assert {name.split(".", 3)[-1] for name in found} == expected


@pytest.mark.parametrize("pattern", [r"(a|a)(a|a)" * 12, r".*" * 6, r"(.*)*x", r"(a+)+$", r"(attn|attn_)" * 22])
def test_patterns_that_may_take_for_ever_are_refused(pattern):
    with pytest.raises(LoadError, match="has a repeated group, or too many repeats"):
        peft._parsed({"peft_type": "LORA", "target_modules": pattern})


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
def test_any_configuration_at_all_is_honoured_or_refused_and_then_nothing_is_touched(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("any")
    save_adapter(trained(), folder, CONFIG, format="peft")
    changed(folder, entries)
    model = base()
    before = state(model)
    try:
        load_adapter(model, folder)
    except LoadError:
        assert state(model) == before
    else:
        assert list(lora_modules(model)) and np.isfinite(scores(model)).all()


@pytest.mark.parametrize("kind", [Int8Linear, NF4Linear])
def test_onto_a_quantised_base_and_back(tmp_path, kind):
    config = LoRAConfig(2, 6.0, ("W_query", "layers.0"), scaling="alpha/r")
    save_adapter(trained(config), tmp_path / "a", config, format="peft")
    (tmp_path / "a" / peft.WEIGHTS).write_bytes(without_fingerprint(tmp_path / "a"))  # the base's numbers are others now
    model = base()
    quantize(model, kind)
    plain = scores(model)
    load_adapter(model, tmp_path / "a")
    changed_scores = scores(model)
    assert (changed_scores != plain).any()
    save_adapter(model, tmp_path / "b", config, format="peft")
    one, other = (safetensors.load(tmp_path / name / peft.WEIGHTS)[0] for name in "ab")
    assert one.keys() <= other.keys()
    delta = {name: array for name, array in one.items() if "c_fc" in name}
    for name, array in delta.items():
        np.testing.assert_array_equal(other[name], array)


def without_fingerprint(folder):
    arrays, _ = safetensors.load(folder / peft.WEIGHTS)
    safetensors.save(folder / "x.safetensors", arrays)
    return (folder / "x.safetensors").read_bytes()


def test_dora_and_lora_do_not_share_an_adapter(tmp_path):
    model = base()
    for name, kind in (("W_query", DoRA), ("out_proj", LinearWithLoRA)):
        setattr(model.trf_blocks[0].att, name, kind(getattr(model.trf_blocks[0].att, name), 2, 1.0))
    with pytest.raises(ValueError, match="some layers are DoRA and some are not"):
        save_adapter(model, tmp_path / "a", LoRAConfig(2, 1.0), format="peft")


def test_what_is_trained_has_float32_beside_a_base_of_fewer_bits(saved):
    changed(saved[0])
    (saved[0] / peft.WEIGHTS).write_bytes(without_fingerprint(saved[0]))
    for dtype, expected in ((np.float16, np.float32), (np.float64, np.float64)):
        model = base().to(dtype)
        load_adapter(model, saved[0])
        assert {p.dtype for _, m in lora_modules(model) for p in m.lora.parameters()} == {np.dtype(expected)}
        assert model.out_head.weight.dtype == dtype
