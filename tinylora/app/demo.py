"""The demo, `tinylora` with no arguments: counts GPT-2's parameters, then fine-tunes the model in the box."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from tinylora import backend, nn
from tinylora.adapters import LoRAConfig, apply_lora, merge, unmerge
from tinylora.app import terminal
from tinylora.lora import freeze, lora_modules, replace_linear_with_lora
from tinylora.models.decoder import Decoder
from tinylora.models.gpt import GPTModel
from tinylora.models.source import NANO, ModelSource
from tinylora.runs.run_folder import ADAPTER, load_classifier, save_run
from tinylora.tasks.messages import class_names, read_messages, split
from tinylora.training.loop import TrainConfig, evaluate, predict, train

MESSAGES = NANO.parent / "messages.tsv"
OUT = Path("runs/demo")


def lecture_count(model: Decoder, classes: int, rank: int, alpha: float) -> list[int]:
    """Trainable parameters with a head of `classes`, after freezing, and with LoRA on every Linear. Changes `model`."""
    model.out_head = nn.Linear(model.cfg.emb_dim, classes)
    found = [model.summary().trainable]
    freeze(model)
    found.append(model.summary().trainable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lecture's rank 16 on a head of 2 outputs
        replace_linear_with_lora(model, rank, alpha)
    return [*found, model.summary().trainable]


def say_counts(found: list[int], rank: int, alpha: float) -> None:
    """The three lines of the lecture."""
    rows = zip(["as built", "frozen", f"LoRA on every Linear, rank {rank}, alpha {alpha:g}"], found, strict=True)
    terminal.table(["trainable parameters", ""], [[name, f"{n:,}"] for name, n in rows])


def run(seed: int = 0, out: Path = OUT) -> None:
    """Count, fine-tune, save, load, merge; print and check every step."""
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)  # fail early if it is not writable
    terminal.heading("1. The lecture: GPT-2 small with a 2-class head")
    with backend.device("meta"):
        gpt2 = GPTModel("gpt2-small")
        say_counts(lecture_count(gpt2, classes=2, rank=16, alpha=16), 16, 16)
    terminal.tree(gpt2.trf_blocks[0], "one block of 12")

    messages = read_messages(MESSAGES)
    terminal.heading(f"2. A foundation model in the box, and {len(messages)} messages: spam or ham?")
    parts = split(messages, seed)
    labels = class_names(messages)
    backend.manual_seed(seed)
    source = ModelSource.open("nano")
    model = source.model()
    model.set_classes(labels, bias=source.head_bias)
    config = LoRAConfig(rank=16, alpha=16.0, scaling="alpha/r", train=("out_head",))
    apply_lora(model, config)
    terminal.counts(model)
    before = evaluate(model, parts.test, labels)
    history: list[dict] = []
    with terminal.training(history) as report:
        plan = TrainConfig(epochs=3, lr=1e-3, batch_size=16, seed=seed)
        train(model, parts.train, parts.valid, labels, plan, report)
    after = evaluate(model, parts.test, labels)
    terminal.say(
        f"accuracy on {len(parts.test)} messages never seen: {before.accuracy:.1%} before, {after.accuracy:.1%} after"
    )
    count = model.summary()
    terminal.say(f"{count.trainable:,} of {count.total:,} parameters moved ({count.trainable / count.total:.1%})")

    terminal.heading("3. Only the change is stored")
    save_run(out, source, model, config, {"seed": seed}, history)
    adapter, base = (out / ADAPTER).stat().st_size, (NANO / "model.safetensors").stat().st_size
    terminal.say(f"{out / ADAPTER}: {adapter:,} bytes; the model: {base:,} bytes in float16, {2 * base:,} in float32")
    texts = [m.text for m in parts.test]
    expected = predict(model, texts)
    fresh = load_classifier(out).model
    _check("loaded into a fresh model: same predictions, bit for bit", (predict(fresh, texts) == expected).all())
    weights = [m.linear.weight.array for _, m in lora_modules(fresh)]
    merge(fresh)
    merged = predict(fresh, texts)
    same = (merged.argmax(1) == expected.argmax(1)).all()
    _check(f"merged: same predictions, probabilities within {abs(merged - expected).max():.0e}", same)
    unmerge(fresh)
    back = all(m.linear.weight.array is w for w, (_, m) in zip(weights, lora_modules(fresh), strict=True))
    _check("unmerged: the original weights are back, the same bytes", back)
    seconds = time.perf_counter() - begin
    terminal.say(f'\n{seconds:.0f} s.  Try: tinylora predict {out} "Your parcel is held, pay the fee at post.example"')


def _check(claim: str, holds: bool) -> None:
    if not holds:
        raise RuntimeError(f"this does not hold: {claim}")
    terminal.say(f"  ok  {claim}")
