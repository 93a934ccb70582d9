"""The other side: what a user would pick instead of tinylora, on PyTorch.

(a) the lecture's own code: `examples/02_lecture.py` with PyTorch behind its imports, not a word changed
(b) the same with what PyTorch has fused: scaled_dot_product_attention, nn.LayerNorm and nn.GELU("tanh") in place of the
    lecture's spelled-out ones, and AdamW(fused=True)
(c) (b) under torch.compile
(d) Hugging Face's GPT2ForSequenceClassification with PEFT's LoRA, and AdamW(fused=True)

(a) to (c) put a LoRA on all 73 Linears, as tinylora does. (d) differs in its work: its query, key and value are one layer
`c_attn`, so one LoRA of rank 16 goes around the three together, 48 LoRAs in all, and its head is trained whole. That is a
little less arithmetic than the others have. Like all of them it computes every position and takes the last.

SmolLM2 has one peer, (d): Hugging Face's LlamaForCausalLM with PEFT's LoRA on the same seven Linears, and AdamW(fused=True).

Every function builds something once and returns what is timed: a call without arguments. Nothing here is bound to the CPU:
`device`, `bf16` and `compile_mode` make the same contenders on a GPU.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from work import LlamaWork, Work

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

LECTURE = Path(__file__).parents[2] / "examples" / "02_lecture.py"


# ------------------------------------------------------------------------------------ (a), (b), (c)
def lecture(fused: bool = False) -> ModuleType:
    """The classes and functions of the lecture's listing, on PyTorch; with `fused`, three of them are PyTorch's own."""
    module = ModuleType("lecture_fused" if fused else "lecture")
    sys.modules[module.__name__] = module  # torch.compile looks it up there
    module.__dict__.update(torch=torch, nn=nn)
    tree = ast.parse(LECTURE.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]  # not its imports and run
    exec(compile(tree, str(LECTURE), "exec"), module.__dict__)
    if fused:
        module.LayerNorm = nn.LayerNorm
        module.GELU = functools.partial(nn.GELU, "tanh")
        module.MultiHeadAttention = _fused(module.MultiHeadAttention)
    return module


def _fused(attention: type[nn.Module]) -> type[nn.Module]:
    class FusedAttention(attention):
        """The lecture's attention, with its scores, mask, softmax and dropout in one call of PyTorch."""

        def __init__(self, *sizes: Any, **options: Any) -> None:
            super().__init__(*sizes, **options)
            del self.mask

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (self.split_heads(W(x)) for W in (self.W_query, self.W_key, self.W_value))
            p = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)  # (B, H, T, D)
            return self.out_proj(context.transpose(1, 2).reshape(x.shape))

    return FusedAttention


def lecture_classifier(work: Work, fused: bool) -> nn.Module:
    listing = lecture(fused)
    model = listing.GPTModel(work.config)
    model.out_head = nn.Linear(work.width, 2)
    if not work.full:
        model.requires_grad_(False)
        listing.replace_linear_with_lora(model, rank=work.rank, alpha=work.rank)
    return model


# ---------------------------------------------------------------------------------------------- (d)
def hugging_face_config(work: Work) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=work.vocabulary,
        n_positions=work.context,
        n_embd=work.width,
        n_head=work.heads,
        n_layer=work.layers,
        resid_pdrop=work.dropout,
        embd_pdrop=work.dropout,
        attn_pdrop=work.dropout,
        bos_token_id=work.vocabulary - 1,
        eos_token_id=work.vocabulary - 1,
        pad_token_id=work.vocabulary - 1,
        num_labels=2,
    )


def hugging_face_classifier(work: Work) -> nn.Module:
    """Without the key/value cache that it would fill while training."""
    config = hugging_face_config(work)
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2ForSequenceClassification

    config.use_cache = False
    model = GPT2ForSequenceClassification(config)
    if work.full:
        return model
    targets = ["c_attn", "c_proj", "c_fc"]
    lora = LoraConfig(r=work.rank, lora_alpha=work.rank, target_modules=targets, fan_in_fan_out=True, task_type="SEQ_CLS")
    return get_peft_model(model, lora)


def hugging_face_llama_config(work: LlamaWork) -> Any:
    """SmolLM2's."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=work.vocabulary,
        max_position_embeddings=work.context,
        hidden_size=work.width,
        intermediate_size=work.hidden,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.kv_heads,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        pad_token_id=work.vocabulary - 1,
        num_labels=2,
    )


def hugging_face_llama(work: LlamaWork, task: str = "CAUSAL_LM") -> nn.Module:
    """SmolLM2 with random weights and a LoRA around every Linear of its blocks, without a cache; for the task "SEQ_CLS"
    with a head of two classes, which PEFT trains whole."""
    config = hugging_face_llama_config(work)
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    config.use_cache = False
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=work.rank, lora_alpha=work.rank, target_modules=targets, task_type=task)
    base = LlamaForCausalLM if task == "CAUSAL_LM" else LlamaForSequenceClassification
    return get_peft_model(base(config), lora).train()


# ----------------------------------------------------------------------------------- what is timed
def classifier(peer: str, work: Work) -> nn.Module:
    """The model of (a), (b), (c) or (d), in training mode; that of (c) is (b)'s, not yet compiled."""
    torch.manual_seed(0)
    model = hugging_face_classifier(work) if peer == "d" else lecture_classifier(work, fused=peer != "a")
    return model.train()


def scores_at_the_end(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Scores (B, 2) at each row's last token; Hugging Face has picked it already."""
    out = model(ids)
    return out[:, -1] if isinstance(out, torch.Tensor) else out.logits


def train_step(
    peer: str, device: str = "cpu", bf16: bool = False, compile_mode: str | None = None, **work: Any
) -> Callable[[], float]:
    """One whole step of a peer: zero, forward, loss, backward, update."""
    model = classifier(peer, Work(**work)).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, fused=peer != "a")  # on a CPU too six times as fast as the default
    ids, labels = (torch.tensor(x, device=device) for x in (Work(**work).tokens(), Work(**work).labels()))
    run = torch.compile(model, mode=compile_mode) if peer == "c" else model

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(scores_at_the_end(run, ids), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def language_loss(model: nn.Module, ids: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """The mean loss of the next token, at every position."""
    return F.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), following.flatten())


def llama_step(**work: Any) -> Callable[[], float]:
    """One whole step of SmolLM2 by Hugging Face and PEFT."""
    model = hugging_face_llama(LlamaWork(**work))
    ids, following = map(torch.tensor, LlamaWork(**work).texts())
    return _step(model, lambda: language_loss(model, ids, following))


def llama_class_step(**work: Any) -> Callable[[], float]:
    """The same with two classes, scored at each row's last token."""
    model = hugging_face_llama(LlamaWork(**work), "SEQ_CLS")
    ids, labels = (torch.tensor(x) for x in (LlamaWork(**work).tokens(), LlamaWork(**work).labels()))
    return _step(model, lambda: F.cross_entropy(scores_at_the_end(model, ids), labels))


def _step(model: nn.Module, loss_of_batch: Callable[[], torch.Tensor]) -> Callable[[], float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of_batch()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def small_network(width: int, batch: int, repeats: int) -> Callable[[], None]:
    """Forward and backward of two Linears, `repeats` times, in eager mode."""
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    x = torch.randn(batch, width)

    def run() -> None:
        for _ in range(repeats):
            model.zero_grad()
            model(x).sum().backward()

    return run


def language_model(work: Work) -> nn.Module:
    """Hugging Face's GPT-2 with its language head."""
    config = hugging_face_config(work)
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval()


def generate(prompt: int, count: int, device: str = "cpu", **work: Any) -> Callable[[], torch.Tensor]:
    """`count` tokens after a prompt, the likeliest always, by transformers' `generate` and its key/value cache."""
    model = language_model(Work(**work)).to(device)
    start = Work(batch=1, length=prompt, vocabulary=Work(**work).vocabulary).tokens()
    return _continuation(model, torch.tensor(start, device=device), count)


def llama_generate(prompt: int, count: int, **work: Any) -> Callable[[], torch.Tensor]:
    """The same with SmolLM2."""
    sizes = LlamaWork(batch=1, length=prompt, **work)
    config = hugging_face_llama_config(sizes)
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return _continuation(LlamaForCausalLM(config).eval(), torch.tensor(sizes.tokens()), count)


def _continuation(model: nn.Module, start: torch.Tensor, count: int) -> Callable[[], torch.Tensor]:
    model.generation_config.eos_token_id = None  # never stops early
    everything = torch.ones_like(start)
    return lambda: model.generate(start, attention_mask=everything, max_new_tokens=count, do_sample=False)


def build(**work: Any) -> Callable[[], None]:
    """GPT-2 with random weights, language head and all: (b)'s, which fills no masks."""
    listing = lecture(fused=True)

    def run() -> None:
        listing.GPTModel(Work(**work).config)

    return run
