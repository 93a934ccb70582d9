"""tinylora against PyTorch and Hugging Face on one NVIDIA GPU, side by side in one run.

    pip install -e '.[bench,cuda13]'
    python tests/benchmarks/gpu.py                              # everything; about ten minutes on an H100
    python tests/benchmarks/gpu.py --only small-bf16 --json one.json
    python tests/benchmarks/gpu.py --only large-bf16 --profile  # then which kernels the step's time goes to

The contenders take turns in one process, and each time is that of a whole step, from the call to the loss on the host:
zero, forward, loss, backward, AdamW. Medians of 20. All have the same sizes and tokens, random weights and no dropout;
bf16 is autocast for PyTorch and frozen weights in bfloat16 for tinylora, TF32 is "high" precision in both. Memory is the
most that a contender's own arrays took on the card. Who competes: peers.py, and for the Llamas llama_peers.py, whose
contenders run one after another in processes of their own; one that is not installed, or fails, is left out with its
reason. The bars are those this project has set itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import llama_peers
import ours
import peers
import report
import torch
from report import Bar, Row
from work import LlamaWork, Work
from workers import summary

import tinylora
from tinylora import backend, optim
from tinylora.app import terminal
from tinylora.models.llama import LlamaModel
from tinylora.text.generate import generate_batch
from tinylora.text.sampling import GREEDY
from tinylora.training.recompute import checkpoint_modules

Step = Callable[[], float]
LARGE, SMALL = {"batch": 16, "length": 1024}, {"batch": 8, "length": 128}
NAMES = {
    "b": "(b) PyTorch, fused",
    "c": "(c) torch.compile, CUDA graphs",
    "d": "(d) Hugging Face + PEFT",
}


class Contender(NamedTuple):
    step: Step
    peak: int  # bytes on the card
    started: float  # seconds from nothing to the third step


# ------------------------------------------------------------------------------------------ contenders
def tinylora_step(work: dict[str, Any], bf16: bool, graph: bool) -> tuple[Step, Callable[[], int]]:
    """A step of ours, and how many bytes its graph, its weights and Adam's m and v take."""
    sizes = Work(**work)
    with tinylora.device("cuda"):
        model, batch = ours.classifier(sizes), ours.batch_of(sizes)
    model.to("cuda", *([tinylora.bfloat16] if bf16 else []))
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)

    def step(*tensors: tinylora.Tensor) -> tinylora.Tensor:
        optimizer.zero_grad()
        loss = ours.loss_of(model, ours.Batch(*tensors))
        loss.backward()
        optimizer.step()
        return loss

    run = tinylora.cuda.capture(step, optimizer) if graph else step
    weights = sum(p.array.nbytes for p in model.parameters()) + sum(2 * p.array.nbytes for p in optimizer.parameters())
    return lambda: run(*batch).item(), lambda: weights + run.nbytes if graph else 0


def our_contender(work: dict[str, Any], bf16: bool, graph: bool = True) -> Contender:
    started = perf_counter()
    step, size = tinylora_step(work, bf16, graph)
    for _ in range(3):
        step()
    return Contender(step, size(), perf_counter() - started)


def peer_contender(peer: str, work: dict[str, Any], bf16: bool) -> Contender:
    started, before = perf_counter(), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step = peers.train_step(peer, "cuda", bf16, "reduce-overhead" if peer == "c" else None, **work)
    for _ in range(3):
        step()
    return Contender(step, torch.cuda.max_memory_allocated() - before, perf_counter() - started)


def alternate(contenders: dict[str, Contender], steps: int) -> dict[str, dict[str, Any]]:
    """Turns of each, after three more to warm up; each round begins with another."""
    gc.collect()
    gc.freeze()  # what has been imported need not be looked through again while somebody is timed
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(-3, steps):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            torch.cuda.synchronize()
            backend.cupy().cuda.Device().synchronize()
            started = perf_counter()
            contenders[name].step()
            times[name] += [perf_counter() - started] if i >= 0 else []
    return {name: {**summary(times[name]), "peak": c.peak, "started": c.started} for name, c in contenders.items()}


# -------------------------------------------------------------------------------------------- the rows
def race(title: str, work: dict[str, Any], bf16: bool, rivals: str, bars: dict[str, float], graph: bool = True) -> Any:
    """A row: ours against `rivals`, and how many times as fast as each it must be."""

    def measure(steps: int, profile: bool) -> Row:
        contenders = {report.OURS: our_contender(work, bf16, graph)}
        if profile:
            show_kernels(contenders[report.OURS].step)
        contenders |= {NAMES[peer]: peer_contender(peer, work, bf16) for peer in rivals}
        found = alternate(contenders, steps)
        del contenders
        gc.unfreeze()
        gc.collect()
        torch.cuda.empty_cache()
        backend.cupy().get_default_memory_pool().free_all_blocks()
        mine = found[report.OURS]
        must = [
            Bar(f"× as fast as {NAMES[p]}", bound, found[NAMES[p]]["median"] / mine["median"]) for p, bound in bars.items()
        ]
        if graph and "c" in rivals:
            theirs = found[NAMES["c"]]["peak"]
            must += [Bar("memory, of (c)'s", 1.0, mine["peak"] / theirs, at_least=False)] if theirs else []
            must += [Bar("from nothing to the third step", 15, mine["started"], "s", at_least=False)]
        return Row(title, found, must)

    return measure


LLAMA = {"hf": "Hugging Face + PEFT", "liger": "Liger", "unsloth": "unsloth"}


def llama_step(work: LlamaWork, checkpointing: bool) -> tuple[Step, Callable[[], int]]:
    """A captured step of ours, and how many bytes its graph, its weights and Adam's m and v take."""
    with tinylora.device("cuda"):
        model = ours.llama(work)
    ids, following = (tinylora.tensor(x, device="cuda") for x in work.texts())
    model.to("cuda", tinylora.bfloat16)
    backend.cupy().get_default_memory_pool().free_all_blocks()
    if checkpointing:
        checkpoint_modules(model.trf_blocks)
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)

    def step(*batch: tinylora.Tensor) -> tinylora.Tensor:
        optimizer.zero_grad()
        loss = ours.language_loss(model, *batch)
        loss.backward()
        optimizer.step()
        return loss

    run = tinylora.cuda.capture(step, optimizer)
    weights = sum({id(p): p.array.nbytes for p in model.parameters()}.values())
    state = sum(2 * p.array.nbytes for p in optimizer.parameters())  # m and v
    return lambda: run(ids, following).item(), lambda: weights + state + run.nbytes


def llama_race(
    title: str, shape: str, bars: dict[str, float], most: float, checkpointing: bool = False, **sizes: int
) -> Any:
    """A row: a Llama's step, ours against Hugging Face, Liger and unsloth, and in how many GiB it must fit."""

    def measure(steps: int, profile: bool) -> Row:
        started = perf_counter()
        step, size = llama_step(llama_peers.SHAPES[shape](**sizes), checkpointing)
        for _ in range(3):
            step()
        contender = Contender(step, size(), perf_counter() - started)
        if profile:
            show_kernels(step)
        found = alternate({report.OURS: contender}, steps)
        del step, contender
        gc.unfreeze()
        gc.collect()
        backend.cupy().get_default_memory_pool().free_all_blocks()
        for peer in bars:
            if theirs := llama_peer(peer, shape, steps, *(["--checkpointing"] if checkpointing else []), **sizes):
                found[LLAMA[peer]] = theirs
        mine = found[report.OURS]
        must = [
            Bar(f"× as fast as {LLAMA[p]}", bound, found[LLAMA[p]]["median"] / mine["median"])
            for p, bound in bars.items()
            if LLAMA[p] in found
        ]
        must += [Bar("memory", most, mine["peak"] / 2**30, "GiB", at_least=False)]
        return Row(title, found, [*must, Bar("from nothing to the third step", 15, mine["started"], "s", at_least=False)])

    return measure


def generation_race(title: str, batch: int, bars: dict[str, float], count: int = 128, length: int = 32) -> Any:
    """A row: `count` greedy tokens after each of `batch` prompts, SmolLM2 in bf16, ours against transformers' `generate`."""

    def measure(steps: int, profile: bool) -> Row:
        work, started = LlamaWork(batch=batch, length=length), perf_counter()
        with tinylora.device("cuda"):
            tinylora.manual_seed(0)
            model = LlamaModel(work.config).to("cuda", tinylora.bfloat16)
        prompts = work.texts()[0].tolist()

        def step() -> float:
            return float(len(list(generate_batch(model, prompts, count, GREEDY))))

        for _ in range(3):
            step()
        found = alternate({report.OURS: Contender(step, 0, perf_counter() - started)}, steps)
        gc.unfreeze()
        sizes = {"batch": batch, "length": length, "count": count}
        for peer, flags in (("transformers", []), ("transformers, static cache compiled", ["--static"])):
            if peer in bars and (theirs := llama_peer("generate", "smollm2", min(steps, 5), *flags, **sizes)):
                found[peer] = theirs
        mine = found[report.OURS]["median"]
        print(f"{title}: {batch * count / mine:.0f} tokens/s")
        must = [Bar(f"× as fast as {p}", bound, found[p]["median"] / mine) for p, bound in bars.items() if p in found]
        return Row(title, found, must)

    return measure


def llama_peer(peer: str, shape: str, steps: int, *flags: str, **sizes: int) -> dict[str, Any] | None:
    """What llama_peers.py prints for one contender, or None with its last line of error shown."""
    file, numbers = str(Path(__file__).parent / "llama_peers.py"), [f"--{k}={v}" for k, v in sizes.items()]
    command = [sys.executable, file, peer, shape, *numbers, f"--steps={steps}", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        terminal.say(f"{LLAMA.get(peer, peer)} is left out: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return {**summary(told["times"]), "peak": told["peak"], "started": told["started"]}


ROWS = {
    "large-bf16": race("16 × 1024, bf16", LARGE, True, "bcd", {"c": 1.2, "d": 3}),
    "large-tf32": race("16 × 1024, TF32", LARGE, False, "bc", {"c": 1.3}),
    "small-bf16": race("8 × 128, bf16", SMALL, True, "cd", {"c": 1.3, "d": 3}),
    "small-eager": race("8 × 128, bf16, no graph", SMALL, True, "b", {"b": 1.0}, graph=False),
    "smollm2": llama_race("SmolLM2, 16 × 1024", "smollm2", {"hf": 4, "liger": 1, "unsloth": 3}, 6, **LARGE),
    "smollm2-small": llama_race("SmolLM2, 8 × 256", "smollm2", {"hf": 1, "unsloth": 8}, 6, batch=8, length=256),
    "llama-1b": llama_race(
        "Llama 1B, 4 × 2048", "llama-1b", {"hf": 1, "liger": 1.7, "unsloth": 1.25}, 9, batch=4, length=2048
    ),
    "generate-1": generation_race(
        "SmolLM2, 128 tokens, batch 1", 1, {"transformers": 10, "transformers, static cache compiled": 1.5}
    ),
    "generate-32": generation_race("SmolLM2, 128 tokens, batch 32", 32, {"transformers": 10}),
    "llama-1b-checkpointing": llama_race(
        "Llama 1B, 4 × 2048, checkpointing", "llama-1b", {"unsloth": 1.25}, 3.6, True, batch=4, length=2048
    ),
}


def show_kernels(step: Step) -> None:
    """The kernels of one step that take longest, by PyTorch's profiler: it sees whatever runs on the card."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    total = sum(e.device_time_total for e in seen.key_averages())
    rows = [[e.key[:80], str(e.count), f"{e.device_time_total / 1e3:.2f} ms"] for e in seen.key_averages()]
    rows.sort(key=lambda row: -float(row[2].split()[0]))
    report.table(["kernel", "launches", f"of {total / 1e3:.2f} ms"], rows[:25], markdown=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="tinylora against PyTorch and Hugging Face on a GPU")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each contender (default 20)")
    parser.add_argument("--profile", action="store_true", help="print which kernels tinylora's steps run, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    chosen = parser.parse_args()
    for library in (torch, tinylora):
        library.set_float32_matmul_precision("high")
    found = {}
    for name in chosen.only:
        terminal.say(f"measuring {name} ..")
        found[name] = ROWS[name](chosen.steps, chosen.profile)
    about = {
        "card": torch.cuda.get_device_name(),
        "cupy": backend.cupy().__version__,
        **report.machine(torch.get_num_threads()),
    }
    if chosen.json:
        saved = {"machine": about, "steps": chosen.steps, "rows": report.saved(found)}
        chosen.json.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    report.show(list(found.values()), about, chosen.markdown)
    started = [[row.title, name, f"{c['started']:.1f} s"] for row in found.values() for name, c in row.contenders.items()]
    report.table(["work", "contender", "from nothing to the third step"], started, chosen.markdown)


if __name__ == "__main__":
    main()
