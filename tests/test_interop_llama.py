"""Llama, Mistral, Qwen2 and Qwen3 beside transformers: numbers, files both ways, and text token for token.

Everything in float32, on tiny random models; the differences are printed as a table at the end of the run.
"""

import json

import numpy as np
import pytest
from interop import IDS, numbers, our_logits, quiet_marks, same_numbers, their_logits, theirs, they_read, torch, transformers

import tinylora
from tinylora.formats import LoadError
from tinylora.models import load_model
from tinylora.models.llama import LlamaModel
from tinylora.models.llama_table import CONFIG
from tinylora.text.generate import generate, generate_batch
from tinylora.text.sampling import GREEDY

pytestmark = quiet_marks()

TINY = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 32, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": 0}  # fmt: skip
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0}

MODELS = {  # family, entries of its configuration, what comes in place of its head
    "Llama": ("Llama", {}),
    "Llama, tied head": ("Llama", {"tie_word_embeddings": True}),
    "Llama, biases everywhere": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama, biases of attention": ("Llama", {"attention_bias": True, "num_key_value_heads": 6}),
    "Llama, one key head, own size": ("Llama", {"num_key_value_heads": 1, "head_dim": 6, "rms_norm_eps": 1e-3}),
    "Llama 3's rotary scaling": ("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}}),
    "linear rotary scaling": ("Llama", {"rope_parameters": {**LINEAR, "rope_theta": 10000.0}}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Mistral, own head size": ("Mistral", {"head_dim": 8, "sliding_window": 64}),
    "Mistral, window of 12": ("Mistral", {"sliding_window": 12}),
    "Qwen2": ("Qwen2", {}),
    "Qwen2, tied head": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
    "Qwen3": ("Qwen3", {"head_dim": 16}),
    "Qwen3, biases of attention": ("Qwen3", {"head_dim": 4, "attention_bias": True}),
    **{f"{family}, classifier of 3": (family, {"num_labels": 3}) for family in FAMILIES},
}  # fmt: skip


def config_of(family, entries):
    return getattr(transformers, f"{family}Config")(**{**TINY, **entries})


def kind_of(family, entries):
    task = "ForSequenceClassification" if "num_labels" in entries else "ForCausalLM"
    return getattr(transformers, family + task)


def made(case, folder):
    """A random model of theirs for a case, and its folder."""
    family, entries = MODELS[case]
    return theirs(kind_of(family, entries), config_of(family, entries), folder)


# --------------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("case", MODELS)
def test_a_model_of_theirs_gives_their_logits_loss_gradients_and_step(tmp_path, close, case):
    model = made(case, tmp_path)
    same_numbers(close, case, model, LlamaModel.from_pretrained(tmp_path), tmp_path)


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 9000])
def test_they_read_what_we_write_and_hold_the_same_numbers(tmp_path, case, max_shard_bytes):
    model = made(case, tmp_path / "theirs")
    load_model(tmp_path / "theirs").save_pretrained(tmp_path / "ours", max_shard_bytes=max_shard_bytes)
    they_read(type(model), model, tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert again.cfg == load_model(tmp_path / "theirs").cfg
    np.testing.assert_array_equal(numbers(our_logits(again)), numbers(our_logits(load_model(tmp_path / "theirs"))))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", ["10KB", "1GB"])
def test_every_dtype_in_one_file_or_in_shards(tmp_path, close, dtype, size):
    made("Qwen3", tmp_path / "float32").to(getattr(torch, dtype)).save_pretrained(tmp_path / "other", max_shard_size=size)
    # read again, for .to(dtype) has rounded the angles of the model in memory too
    model = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "other", dtype=torch.float32).eval()
    assert len(list((tmp_path / "other").glob("*.safetensors"))) == 1 or size == "10KB"
    found = load_model(tmp_path / "other")
    close(f"Qwen3, stored in {dtype}", "logits", numbers(our_logits(found)), numbers(their_logits(model)))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_without_model_in_front(tmp_path, close, family):
    """A base saved alone: with a tied head it is a whole language model; without one, its head is missing, and is named."""
    base = getattr(transformers, f"{family}Model")
    theirs(base, config_of(family, {"tie_word_embeddings": True}), tmp_path)
    model = kind_of(family, {}).from_pretrained(tmp_path).eval()
    close(f"{family}, base alone", "logits", numbers(our_logits(load_model(tmp_path))), numbers(their_logits(model)))
    theirs(base, config_of(family, {"tie_word_embeddings": False}), tmp_path)
    with pytest.raises(LoadError, match=r"missing: lm_head\.weight"):
        load_model(tmp_path)


def edited(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config)))


def older(config):
    """As transformers 4 wrote it: `rope_theta` by itself, and `rope_scaling` if there is any."""
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    return {**config, "rope_scaling": rope if rope["rope_type"] != "default" else None}


def oldest(config):
    """As its versions before 4.43 wrote it: the kind is called `type`."""
    return {**older(config), "rope_scaling": {"type": "linear", "factor": 2.0}}


ROPE = ["Llama", "Llama 3's rotary scaling", "linear rotary scaling", "Qwen2, tied head"]
OLDER = [(older, case) for case in ROPE] + [(oldest, "linear rotary scaling")]


@pytest.mark.parametrize("write, case", OLDER)
def test_rotary_entries_of_older_files_mean_the_same(tmp_path, close, case, write):
    model = made(case, tmp_path)
    edited(tmp_path, write)
    close(f"{case}, older file", "logits", numbers(our_logits(load_model(tmp_path))), numbers(their_logits(model)))
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(their_logits(again), their_logits(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {**c, "rope_scaling": {**LINEAR, "factor": 4.0}},  # beside rope_parameters: the older entry wins there
        lambda c: {**c, "rope_scaling": {}},
        lambda c: {**c, "rope_theta": 77.0},  # rope_parameters has its own
        lambda c: {**c, "rope_parameters": {k: v for k, v in LLAMA3.items() if k[:4] != "orig"}},
        lambda c: {**c, "rope_parameters": {"rope_theta": 123.0}},
        lambda c: {**c, "rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 99.0}},
        lambda c: {k: v for k, v in c.items() if k not in ("rope_parameters", "head_dim", "rms_norm_eps")},
    ],
)
@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_entries_that_meet_each_other_mean_what_they_mean_there(tmp_path, close, family, change):
    theirs(kind_of(family, {}), config_of(family, {}), tmp_path)
    edited(tmp_path, change)
    model = kind_of(family, {}).from_pretrained(tmp_path).eval()
    close("rotary entries that meet", "logits", numbers(our_logits(load_model(tmp_path))), numbers(their_logits(model)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_of_their_configuration_is_known_and_defaults_are_theirs(family):
    config = getattr(transformers, f"{family}Config")()
    known = CONFIG.known()
    entries = json.loads(config.to_json_string(use_diff=False))
    assert {name for name in entries if not name.startswith("_")} <= known
    given = CONFIG.read(entries, "config.json")
    assert CONFIG.read({"model_type": family.lower()}, "config.json") == given


# -------------------------------------------------------------------------------------------------- text
GENERATED = [case for case in MODELS if "classifier" not in case and "window" not in case]


@pytest.mark.parametrize("case", GENERATED)
def test_greedy_text_is_theirs_token_for_token(tmp_path, case):
    model = made(case, tmp_path)
    prompt = IDS[0].tolist()
    expected = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
    )
    assert list(generate(load_model(tmp_path), prompt, 20, GREEDY)) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("case", GENERATED)
def test_prompts_of_several_lengths_continue_as_theirs_padded_on_the_left(tmp_path, case):
    model = made(case, tmp_path)
    prompts = [IDS[0].tolist(), IDS[1, :4].tolist(), IDS[1, 5:6].tolist()]
    padded = torch.tensor([[0] * (9 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (9 - len(p)) + [1] * len(p) for p in prompts])
    expected = model.generate(padded, attention_mask=mask, max_new_tokens=15, do_sample=False)[:, 9:]
    found = list(generate_batch(load_model(tmp_path), prompts, 15, GREEDY))
    np.testing.assert_array_equal(np.array(found).T, expected.numpy())


def test_within_mistrals_window_text_is_theirs_and_no_row_is_longer(tmp_path):
    model = made("Mistral, window of 12", tmp_path)
    found, prompt = load_model(tmp_path), IDS[0].tolist()
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)[0, 9:].tolist()
    assert list(generate(found, prompt, 4, GREEDY)) == expected
    with pytest.raises(ValueError, match="13 tokens do not fit the context of 12"):
        found(tinylora.tensor(np.ones((1, 13), np.int64)))
