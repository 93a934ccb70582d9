"""Folders of Llama, Mistral, Qwen2 and Qwen3, without transformers: whole, or refused by name and at once."""

import contextlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import ids
from test_pretrained import VALUES, changed, random_folder, rewritten

import tinylora
from tinylora.formats import LoadError
from tinylora.models import load_model
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.models.llama_table import CONFIG

TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "hidden_dim": 12,
}  # fmt: skip
KIN = {
    "llama": {}, "mistral": {"model_type": "mistral", "sliding_window": 4, "max_positions": 9, "context_length": 4},
    "qwen2": {"model_type": "qwen2", "qkv_bias": True, "tie_head": True},
    "qwen3": {"model_type": "qwen3", "qk_norm": True, "head_dim": 6},
    "llama with all biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "classifier": {"labels": ["ham", "spam"], "model_type": "qwen2", "qkv_bias": True},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 2.0}, "rope_base": 77.0, "norm_eps": 0.01, "drop_att": 0.5},
    "llama3": {"rope_scaling": {"kind": "llama3", "factor": 2.0, "original_context": 4}, "eos_token_id": [3, 4]},
}  # fmt: skip


def made(**changes):
    model = LlamaModel({**TINY, **changes})
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array = rng.standard_normal(p.shape).astype(np.float32)
    return model.eval()


def scores(model):
    with tinylora.no_grad():
        return model(ids(2, 4)).numpy()


@pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3"])
def folder(request, tmp_path):
    made(**KIN[request.param]).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def llama(tmp_path):
    made().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kin", KIN)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 500])
def test_what_is_saved_comes_back_bit_for_bit_with_its_configuration(tmp_path, kin, max_shard_bytes):
    model = made(**KIN[kin])
    model.save_pretrained(tmp_path, max_shard_bytes=max_shard_bytes)
    found = load_model(tmp_path)
    assert type(found) is LlamaModel and not found.training
    ids_lost = {"pad_token_id": found.cfg.pad_token_id}  # a classifier's is the end of text, where it had none
    assert found.cfg.as_dict() == {**model.cfg.as_dict(), **{k: v for k, v in ids_lost.items() if v is not None}}
    np.testing.assert_array_equal(scores(found), scores(model))


def test_angles_of_older_files_are_skipped_and_the_prefix_may_be_missing(llama):
    rewritten(llama, lambda a: {**a, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)})
    np.testing.assert_array_equal(scores(load_model(llama)), scores(made()))
    rewritten(llama, lambda a: {name.removeprefix("model."): array for name, array in a.items()})
    np.testing.assert_array_equal(scores(load_model(llama)), scores(made()))


# -------------------------------------------------------------------------------- the configuration, by name
@pytest.mark.parametrize(
    "entries, message",
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1}}, "rope kind 'yarn'; known are default, "),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope kind 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope kind 'longrope'"),
        ({"rope_parameters": {"rope_type": ["x"]}}, "rope kind"), ({"rope_scaling": "linear"}, "rope_scaling must be an"),
        ({"rope_scaling": {"rope_type": "linear"}}, "the rope kind linear needs factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope scaling factor must be"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "llama3 needs low_freq_factor, high_freq_factor"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "rope_scaling has the entry 'mrope_section'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "has the entry 'full_attention'"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_base must be"),
        ({"rope_parameters": {}, "rope_theta": 0}, "rope_base must be"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is not 1"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu, and tinylora computes it as silu alone"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .* computes full_attention alone"),
        ({"layer_types": 5}, "layer_types is 5"), ({"pretraining_tp": 2}, "pretraining_tp is 2"),
        ({"num_key_value_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": None}, "emb_dim 8 is not divisible by n_heads 3"),
        ({"head_dim": 3}, "head_dim 3 is odd"), ({"head_dim": 2**30}, r"q_proj\.weight: expected"),
        ({"hidden_size": 0}, "hidden_size must be"), ({"rms_norm_eps": "x"}, "rms_norm_eps must be"),
        ({"rms_norm_eps": 10**400}, r"rms_norm_eps must be a number of at least 0 and below 1e\+30"),
        ({"rope_parameters": {"rope_theta": 1e39}}, "rope_base must be"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 10**400}}, "rope scaling factor must be"),
        ({"attention_dropout": 1}, "attention_dropout must be below 1"), ({"auto_map": {}}, "auto_map is"),
        ({"vocab_size": 12}, r"embed_tokens\.weight: expected \(12, 8\), got \(11, 8\)"),
        ({"num_hidden_layers": 10**9}, "says 1000000000 layers, and the weights have 2"),
        ({"model_type": "phi3"}, "model_type is 'phi3', and tinylora reads 'gpt2', 'llama', 'mistral', 'qwen2', 'qwen3'"),
        ({"model_type": None}, "model_type is None"),
        ({"architectures": ["MixtralForCausalLM"]}, "'MixtralForCausalLM'; known are [A-Z][a-z0-9]+ForCausalLM"),
    ],
)  # fmt: skip
def test_a_configuration_entry_that_cannot_be_honoured_is_named(folder, entries, message):
    changed(folder, **entries)
    with pytest.raises(LoadError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "kin, entries, message",
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is true"),
        ("qwen3", {"use_sliding_window": 1}, "use_sliding"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be"),
        ("mistral", {"sliding_window": "4"}, "sliding_window must"),
        ("mistral", {"attention_bias": True}, "attention_bias is true, and a mistral has none"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias is true, and a qwen2 has none"),
        ("llama", {"attention_bias": True}, r"missing: model\.layers\.0\.self_attn\.k_proj\.bias"),
        ("qwen2", {"model_type": "llama", "architectures": []}, r"unexpected: model\.layers\.0\.self_attn\.k_proj\.bias"),
        ("llama", {"model_type": "qwen3", "architectures": []}, r"missing: model\.layers\.0\.self_attn\.k_norm\.weight"),
    ],
)  # fmt: skip
def test_what_a_model_type_implies_is_checked(tmp_path, kin, entries, message):
    made(**KIN[kin]).save_pretrained(tmp_path)
    changed(tmp_path, **entries)
    with pytest.raises(LoadError, match=message):
        load_model(tmp_path)


def test_another_class_is_named_for_a_folder(llama):
    with pytest.raises(LoadError, match="model_type is 'llama': use LlamaModel, or load_model"):
        GPTModel.from_pretrained(llama)


@given(st.sampled_from(list(KIN)), st.dictionaries(st.sampled_from(sorted(CONFIG.known())), VALUES, min_size=1, max_size=3))
def test_any_configuration_at_all_is_honoured_or_refused(tmp_path_factory, kin, entries):
    folder = tmp_path_factory.mktemp("any")
    made(**KIN[kin]).save_pretrained(folder)
    changed(folder, **entries)
    with contextlib.suppress(LoadError):
        assert np.isfinite(load_model(folder)(tinylora.tensor([[1]])).detach().numpy()).all()


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("rope_scaling", "rope_parameters", "rope_theta"), VALUES)))
def test_any_rotary_entries_at_all_are_honoured_or_refused(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("any")
    made().save_pretrained(folder)
    changed(folder, **entries)
    with contextlib.suppress(LoadError):
        assert np.isfinite(scores(load_model(folder))).all()


# ----------------------------------------------------------------------------------------------- the weights
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: {n: x for n, x in a.items() if n != "model.norm.weight"}, r"missing: model\.norm\.weight"),
        (lambda a: {**a, "extra": np.zeros(1, np.float32)}, r"unexpected: model\.extra"),
        (lambda a: {n: x.T for n, x in a.items()}, r"gate_proj\.weight: expected \(12, 8\)"),
        (lambda a: {n: x * np.nan if "norm" in n else x for n, x in a.items()}, "NaN or infinity in model"),
        (lambda a: {n: x.astype("i4") for n, x in a.items()}, "weights are floating point"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    rewritten(folder, change)
    with pytest.raises(LoadError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"qk_norm": True}, r"a llama in transformers lacks model\.layers\.0\.self_attn\.k_norm\.weight"),
        ({"qkv_bias": True}, r"a llama in transformers has model\.layers\.0\.self_attn\.o_proj\.bias"),
        ({"model_type": "qwen2"}, r"a qwen2 in transformers has model\.layers\.0\.self_attn\.k_proj\.bias"),
        ({"model_type": "phi3"}, "model_type is one of llama, mistral, qwen2, qwen3, not 'phi3'"),
    ],
)  # fmt: skip
def test_a_model_that_its_model_type_has_no_place_for_is_not_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes).save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


# ------------------------------------------------------------------------------------------------- the memory
PEAK = """
    import sys
    from tinylora.models import load_model

    def status(name):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

    model = load_model(sys.argv[1])
    print(status("VmHWM"), model.summary().bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_reading_a_llama_takes_no_more_than_the_model_and_a_fifth(tmp_path, note, dtype):
    """The whole process, Python and NumPy included."""
    with tinylora.device("meta"):
        model = LlamaModel("smollm2-135m")
    random_folder(model, CONFIG, tmp_path, dtype)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK), tmp_path], capture_output=True, text=True, check=True
    )
    peak, size = map(int, done.stdout.split())
    assert size == 4 * 134_515_008
    note(f"SmolLM2 135M in {dtype}: a peak of {peak:,} bytes for a model of {size:,}, {peak / size:.3f} of it")
    assert peak <= 1.2 * size
