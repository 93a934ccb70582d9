"""Who else fine-tunes a Llama on one GPU, each in a process of its own, since Liger and unsloth rewrite transformers.

    python tests/benchmarks/llama_peers.py unsloth smollm2 --batch 16 --length 1024

`hf`: Hugging Face and PEFT. `liger`: the same with Liger's kernels (pip install liger-kernel). `unsloth`: FastLanguageModel
(pip install unsloth), from a folder with random weights and a tokenizer that is written first, without checkpointing unless
`--checkpointing`. All have a bf16 base, LoRA on the seven Linears of every block, bf16 autocast, and AdamW(fused=True).
Generation is transformers' `generate`, greedy: with its default cache, or `--static`, compiled.

The last line printed is JSON: seconds of each timed call, and `peak`, the most bytes that PyTorch allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter
from typing import Any

from work import Llama1BWork, LlamaWork

os.environ |= {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
SHAPES = {"smollm2": LlamaWork, "llama-1b": Llama1BWork}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config(work: LlamaWork) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=work.vocabulary, max_position_embeddings=work.context, hidden_size=work.width,
        intermediate_size=work.hidden, num_hidden_layers=work.layers, num_attention_heads=work.heads,
        num_key_value_heads=work.kv_heads, rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip


def base(work: LlamaWork) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(config(work)).to("cuda", torch.bfloat16)


def with_peft(work: LlamaWork, checkpointing: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    model = base(work)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return get_peft_model(
        model, LoraConfig(r=work.rank, lora_alpha=work.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    )


def with_liger(work: LlamaWork, checkpointing: bool) -> Any:
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama()
    return with_peft(work, checkpointing)


def with_unsloth(work: LlamaWork, checkpointing: bool) -> Any:
    from unsloth import FastLanguageModel  # isort: skip  # before transformers, which it rewrites
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        base(work).save_pretrained(folder)
        torch.cuda.empty_cache()
        words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
        special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        model, _ = FastLanguageModel.from_pretrained(
            folder, max_seq_length=work.context, dtype=torch.bfloat16, load_in_4bit=False
        )
    model = FastLanguageModel.get_peft_model(
        model, r=work.rank, lora_alpha=work.rank, lora_dropout=0, bias="none", target_modules=TARGETS, random_state=0,
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    return FastLanguageModel.for_training(model)


PEERS = {"hf": with_peft, "liger": with_liger, "unsloth": with_unsloth}


def train_step(peer: str, work: LlamaWork, checkpointing: bool) -> Callable[[], float]:
    """One whole step: zero, forward, the loss of the next token, backward, update."""
    model = PEERS[peer](work, checkpointing)
    import torch

    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5, fused=True)
    ids = torch.tensor(work.texts()[0].copy(), device="cuda")

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def generation(work: LlamaWork, count: int, static: bool) -> Callable[[], float]:
    """`count` tokens after each of `batch` prompts of `length` tokens, the likeliest always."""
    import torch

    model = base(work).eval()
    model.generation_config.eos_token_id = None
    model.config.use_cache = True
    ids = torch.tensor(work.texts()[0].copy(), device="cuda")
    options = {"cache_implementation": "static"} if static else {}

    def run() -> float:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            use_cache=True, pad_token_id=0, **options,
        )  # fmt: skip
        return float(out[0, -1])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="one peer of a Llama on a GPU")
    parser.add_argument("peer", choices=[*PEERS, "generate"])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--count", type=int, default=128, help="tokens to generate")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--static", action="store_true", help="generate with a static cache, compiled")
    chosen = parser.parse_args()
    work, started = SHAPES[chosen.shape](batch=chosen.batch, length=chosen.length), perf_counter()
    if chosen.peer == "generate":
        run = generation(work, chosen.count, chosen.static)
    else:
        run = train_step(chosen.peer, work, chosen.checkpointing)
    import torch

    first = [run() for _ in range(3)]
    ready = perf_counter() - started
    for _ in range(chosen.warm_up - 3):
        run()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(chosen.steps):
        torch.cuda.synchronize()
        begun = perf_counter()
        run()
        times.append(perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"times": times, "peak": peak, "started": ready, "first": first}), file=sys.__stdout__)


if __name__ == "__main__":
    main()
