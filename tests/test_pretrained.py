"""Folders as Hugging Face writes them, read and written without its libraries: whole, or refused by name and at once."""

import contextlib
import json
import math
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylora
from tinylora import nn
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.formats import LoadError, safetensors, shards
from tinylora.models import load_model, names, pretrained, save_model
from tinylora.models.config import check_size
from tinylora.models.gpt import GPTConfig, GPTModel
from tinylora.models.gpt_table import CONFIG, GPT2
from tinylora.models.names import Row
from tinylora.models.pretrained import expected

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip
IDS = tinylora.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def made(**changes):
    """A model whose every parameter is random: ones and zeros hide mistakes."""
    model = GPTModel({**TINY, **changes})
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array = rng.standard_normal(p.shape).astype(np.float32)
    return model.eval()


def scores(model):
    with tinylora.no_grad():
        return model(IDS).numpy()


def changed(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def rewritten(folder, change, name="model.safetensors"):
    arrays, metadata = safetensors.load(folder / name)
    safetensors.save(folder / name, change(arrays) or arrays, metadata)


@pytest.fixture
def folder(tmp_path):
    made(tie_head=True).save_pretrained(tmp_path)
    return tmp_path


VARIANTS = [
    {"tie_head": True}, {}, {"qkv_bias": False}, {"ff_dim": 20}, {"activation": "relu"}, {"activation": "gelu"},
    {"activation": "silu", "ff_dim": 5}, {"norm_eps": 0.01}, {"drop_emb": 0.1, "drop_att": 0.2, "drop_rate": 0.3},
    {"labels": ["ham", "spam", "eggs"]}, {"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": 6},
    {"activation": "relu", "ff_dim": 20}, {"vocab_size": 9, "labels": ["ham", "spam"]},
]  # fmt: skip


# ----------------------------------------------------------------------------------------- there and back
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 1000])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, variant, max_shard_bytes):
    model = made(**variant)
    model.save_pretrained(tmp_path, max_shard_bytes=max_shard_bytes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_bytes < 10**9)
    found = GPTModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(scores(found), scores(model))
    for name, value in variant.items():
        expected = True if name == "qkv_bias" else tuple(value) if isinstance(value, list) else value
        assert getattr(found.cfg, name) == expected
    assert (found.out_head.weight is found.tok_emb.weight) == ("tie_head" in variant)
    drops = {m.p for _, m in found.named_modules() if isinstance(m, nn.Dropout)}
    assert drops == ({0.1, 0.2, 0.3} if "drop_emb" in variant else {0.0})


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_tinyloras_own_folder_keeps_the_variant_too(tmp_path, variant):
    model = made(**variant)
    save_model(model, tmp_path)
    np.testing.assert_array_equal(scores(load_model(tmp_path)), scores(model))


def test_load_model_reads_either_folder(folder):
    np.testing.assert_array_equal(scores(load_model(folder)), scores(made(tie_head=True)))


@pytest.mark.parametrize("prefixed", [True, False])
def test_names_may_stand_below_transformer_or_not_and_masks_are_skipped(folder, prefixed):
    def change(arrays):
        plain = {name.removeprefix("transformer."): array for name, array in arrays.items()}
        plain |= {f"h.{i}.attn.{n}": np.tril(np.ones((1, 1, 8, 8), bool)) for i in (0, 1) for n in ("bias", "masked_bias")}
        return {f"transformer.{name}": array for name, array in plain.items()} if prefixed else plain

    rewritten(folder, change)
    np.testing.assert_array_equal(scores(GPTModel.from_pretrained(folder)), scores(made(tie_head=True)))


def test_a_tied_head_may_be_stored_beside_the_embedding_or_alone_and_must_agree(folder):
    rewritten(folder, lambda arrays: {**arrays, "lm_head.weight": arrays["transformer.wte.weight"]})
    np.testing.assert_array_equal(scores(GPTModel.from_pretrained(folder)), scores(made(tie_head=True)))
    rewritten(folder, lambda arrays: {n: a for n, a in arrays.items() if n != "transformer.wte.weight"})
    np.testing.assert_array_equal(scores(GPTModel.from_pretrained(folder)), scores(made(tie_head=True)))
    rewritten(folder, lambda arrays: {**arrays, "transformer.wte.weight": arrays["lm_head.weight"] + 1})
    with pytest.raises(LoadError, match=r"lm_head\.weight is not wte\.weight"):
        GPTModel.from_pretrained(folder)


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=50))
def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path_factory, bits):
    path = tmp_path_factory.mktemp("b") / "x.safetensors"
    half = np.array(bits, np.uint16)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [len(bits)], "data_offsets": [0, 2 * len(bits)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + half.tobytes())
    found = safetensors.load(path)[0]["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint16)[::2], 0)  # little-endian: the lower half comes first
    np.testing.assert_array_equal(found.view(np.uint16)[1::2], half)


def test_saving_over_a_folder_leaves_one_model_in_it(tmp_path):
    for bytes_, seed in ((1000, 0), (10**9, 1), (1000, 2)):
        model = made(ff_dim=8 + seed)
        model.save_pretrained(tmp_path, max_shard_bytes=bytes_)
        np.testing.assert_array_equal(scores(GPTModel.from_pretrained(tmp_path)), scores(model))


@pytest.mark.parametrize("classes", [2, 11])
def test_a_head_that_was_put_on_becomes_score(tmp_path, classes):
    model = made()
    model.set_classes(classes)
    model.save_pretrained(tmp_path, labels=[f"c{i}" for i in range(classes)])
    found = GPTModel.from_pretrained(tmp_path)
    assert found.cfg.labels == tuple(f"c{i}" for i in range(classes))
    np.testing.assert_array_equal(scores(found), scores(model))


def test_a_head_of_two_classes_over_a_vocabulary_of_two_is_a_classifiers(tmp_path):
    model = made(vocab_size=2)
    assert not model.classifies
    model.set_classes(2)
    assert model.classifies
    model.save_pretrained(tmp_path)
    assert "score.weight" in safetensors.load(tmp_path / "model.safetensors")[0]
    assert GPTModel.from_pretrained(tmp_path).cfg.labels == ("LABEL_0", "LABEL_1")


def test_misspelt_entries_are_named_and_all_others_are_honoured():
    with pytest.raises(ValueError, match="unknown entry 'tie_haed' in the configuration: did you mean 'tie_head'"):
        GPTModel({**TINY, "tie_haed": True})
    first, activation, _ = GPTModel({**TINY, "ff_dim": 20, "activation": "relu"}).trf_blocks[0].ff.layers
    assert first.out_features == 20 and type(activation).__name__ == "ReLU"


@pytest.mark.parametrize("forgotten", ["pos_emb", "tok_emb", "final_norm"])
def test_a_layer_without_a_row_is_named_instead_of_left_out(tmp_path, folder, monkeypatch, forgotten):
    rows = tuple(row for row in GPT2.rows if row.ours != forgotten)
    monkeypatch.setattr(names, "FAMILIES", [replace(GPT2, rows=rows)])
    with pytest.raises(ValueError, match=f"no Row names {forgotten}"):
        made(tie_head=True).save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=f"no Row names {forgotten}"):
        pretrained.build(names.FAMILIES[0], GPTConfig.of({**TINY, "tie_head": True}), shards.Weights(folder), "here")
    assert not (tmp_path / "out").exists()


def test_two_rows_of_one_name_are_named(tmp_path, monkeypatch):
    twice = replace(GPT2.rows[-1], theirs=GPT2.rows[0].theirs)
    monkeypatch.setattr(names, "FAMILIES", [replace(GPT2, rows=(*GPT2.rows, twice))])
    with pytest.raises(
        ValueError, match=f"two Rows are named {GPT2.rows[0].theirs}: those of {GPT2.rows[0].ours}, {twice.ours}"
    ):
        made(tie_head=True).save_pretrained(tmp_path / "out")


def test_a_config_table_gives_every_entry_of_the_configuration_and_no_other():
    entries = dict(GPT2.config.entries)
    context = entries.pop("n_positions")
    with pytest.raises(ValueError, match="what the ConfigTable of GPTConfig reads lacks context_length"):
        replace(GPT2.config, entries=entries).read({}, "here")
    misspelt = replace(context, ours="context_lenght")
    with pytest.raises(
        ValueError, match="unknown entry 'context_lenght' in the ConfigTable of GPTConfig: did you mean 'context_length'"
    ):
        replace(GPT2.config, entries={**entries, "n_positions": misspelt})


def test_an_unknown_entry_of_config_json_is_named_with_the_nearest_known_one():
    for known in ({"n_embd": 12}, {"hidden_size": 12}):
        with pytest.warns(UserWarning, match=r"here: unknown and ignored: n_embed \(did you mean n_embd\?\)"):
            GPT2.config.read({"n_embed": 24, **known}, "here")
    with pytest.warns(UserWarning, match=r"here: unknown and ignored: attn_pdrops \(did you mean attn_pdrop\?\)"):
        GPT2.config.read({"attn_pdrops": 0.2}, "here")
    with pytest.raises(ValueError, match="n_embd must be an integer of at least 1, not '12'"):
        GPT2.config.read({"n_embd": "12"}, "here")


@pytest.mark.parametrize("name", [name for name, entry in CONFIG.entries.items() if entry.check is check_size])
def test_a_misspelt_size_is_named_and_no_default_takes_its_place(name):
    with pytest.raises(LoadError, match=rf"here: {name}s is not known, and {name} is absent: did you mean {name}\?"):
        CONFIG.read({f"{name}s": 12}, "here")


def test_a_row_that_matches_no_module_is_named(tmp_path, monkeypatch):
    rows = (*GPT2.rows, Row("transformer.h.{}.ln_3", "trf_blocks.{}.norm3"), Row("transformer.wxe", "extra_emb"))
    monkeypatch.setattr(names, "FAMILIES", [replace(GPT2, rows=rows)])
    with pytest.raises(ValueError, match=r"called trf_blocks\.\{\}\.norm3, as the Row of .*ln_3 says; .* called extra_emb"):
        made().save_pretrained(tmp_path)


def test_a_row_joins_modules_of_one_shape_stored_in_out(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"qkv joins q, k, which needs turned=True"):
        Row("qkv", ("q", "k"))
    uneven = Row("h.{}.x", ("trf_blocks.{}.ff.layers.0", "trf_blocks.{}.ff.layers.2"), turned=True)
    monkeypatch.setattr(names, "FAMILIES", [replace(GPT2, rows=(*GPT2.rows, uneven))])
    with pytest.raises(ValueError, match=r"h\.0\.x joins .*differ in shape"):
        made().save_pretrained(tmp_path)


def test_what_gpt2_has_no_place_for_is_not_written(tmp_path):
    biased, wrapped = made(), made()
    biased.set_classes(2, bias=True)
    apply_lora(wrapped, LoRAConfig(rank=2))
    for model, message in ((biased, "out_head has a bias"), (wrapped, "call merge_and_unload first")):
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="3 labels for a head of 2"):
        biased.set_classes(2)
        biased.save_pretrained(tmp_path / "m", labels=["a", "b", "c"])
    assert not (tmp_path / "m").exists()


# -------------------------------------------------------------------------------- the configuration, by name
@pytest.mark.parametrize(
    "entries, message",
    [
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"), ({"auto_map": {"A": "x.Y"}}, "auto_map is"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"), ({"problem_type": "regression"}, "problem_type is regression"),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "architecture 'GPT2DoubleHeadsModel'"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"activation_function": "mish"}, "activation_function is one of gelu_new, .*, not 'mish'"),
        ({"n_layer": 3}, "says 3 layers, and the weights have 2"), ({"n_layer": 10**9}, "says 1000000000 layers"),
        ({"n_layer": 10**12}, "n_layer must be an integer"), ({"n_layer": True}, "n_layer must be"),
        ({"n_embd": 0}, "n_embd must be"), ({"n_head": 3}, "n_embd 8 is not divisible by n_head 3"),
        ({"vocab_size": 2**30}, r"wte\.weight: expected \(1073741824, 8\), got \(11, 8\)"),
        ({"n_positions": 9}, r"wpe\.weight: expected \(9, 8\)"), ({"n_inner": 2**30}, r"c_fc\.weight: expected \(8, 10737"),
        ({"n_inner": 1.5}, "n_inner must be"), ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon must be"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon must be"), ({"resid_pdrop": 1}, "resid_pdrop must be below 1"),
        ({"attn_pdrop": None}, "attn_pdrop must be"), ({"tie_word_embeddings": False}, r"missing: lm_head\.weight"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, r"missing: score\.weight"),
        ({"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x"}}, "num_labels is 1, a regression"),
        ({"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x", "2": "y"}}, "id2label must map"),
        ({"architectures": ["GPT2ForSequenceClassification"], "num_labels": 3, "id2label": {"0": "x"}}, "num_labels is 3"),
        ({"hidden_size": 9}, "hidden_size and n_embd are one entry, and here they differ"),
        ({"architectures": "GPT3"}, "architecture 'GPT3'"), ({"eos_token_id": "x"}, "eos_token_id must be a token's number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be"), ({"bos_token_id": [1, -1]}, "bos_token_id must be"),
        ({"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x", "1": "x"}}, "id2label must map"),
    ],
)  # fmt: skip
def test_a_configuration_entry_that_cannot_be_honoured_is_named(folder, entries, message):
    changed(folder, **entries)
    with pytest.raises(LoadError, match=message):
        GPTModel.from_pretrained(folder)


def test_an_entry_that_is_not_known_is_remarked_upon(folder):
    changed(folder, rotary_pct=0.25)
    with pytest.warns(UserWarning, match="unknown and ignored: rotary_pct"):
        GPTModel.from_pretrained(folder)


def test_entries_of_the_same_meaning_are_one(folder):
    config = json.loads((folder / "config.json").read_text())
    for other, name in CONFIG.other_names.items():
        config[other] = config.pop(name)
    (folder / "config.json").write_text(json.dumps({**config, "reorder_and_upcast_attn": True, "n_ctx": 8}))
    np.testing.assert_array_equal(scores(GPTModel.from_pretrained(folder)), scores(made(tie_head=True)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from(["gpt2", "relu", "GPT2Model", "GPT2ForSequenceClassification"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5,
)  # fmt: skip
FIELDS = sorted(CONFIG.known())


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
def test_any_configuration_at_all_is_honoured_or_refused(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("any")
    made(tie_head=True).save_pretrained(folder)
    changed(folder, **entries)
    with contextlib.suppress(LoadError):
        assert np.isfinite(scores(GPTModel.from_pretrained(folder))).all()


# ----------------------------------------------------------------------------------------------- the weights
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("transformer.h.1.ln_2.bias") is None, r"missing: transformer\.h\.1\.ln_2\.bias"),
        (lambda a: {**a, "extra": np.zeros(1)}, r"unexpected: transformer\.extra"),
        (
            lambda a: {n: x.T if n.endswith("c_attn.weight") else x for n, x in a.items()},
            r"expected \(8, 24\), got \(24, 8\)",
        ),
        (lambda a: {n: x * np.nan if "ln_f" in n else x for n, x in a.items()}, r"NaN or infinity in transformer\.ln_f"),
        (lambda a: {n: x.astype("f8") * 1e300 if "ln_f" in n else x for n, x in a.items()}, "NaN or infinity"),
        (lambda a: {n: x.astype("i4") for n, x in a.items()}, "weights are floating point"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    rewritten(folder, change)
    with pytest.raises(LoadError, match=message):
        GPTModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_a_folder_with_a_pickle_alone_is_refused_by_the_name_of_the_safe_format(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(LoadError, match=rf"{name}: refused, since unpickling runs code; convert it to \.safetensors"):
        GPTModel.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        GPTModel.from_pretrained(folder)


def sharded(folder):
    made().save_pretrained(folder, max_shard_bytes=1000)
    return json.loads((folder / "model.safetensors.index.json").read_text())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update({n: f"../{f}" for n, f in m.items()}), "is no file of this folder"),
        (lambda m: m.update({n: f"/elsewhere/{f}" for n, f in m.items()}), "is no file of this folder"),
        (lambda m: m.update({next(iter(m)): "a\0b"}), "is no file of this folder"),
        (lambda m: m.update({next(iter(m)): ".."}), "is no file of this folder"),
        (lambda m: m.update({next(iter(m)): "absent.safetensors"}), r"names absent\.safetensors, which is not there"),
        (lambda m: m.update({next(iter(m)): "shard.bin"}), r"shard\.bin: refused"),
        (lambda m: m.pop("transformer.wte.weight"), r"something else than it says: transformer\.wte\.weight"),
        (lambda m: m.update({"more": next(iter(m.values()))}), "something else than it says: more"),
        (lambda m: m.update(dict(zip(m, reversed(m.values()), strict=True))), "something else than it says"),
        (lambda m: m.clear(), "it has no weight_map"),
    ],
)  # fmt: skip
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, change, message):
    index = sharded(tmp_path)
    change(index["weight_map"])
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=message):
        GPTModel.from_pretrained(tmp_path)


def test_a_shard_that_was_cut_is_named(tmp_path):
    sharded(tmp_path)
    shard = sorted(tmp_path.glob("model-0*"))[3]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(LoadError, match=f"{shard.name}: not a readable safetensors file"):
        GPTModel.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------------- the memory
PEAK = """
    import sys
    from tinylora.models.gpt import GPTModel

    def status(name):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

    model = GPTModel.from_pretrained(sys.argv[1])
    print(status("VmHWM"), model.summary().bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_reading_gpt2_small_takes_no_more_than_the_model_and_a_fifth(tmp_path, note, dtype):
    """The whole process, Python and NumPy included."""
    with tinylora.device("meta"):
        model = GPTModel({**tinylora.models.presets.PRESETS["gpt2-small"], "tie_head": True})
    random_folder(model, CONFIG, tmp_path, dtype)
    code = textwrap.dedent(PEAK)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    peak, model = map(int, done.stdout.split())
    assert model == 4 * 124_439_808
    note(f"GPT-2 small in {dtype}: a peak of {peak:,} bytes for a model of {model:,}, {peak / model:.3f} of it")
    assert peak <= 1.2 * model


def random_folder(model, table, folder, dtype):
    """A model of random bits, the embedding last in the file, written without its weights in memory."""
    size = {"F32": 4, "BF16": 2}[dtype]
    header, at = {}, 0
    for name, shape in reversed(expected(model).items()):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at := at + size * math.prod(shape)]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        block = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
        block = block if dtype == "F32" else (block.view(np.uint32) >> 16).astype(np.uint16)
        for left in range(at, 0, -block.nbytes):
            file.write(block.tobytes()[:left])
    (folder / "config.json").write_text(json.dumps(table.write(model.cfg, model.head_is_tied, ())))
