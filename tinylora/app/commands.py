"""The commands of the command line, each a function of its parsed arguments."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import itertools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinylora import backend
from tinylora.adapters import LoRAConfig, apply_lora, inspect_adapter
from tinylora.app import conversation, demo, terminal
from tinylora.models.names import preset
from tinylora.models.source import ModelSource
from tinylora.runs.run_folder import adapter_file, check_output, load_classifier, load_language_model, save_merged, save_run
from tinylora.tasks.columns import ColumnError
from tinylora.tasks.messages import class_names, read_messages, split
from tinylora.text.generate import generate, pieces
from tinylora.text.perplexity import perplexity
from tinylora.text.sampling import Sampling
from tinylora.training.loop import TrainConfig, evaluate, predict, train
from tinylora.training.recompute import checkpoint_modules


class UsageError(Exception):
    """The command cannot be carried out as given: exit status 2."""


def usage(check: Callable[..., Any], *args: Any) -> None:
    """Call `check`, and turn a ValueError into a UsageError."""
    try:
        check(*args)
    except ValueError as error:
        raise UsageError(str(error)) from None


def count(args: argparse.Namespace) -> None:
    """Print the lecture's three numbers for a model, on the meta device."""
    with backend.device("meta"):
        model = preset(args.model) or ModelSource.open(Path(args.model)).model()
        demo.say_counts(demo.lecture_count(model, args.classes, args.rank, args.alpha), args.rank, args.alpha)
    terminal.counts(model)
    if args.tree:
        terminal.tree(model, args.model)


def finetune(args: argparse.Namespace) -> None:
    """Fine-tune a classifier with LoRA on a file of labelled messages."""
    out = args.out or Path("runs") / Path(args.data).stem
    usage(check_output, out)
    if not Path(args.data).is_file():
        raise FileNotFoundError(f"{args.data}: no such file; DATA is a .tsv, .csv or .jsonl file of labelled messages")
    try:
        messages = read_messages(args.data, args.text_column, args.label_column)
    except ColumnError as error:
        options = {"text": "--text-column", "label": "--label-column"}
        given = [f"{options[role]} {shlex.quote(name)}" for role, name in error.suggested.items()]
        raise ValueError(f"{error}: name it with {' '.join(given) or options[error.lacking] + ' NAME'}") from None
    parts = split(messages, args.seed)
    labels = class_names(itertools.chain(*parts))
    for note in messages.notes:
        terminal.say(f"{args.data}: {note}")
    backend.manual_seed(args.seed)
    source = ModelSource.open(args.model)
    model, tokenizer = source.model(), source.tokenizer
    model.set_classes(labels, bias=source.head_bias)
    lora = LoRAConfig(args.rank, args.alpha, train=("out_head",), scaling="alpha/r")
    apply_lora(model, lora)
    if args.checkpoint:
        checkpoint_modules(model.trf_blocks)
    sizes = [len(part) for part in parts]
    terminal.say(f"{sum(sizes):,} different messages of {len(messages):,}, in {len(labels)} classes: {', '.join(labels)}")
    terminal.say(f"{sizes[0]:,} to train on, {sizes[1]:,} to validate, {sizes[2]:,} to test")
    terminal.counts(model)
    config = TrainConfig(args.epochs, args.lr, args.batch_size, args.seed, graph=args.graph)
    history: list[dict[str, Any]] = []
    with terminal.training(history) as report:
        finished = train(model, parts.train, parts.valid, labels, config, report, tokenizer)
    found = evaluate(model, parts.test, labels, tokenizer)
    terminal.heading(f"On the {sizes[2]:,} held-out messages")
    terminal.metrics(found)
    about = {
        "data": str(args.data), "split": dict(zip(parts._fields, sizes, strict=True)),
        "lora": dataclasses.asdict(lora), "train": dataclasses.asdict(config), "finished": finished, "test": found.as_dict(),
    }  # fmt: skip
    save_run(out, source, model, lora, about, [*history, {"test": found.as_dict()}])
    terminal.say(f"\nwritten: {', '.join(sorted(str(path) for path in out.iterdir()))}")


def predict_texts(args: argparse.Namespace) -> None:
    """Print label, probability and text for each text given, or each line of standard input."""
    texts = [text for text in map(str.strip, args.text or sys.stdin) if text]
    if not texts:
        raise ValueError("no text: give some as arguments, or one a line on standard input")
    found = load_classifier(args.adapter, args.model)
    for text, p in zip(texts, predict(found.model, texts, tokenizer=found.source.tokenizer), strict=True):
        print(f"{found.labels[int(p.argmax())]}\t{p.max():.4f}\t{text}")  # not by rich, which replaces tabs by spaces


def generate_text(args: argparse.Namespace) -> None:
    """Continue a prompt."""
    model, source = load_language_model(args.model, args.adapter)
    tokenizer = source.tokenizer
    prompt = tokenizer.prompt(args.prompt)
    tokens = generate(model, prompt, args.tokens, _sampling(args), tokenizer.stop, args.seed)
    terminal.stream(itertools.chain([args.prompt], pieces(tokens, tokenizer.decode, prompt)))


def chat(args: argparse.Namespace) -> None:
    """Talk with a model: a line is a turn, Ctrl-C stops an answer, Ctrl-D ends."""
    model, source = load_language_model(args.model, args.adapter, default="smollm2")
    talk = conversation.Conversation(model, source, _sampling(args), args.system, args.tokens, args.seed)
    conversation.run(talk)


def _sampling(args: argparse.Namespace) -> Sampling:
    return Sampling(args.temperature, args.top_k, args.top_p, args.repetition_penalty)


def perplexity_of(args: argparse.Namespace) -> None:
    """Print how well a language model predicts a text file, plain or gzipped."""
    content = Path(args.file).read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{args.file}: not UTF-8, at byte {error.start}") from None
    model, source = load_language_model(args.model)
    ids = source.tokenizer.prompt(text)[: args.tokens and args.tokens + 1]
    found = terminal.last_of(perplexity(model, ids, args.window), max(1, (len(ids) - 1) // args.window), "windows")
    size = len(source.tokenizer.decode(ids[1 : found.tokens + 1]).encode())
    terminal.say(f"perplexity {found.value:.3f} over {found.tokens:,} tokens")
    terminal.say(f"{found.bits_per_byte(size):.4f} bits per byte over {size:,} bytes")


def merge(args: argparse.Namespace) -> None:
    """Write base + adapter as one plain model folder."""
    usage(check_output, args.out)
    save_merged(args.adapter, args.out, args.model)
    terminal.say(f"written: {', '.join(sorted(str(path) for path in args.out.iterdir()))}")


def inspect(args: argparse.Namespace) -> None:
    """Print an adapter's configuration, counts, and the spectrum of every layer's change."""
    found = inspect_adapter(adapter_file(args.adapter))
    for key, value in found.config.items():
        if value not in (None, False, "", (), [], {}):
            terminal.say(f"{key:16} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    terminal.say(f"\n{found.lora:,} parameters of LoRA, {found.whole:,} of modules trained whole\n")
    terminal.changes(found.changes)
