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
from tinylora.adapters import inspect_adapter
from tinylora.app import conversation, demo, terminal
from tinylora.formats import LoadError, MissingFileError
from tinylora.models.decoder import Decoder
from tinylora.models.names import preset
from tinylora.models.presets import PRESETS
from tinylora.models.source import ModelSource
from tinylora.runs import finetune as finetuning
from tinylora.runs.recipe import Recipe
from tinylora.runs.run import Run
from tinylora.runs.run_folder import adapter_file, check_output, load_language_model, save_merged
from tinylora.tasks import TASKS, Classify, Tag
from tinylora.tasks.columns import ColumnError
from tinylora.tasks.examples import IGNORE, Examples, Splits
from tinylora.text.generate import generate, pieces
from tinylora.text.perplexity import perplexity
from tinylora.text.sampling import Sampling


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
        model = preset(args.model) or _opened(args.model)
        demo.say_counts(demo.lecture_count(model, args.classes, args.rank, args.alpha), args.rank, args.alpha)
    terminal.counts(model)
    if args.tree:
        terminal.tree(model, args.model)


def _opened(name: str) -> Decoder:
    try:
        return ModelSource.open(Path(name)).model()
    except MissingFileError as error:
        raise LoadError(f"{error}; the presets are {', '.join(PRESETS)}") from None


def finetune(args: argparse.Namespace) -> None:
    """Fine-tune a model with LoRA on a file of examples."""
    out = args.out or Path("runs") / Path(args.data).stem
    if not Path(args.data).is_file():
        raise FileNotFoundError(f"{args.data}: no such file; DATA is a file of examples")
    options = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe) if hasattr(args, f.name)}
    options["targets"] = tuple(args.targets)
    reporter = terminal.Training()
    try:
        with reporter:
            run = finetuning.finetune(out=out, reporter=reporter, resume=args.resume, **options)
    except ColumnError as error:
        names = {"text": "--text-column", "label": "--label-column"}
        given = [f"{names[role]} {shlex.quote(name)}" for role, name in error.suggested.items()]
        raise UsageError(f"{error}: name it with {' '.join(given) or names[error.lacking] + ' NAME'}") from None
    except ValueError as error:
        if reporter.seen or isinstance(error, LoadError):
            raise
        raise UsageError(str(error)) from None  # the data or the options
    terminal.say()
    _say_written(run.folder)


def resume(args: argparse.Namespace) -> None:
    """Go on with a run that was interrupted, to the same bytes as if it had not been."""
    with terminal.Training() as reporter:
        run = finetuning.resume(args.folder, reporter)
    terminal.say()
    _say_written(run.folder)


def _say_written(folder: Path) -> None:
    terminal.say(f"written: {', '.join(sorted(str(path) for path in folder.iterdir()))}")


def predict(args: argparse.Namespace) -> None:
    """Print a run's answer to each text given, or to each line of standard input."""
    texts = [text for text in map(str.strip, args.text or sys.stdin) if text]
    if not texts:
        raise ValueError("no text: give some as arguments, or one a line on standard input")
    run = Run.load(args.adapter, args.model)
    if isinstance(run.task, Classify):
        for text, p in zip(texts, run.task.probabilities(run.model, texts), strict=True):
            print(f"{run.task.labels[int(p.argmax())]}\t{p.max():.4f}\t{text}")  # not by rich, which replaces tabs by spaces
    elif isinstance(run.task, Tag):
        for words in run.predict(texts):
            print("".join(f"{word}\t{tag}\n" for word, tag in words))
    else:
        for answer in run.predict(texts):
            print(answer)


def evaluate(args: argparse.Namespace) -> None:
    """Print how well a run, or a language model as it is, does on the examples in a file."""
    run = Run.untrained(args.adapter, args.task) if args.task else Run.load(args.adapter, args.model)
    examples = run.task.read(args.data, **_columns(args))
    terminal.say(f"{len(examples):,} examples")
    terminal.show_score(run.task.evaluate(run.model, examples))


def _columns(args: argparse.Namespace) -> dict[str, str]:
    given = {name: getattr(args, name) for name in ("text_column", "label_column")}
    return {name: column for name, column in given.items() if column is not None}


def generate_text(args: argparse.Namespace) -> None:
    """Continue a prompt."""
    model, source, _ = load_language_model(args.model, args.adapter)
    tokenizer = source.tokenizer
    text = args.prompt if args.given is None else args.given
    prompt = tokenizer.prompt(text)
    tokens = generate(model, prompt, args.tokens, _sampling(args), tokenizer.stop, args.seed)
    terminal.stream(itertools.chain([text], pieces(tokens, tokenizer.decode, prompt)))


def chat(args: argparse.Namespace) -> None:
    """Talk with a model: a line is a turn, Ctrl-C stops an answer, Ctrl-D ends."""
    model, source, _ = load_language_model(args.model, args.adapter, default="smollm2")
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
    model, source, _ = load_language_model(args.model)
    ids = source.tokenizer.prompt(text)[: args.tokens and args.tokens + 1]
    found = terminal.last_of(perplexity(model, ids, args.window), max(1, (len(ids) - 1) // args.window), "windows")
    size = len(source.tokenizer.decode(ids[1 : found.tokens + 1]).encode())
    terminal.say(f"perplexity {found.value:.3f} over {found.tokens:,} tokens")
    terminal.say(f"{found.bits_per_byte(size):.4f} bits per byte over {size:,} bytes")


def merge(args: argparse.Namespace) -> None:
    """Write base + adapter as one plain model folder."""
    usage(check_output, args.out)
    save_merged(args.adapter, args.out, args.model)
    _say_written(args.out)


def inspect(args: argparse.Namespace) -> None:
    """Print what is in an adapter, or how the examples in a file of data are read for a task."""
    if args.task is not None:
        inspect_data(args)
        return
    found = inspect_adapter(adapter_file(args.adapter))
    for key, value in found.config.items():
        if value not in (None, False, "", (), [], {}):
            terminal.say(f"{key:16} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    terminal.say(f"\n{found.lora:,} parameters of LoRA, {found.whole:,} of modules trained whole\n")
    terminal.changes(found.changes)


def inspect_data(args: argparse.Namespace, count: int = 3) -> None:
    """Print the first examples as the model reads them, what is trained in bold, or between brackets in a plain file."""
    kind = TASKS[args.task]
    examples = kind.read(args.adapter)
    source = ModelSource.open(args.model or "nano")
    parts = Splits(examples, Examples([]), Examples([]))
    task = kind.of(source, source.config.context_length, **kind.found_in(parts))
    terminal.say(f"{len(examples):,} examples")
    for note in examples.notes:
        terminal.say(note)
    for example in examples[:count]:
        for piece in task.encode(example)[:count]:
            terminal.heading(f"{len(piece.ids):,} tokens, {int((piece.targets != IGNORE).sum()):,} with a target")
            terminal.trained(task.marked(piece))
