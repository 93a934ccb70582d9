"""PEFT's adapters of Llama, Mistral, Qwen2 and Qwen3, both ways: numbers, files, merging.

Everything in float32, on tiny random models; the differences are printed as a table at the end of the run.
"""

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
    their_logits,
    theirs,
)
from test_interop_llama import config_of, kind_of

from tinylora.adapters import LoRAConfig, apply_lora, load_adapter, save_adapter
from tinylora.models import load_model

pytestmark = quiet_marks()

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_SEVEN = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
BIASED = {"attention_bias": True, "mlp_bias": True}
CLASSES = {"num_labels": 3}
ADAPTERS = {  # family, entries of its configuration, entries of the adapter's
    "Llama: query and value": ("Llama", {}, {"target_modules": ["q_proj", "v_proj"]}),
    # alpha 3: at 9 both libraries are 5e-6 from the gradients in float64, each to its side
    "Llama: all seven, rsLoRA": ("Llama", {}, {"target_modules": ALL_SEVEN, "use_rslora": True, "lora_alpha": 3}),
    "Llama: all-linear": ("Llama", {}, {"target_modules": "all-linear"}),
    "Mistral: all seven": ("Mistral", {"head_dim": 8}, {"target_modules": ALL_SEVEN}),
    "Qwen2: all-linear": ("Qwen2", {"tie_word_embeddings": True}, {"target_modules": "all-linear"}),
    "Qwen3: all-linear": ("Qwen3", {"head_dim": 16}, {"target_modules": "all-linear"}),
    "Llama: rank and alpha patterns": (
        "Llama", {}, {"target_modules": ALL_SEVEN, "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
                      "alpha_pattern": {"mlp.down_proj": 3, "self_attn.o_proj": 1.5}},
    ),
    "Llama: targets by a pattern": ("Llama", {}, {"target_modules": r".*\.(1|2)\.self_attn\.(q|v)_proj"}),
    "Llama: layers 0 and 2": (
        "Llama", {}, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    ),
    "Llama: layer 1, no pattern": ("Llama", {}, {"target_modules": ["k_proj", "mlp.gate_proj"], "layers_to_transform": 1}),
    "Llama: mlp excluded": ("Llama", {}, {"target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*"}),
    "Llama: one excluded by name": (
        "Llama", {}, {"target_modules": ATTENTION, "exclude_modules": ["layers.1.self_attn.q_proj"]},
    ),
    "Llama: bias all": ("Llama", BIASED, {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    "Qwen2: bias all": ("Qwen2", {}, {"target_modules": ["q_proj", "up_proj"], "bias": "all"}),
    "Qwen2: bias lora_only": ("Qwen2", {}, {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "Llama: dropout": ("Llama", {}, {"target_modules": ["q_proj"], "lora_dropout": 0.1}),
    "Llama: embedding": ("Llama", {}, {"target_modules": ["embed_tokens", "gate_proj"]}),
    "Llama: embedding, tied head": ("Llama", {"tie_word_embeddings": True}, {"target_modules": ["embed_tokens", "v_proj"]}),
    "Qwen3: lm_head": ("Qwen3", {"head_dim": 16}, {"target_modules": ["lm_head"]}),
    "Qwen3: norms and head saved": (
        "Qwen3", {}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm", "q_norm", "k_proj"]},
    ),
    "Llama: embedding and norms saved": (
        "Llama", {}, {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens", "input_layernorm"]},
    ),
    "Llama: DoRA": ("Llama", BIASED, {"target_modules": ALL_SEVEN, "use_dora": True}),
    "Qwen3: DoRA, rsLoRA": ("Qwen3", {"head_dim": 16}, {"target_modules": ATTENTION, "use_dora": True, "use_rslora": True}),
    "Llama: classifier, all-linear": ("Llama", CLASSES, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "Qwen3: classifier, LoRA on score": ("Qwen3", CLASSES, {"target_modules": ["q_proj", "score"]}),
    "Qwen2: classifier, bias and score": (
        "Qwen2", CLASSES, {"target_modules": ["q_proj"], "modules_to_save": ["score"], "bias": "all"},
    ),
}  # fmt: skip
ELSEWHERE = {"rank_pattern", "alpha_pattern", "bias"}  # tinylora's own format has no place for these


def made(case, folder):
    family, entries, options = ADAPTERS[case]
    return adapted(kind_of(family, entries), config_of(family, entries), options, folder)


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_of_theirs_computes_learns_and_merges_as_there(tmp_path, close, case):
    # with a tied head, merging LoRA of the embedding changes the head too there; see docs/interop.md
    same_adapter(close, case, *made(case, tmp_path), tmp_path, merge="tied" not in case)


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_comes_back_to_them_unchanged_and_in_tinyloras_own_file_too(tmp_path, case):
    family, entries, options = ADAPTERS[case]
    model, ours, config = made(case, tmp_path)
    comes_back(kind_of(family, entries), model, ours, config, tmp_path)
    if not options.keys() & ELSEWHERE:
        own_format_keeps(ours, config, tmp_path)


QV = ("W_query", "W_value")
TRAINED_HERE = {
    "here, Llama: query and value": LoRAConfig(3, 7.0, QV, scaling="alpha"),
    "here, Llama: DoRA": LoRAConfig(3, 7.0, (*QV, "fc3"), scaling="alpha/r", variant="dora"),
    "here, Llama: LoRA-FA": LoRAConfig(3, 7.0, QV, scaling="alpha/r", variant="lora-fa"),
    "here, Llama: all seven, rsLoRA": LoRAConfig(
        3, 7.0, (*QV, "W_key", "out_proj", "fc1", "fc2", "fc3"), scaling="rslora", dropout=0.1
    ),
    "here, Llama: head and norm whole": LoRAConfig(3, 7.0, QV, ("out_head", "final_norm"), "rslora", "peft"),
}


@pytest.mark.parametrize("case", TRAINED_HERE)
@pytest.mark.parametrize("classes", [{}, CLASSES], ids=["LM", "classifier"])
def test_an_adapter_made_here_computes_the_same_there(tmp_path, close, case, classes):
    kind = kind_of("Llama", classes)
    theirs(kind, config_of("Llama", classes), tmp_path / "base")
    ours, config = load_model(tmp_path / "base"), TRAINED_HERE[case]
    apply_lora(ours, config)
    rng = np.random.default_rng(0)
    for p in ours.parameters():
        if p.requires_grad:
            p.array = rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.3)
    save_adapter(ours.eval(), tmp_path / "adapter", config, format="peft")
    model = peft.PeftModel.from_pretrained(kind.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    close(case, "logits", numbers(our_logits(ours)), numbers(their_logits(model)))
    again = load_model(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    close(case, "read again", numbers(our_logits(again)), numbers(our_logits(ours)))
