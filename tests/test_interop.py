"""The real thing beside tinylora: models that transformers wrote, adapters that PEFT wrote, and both reading ours.

Everything in float32, on tiny random models; the differences are printed as a table at the end of the run.
"""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from interop import (
    adapted,
    comes_back,
    numbers,
    our_logits,
    own_format_keeps,
    peft,
    quiet_marks,
    same_adapter,
    same_numbers,
    their_logits,
    theirs,
    they_read,
    torch,
    transformers,
)

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora, load_adapter, save_adapter
from tinylora.adapters.peft import config as peft_format
from tinylora.formats import LoadError
from tinylora.lora import lora_modules
from tinylora.models import load_model
from tinylora.models.gpt import GPTModel
from tinylora.models.gpt_table import CONFIG

pytestmark = quiet_marks()

LM, CLASSIFIER = transformers.GPT2LMHeadModel, transformers.GPT2ForSequenceClassification
TINY = {"vocab_size": 61, "n_positions": 16, "n_embd": 24, "n_head": 3, "n_layer": 3,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}  # fmt: skip


def gpt2(**changes):
    return transformers.GPT2Config(**{**TINY, **changes})


# --------------------------------------------------------------------------------------------- checkpoints
MODELS = {
    "GPT-2, tied head": (LM, {}),
    "GPT-2, own head": (LM, {"tie_word_embeddings": False}),
    "classifier of 3": (CLASSIFIER, {"num_labels": 3}),
    "n_inner 40": (LM, {"n_inner": 40}),
    "relu, epsilon 1e-3": (LM, {"activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    "exact gelu": (LM, {"activation_function": "gelu"}),
    "silu": (LM, {"activation_function": "silu"}),
    "gelu_fast": (LM, {"activation_function": "gelu_fast"}),
    "upcast attention": (LM, {"reorder_and_upcast_attn": True}),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_of_theirs_gives_their_logits_loss_gradients_and_step(tmp_path, close, case):
    kind, changes = MODELS[case]
    model = theirs(kind, gpt2(**changes), tmp_path)
    same_numbers(close, case, model, GPTModel.from_pretrained(tmp_path), tmp_path)


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 9000])
def test_they_read_what_we_write_and_hold_the_same_numbers(tmp_path, case, max_shard_bytes):
    kind, changes = MODELS[case]
    model = theirs(kind, gpt2(**changes), tmp_path / "theirs")
    GPTModel.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours", max_shard_bytes=max_shard_bytes)
    they_read(kind, model, tmp_path / "ours", {"reorder_and_upcast_attn"})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", ["10KB", "1GB"])
def test_every_dtype_in_one_file_or_in_shards(tmp_path, close, dtype, size):
    model = theirs(LM, gpt2(), tmp_path / "float32").to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "other", max_shard_size=size)
    assert len(list((tmp_path / "other").glob("*.safetensors"))) == 1 or size == "10KB"
    found = GPTModel.from_pretrained(tmp_path / "other")
    close(f"stored in {dtype}", "logits", numbers(our_logits(found)), numbers(their_logits(model.float())))


def test_names_without_transformer_in_front(tmp_path, close):
    theirs(transformers.GPT2Model, gpt2(), tmp_path)
    model = LM.from_pretrained(tmp_path).eval()
    close(
        "base without a head",
        "logits",
        numbers(our_logits(GPTModel.from_pretrained(tmp_path))),
        numbers(their_logits(model)),
    )


def test_every_entry_of_their_configuration_is_known():
    known = CONFIG.known()
    fields = {f.name for f in dataclasses.fields(transformers.GPT2Config)} | transformers.GPT2Config().to_dict().keys()
    assert {name for name in fields if not name.startswith("_")} <= known
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in MODELS.values():
            config = json.loads(transformers.GPT2Config(**name[1]).to_json_string(use_diff=False))
            CONFIG.read({**config, "architectures": [name[0].__name__]}, "config.json")


def test_the_boxed_model_in_their_hands(tmp_path, close):
    nano = load_model("nano")
    nano.save_pretrained(tmp_path)
    model = LM.from_pretrained(tmp_path).eval()
    ids = np.arange(2, 60)[None]
    ours = numbers(nano(tinylora.tensor(ids)))
    close("nano, read by transformers", "logits", ours, numbers(model(torch.tensor(ids)).logits))


# ------------------------------------------------------------------------------------------------ adapters
OWN_HEAD = {"tie_word_embeddings": False}
ADAPTERS = {
    "c_attn, r 4, alpha 9": (LM, {}, {"target_modules": ["c_attn"]}),
    "rsLoRA on all four": (LM, {}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True}),
    "rank and alpha patterns": (
        LM, {}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "rank_pattern": {"c_attn": 2, r"h\.1\.mlp\.c_fc": 7},
                 "alpha_pattern": {"mlp.c_proj": 3, "attn.c_proj": 1.5}},
    ),
    "targets by a pattern": (LM, {}, {"target_modules": r".*\.(1|2)\.attn\.c_(attn|proj)"}),
    "layers 0 and 2": (LM, {}, {"target_modules": ["c_attn"], "layers_to_transform": [0, 2], "layers_pattern": "h"}),
    "layer 1, no pattern": (LM, {}, {"target_modules": ["c_attn", "mlp.c_proj"], "layers_to_transform": 1}),
    "mlp excluded": (LM, {}, {"target_modules": ["c_attn", "c_proj"], "exclude_modules": r".*\.mlp\..*"}),
    "one excluded by name": (LM, {}, {"target_modules": ["c_attn"], "exclude_modules": ["h.1.attn.c_attn"]}),
    "bias all": (LM, {}, {"target_modules": ["attn.c_attn"], "bias": "all"}),
    "bias lora_only": (LM, {}, {"target_modules": ["attn.c_attn", "c_fc"], "bias": "lora_only"}),
    "dropout": (LM, {}, {"target_modules": ["c_attn"], "lora_dropout": 0.1}),
    "embeddings": (LM, OWN_HEAD, {"target_modules": ["wte", "wpe", "c_fc"]}),
    "embedding, tied head": (LM, {}, {"target_modules": ["wte", "c_attn"]}),
    "lm_head": (LM, OWN_HEAD, {"target_modules": ["lm_head"]}),
    "norms, c_fc and head saved": (
        LM, OWN_HEAD, {"target_modules": ["c_attn"], "modules_to_save": ["lm_head", "ln_1", "c_fc"]},
    ),
    "DoRA": (LM, {}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True}),
    "classifier, all-linear": (CLASSIFIER, {"num_labels": 2}, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "classifier, LoRA on score": (CLASSIFIER, {"num_labels": 2}, {"target_modules": ["c_attn", "score"]}),
    "classifier, bias and score": (
        CLASSIFIER, {"num_labels": 2}, {"target_modules": ["c_attn"], "modules_to_save": ["score"], "bias": "all"},
    ),
}  # fmt: skip


ELSEWHERE = {"rank_pattern", "alpha_pattern", "bias"}  # tinylora's own format has no place for these


def made(case, folder):
    kind, changes, options = ADAPTERS[case]
    return adapted(kind, gpt2(**changes), options, folder)


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_of_theirs_computes_learns_and_merges_as_there(tmp_path, close, case):
    # with a tied head, merging LoRA of the embedding changes the head too there; see docs/interop.md
    same_adapter(close, case, *made(case, tmp_path), tmp_path, merge=case != "embedding, tied head")


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_comes_back_to_them_unchanged(tmp_path, case):
    comes_back(ADAPTERS[case][0], *made(case, tmp_path), tmp_path)


@pytest.mark.parametrize("case", [case for case, (_, _, options) in ADAPTERS.items() if not options.keys() & ELSEWHERE])
def test_tinyloras_own_format_keeps_an_adapter_of_theirs(tmp_path, case):
    _, ours, config = made(case, tmp_path)
    own_format_keeps(ours, config, tmp_path)


def test_tinyloras_own_format_refuses_ranks_that_differ(tmp_path):
    _, ours, config = made("rank and alpha patterns", tmp_path)
    with pytest.raises(ValueError, match="has variant, rank and scale .* and the configuration to be saved"):
        save_adapter(ours, tmp_path / "a.safetensors", config)


TRAINED_HERE = {
    "here: DoRA of query and value": LoRAConfig(
        3, 7.0, ("W_query", "W_value", "layers.2"), scaling="alpha/r", variant="dora"
    ),
    "here: LoRA-FA": LoRAConfig(3, 7.0, ("W_query", "W_value"), scaling="alpha/r", variant="lora-fa"),
    "here: all-linear": LoRAConfig(
        3, 7.0, ("W_query", "W_key", "W_value", "out_proj", "layers.0", "layers.2"), scaling="alpha/r"
    ),
    "here: query and value": LoRAConfig(3, 7.0, ("W_query", "W_value"), scaling="alpha"),
    "here: key alone, rsLoRA": LoRAConfig(3, 7.0, ("att.W_key", "layers.0"), scaling="rslora", dropout=0.1),
    "here: head and norm whole": LoRAConfig(3, 7.0, ("W_query", "W_key"), ("out_head", "final_norm"), "rslora", "peft"),
}


@pytest.mark.parametrize("case", TRAINED_HERE)
@pytest.mark.parametrize("kind", [LM, CLASSIFIER], ids=["LM", "classifier"])
def test_an_adapter_made_here_computes_the_same_there(tmp_path, close, case, kind):
    theirs(kind, gpt2(**OWN_HEAD), tmp_path / "base")
    ours, config = GPTModel.from_pretrained(tmp_path / "base"), TRAINED_HERE[case]
    apply_lora(ours, config)
    rng = np.random.default_rng(0)
    for p in ours.parameters():
        if p.requires_grad:
            p.array = rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.3)
    save_adapter(ours.eval(), tmp_path / "adapter", config, format="peft")
    model = peft.PeftModel.from_pretrained(kind.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    close(case, "logits", numbers(our_logits(ours)), numbers(their_logits(model)))
    about = model.peft_config["default"]
    c_attn = "transformer.h.0.attn.c_attn"
    assert about.rank_pattern.get(c_attn, about.r) == 3 * sum(t.rpartition(".")[2][:2] == "W_" for t in config.targets)
    again = GPTModel.from_pretrained(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    close(case, "read again", numbers(our_logits(again)), numbers(our_logits(ours)))


def test_scales_that_differ_among_query_key_and_value_go_into_b(tmp_path, close):
    theirs(LM, gpt2(), tmp_path / "base")
    ours, config = GPTModel.from_pretrained(tmp_path / "base"), LoRAConfig(2, 3.0, ("W_query", "W_key", "W_value"))
    apply_lora(ours, config)
    for i, (_, m) in enumerate(lora_modules(ours)):
        m.lora.alpha = float(i % 3)
        m.lora.B.array = np.random.default_rng(i).standard_normal(m.lora.B.shape).astype(np.float32)
    save_adapter(ours, tmp_path / "adapter", config, format="peft")
    model = peft.PeftModel.from_pretrained(LM.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    close("here: three scales", "logits", numbers(our_logits(ours)), numbers(their_logits(model)))


def test_every_field_of_their_lora_config_is_honoured_or_refused_by_name(tmp_path):
    theirs(LM, gpt2(), tmp_path)
    known = (
        peft_format.PeftConfig.__dataclass_fields__.keys() | peft_format.WITHOUT_EFFECT | {"peft_type", "init_lora_weights"}
    )
    fields = {f.name for f in dataclasses.fields(peft.LoraConfig)} - known
    assert "use_qalora" in fields and "target_parameters" in fields and len(fields) > 10
    for name in (*fields, "something_new"):
        config = {"peft_type": "LORA", "r": 4, "target_modules": ["c_attn"], name: True if name.startswith("use") else ["x"]}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(LoadError, match=f"{name} is .* does not know how to honour"):
            load_adapter(GPTModel.from_pretrained(tmp_path), tmp_path)


def test_why_their_count_is_another():
    """Rank 16 on every linear layer of GPT-2 small with a two-class head: see docs/interop.md."""
    with torch.device("meta"):
        model = CLASSIFIER(transformers.GPT2Config(num_labels=2))
        config = peft.LoraConfig(r=16, target_modules="all-linear", task_type="SEQ_CLS")
        assert peft.get_peft_model(model, config).get_nb_trainable_parameters() == (2_360_832, 126_802_176)
    with tinylora.device("meta"):
        ours = GPTModel({**tinylora.models.presets.PRESETS["gpt2-small"], "tie_head": True})
        ours.set_classes(2)
        apply_lora(ours, LoRAConfig(16, train=("out_head",)))
        count = ours.summary()
    c_attn_again, head_again = 12 * 2 * 16 * 768, 2 * 768
    assert count.trainable - c_attn_again == 2_360_832
    assert count.total - c_attn_again + head_again == 126_802_176
