"""The command line: `tinylora`, and `tinylora count | finetune | predict | generate | merge | inspect`.

Exit status: 0, or 2 for wrong usage, or 1 for a run that failed; then one line on standard error says why.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tinylora import backend
from tinylora.adapters import LoRAConfig, apply_lora, inspect_adapter, load_adapter
from tinylora.app import demo, terminal
from tinylora.models.names import preset
from tinylora.models.presets import PRESETS
from tinylora.models.source import ModelSource
from tinylora.runs.run_folder import adapter_file, check_output, load_classifier, read_about, save_merged, save_run
from tinylora.tasks.messages import read_messages, split
from tinylora.text.generate import generate, pieces
from tinylora.text.sampling import Sampling
from tinylora.training.loop import TrainConfig, evaluate, predict, train
from tinylora.training.recompute import checkpoint_modules


# ------------------------------------------------------------------------------------------- commands
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
    _usage(check_output, out)
    if not Path(args.data).is_file():
        raise FileNotFoundError(f"{args.data}: no such file; DATA is a .tsv, .csv or .jsonl file of labelled messages")
    messages = read_messages(args.data, args.text_column, args.label_column)
    parts = split(messages, args.seed)
    labels = sorted({m.label for m in messages})
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
    texts = args.text or [line.strip() for line in sys.stdin if line.strip()]
    if not texts:
        raise ValueError("no text: give some as arguments, or one a line on standard input")
    found = load_classifier(args.adapter, args.model)
    for text, p in zip(texts, predict(found.model, texts, tokenizer=found.source.tokenizer), strict=True):
        print(f"{found.labels[int(p.argmax())]}\t{p.max():.4f}\t{text}")  # by rich the tabs would be spaces


def generate_text(args: argparse.Namespace) -> None:
    """Continue a prompt."""
    source = ModelSource.open(args.model)
    model, tokenizer = source.model(), source.tokenizer
    if model.classifies:
        raise ValueError(f"{args.model} is a classifier: it has no scores for tokens to generate from")
    if args.adapter:
        adapter = adapter_file(args.adapter)
        load_adapter(model, adapter, lora_only=not {"labels", "classes"}.isdisjoint(read_about(adapter)))
        model.eval()
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.repetition_penalty)
    tokens = generate(model, tokenizer.prompt(args.prompt), args.tokens, sampling, tokenizer.stop, args.seed)
    terminal.stream(itertools.chain([args.prompt], pieces(tokens, tokenizer.decode)))


def merge(args: argparse.Namespace) -> None:
    """Write base + adapter as one plain model folder."""
    _usage(check_output, args.out)
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


# ------------------------------------------------------------------------------------------- arguments
class UsageError(Exception):
    """The command cannot be carried out as given: exit status 2."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _usage(check: Callable[..., Any], *args: Any) -> None:
    try:
        check(*args)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _number(kind: Callable[[str], Any], low: float, what: str, high: float = sys.float_info.max) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {what}, not {text!r}")
        return value

    return parse


positive = _number(int, 1, "a whole number of at least 1")
two_or_more = _number(int, 2, "a whole number of at least 2")
whole = _number(int, 0, "a whole number of at least 0")
not_negative = _number(float, 0, "a number of at least 0")
above_zero = _number(float, 1e-300, "a number above 0")
share = _number(float, 1e-300, "a number above 0 and at most 1", 1)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(prog="tinylora", description="LoRA fine-tuning from the inside. Alone: the main job.")
    top.set_defaults(run=lambda args: demo.run())
    commands = top.add_subparsers(title="commands")

    def command(name: str, run: Callable[[argparse.Namespace], None], **base: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("--device", choices=("cpu", "cuda"), help="default: TINYLORA_DEVICE, else cpu")
        if base:
            sub.add_argument("--model", metavar="nano|DIR|NAME", **base)
        return sub

    sub = command("count", count)
    sub.add_argument("--model", default="gpt2-small", metavar="PRESET|nano|DIR", help=", ".join(PRESETS))
    sub.add_argument("--classes", type=two_or_more, default=2)
    sub.add_argument("--rank", type=positive, default=16)
    sub.add_argument("--alpha", type=above_zero, default=16.0)
    sub.add_argument("--tree", action="store_true", help="print the whole model as a tree")

    sub = command("finetune", finetune, default="nano", help="the base model")
    sub.add_argument("data", metavar="DATA", help="TSV, CSV or JSONL with a label and a text column")
    sub.add_argument("--text-column", metavar="NAME")
    sub.add_argument("--label-column", metavar="NAME")
    sub.add_argument("--rank", type=positive, default=16)
    sub.add_argument("--alpha", type=above_zero, default=16.0, help="A B is multiplied by alpha / rank")
    sub.add_argument("--lr", type=above_zero, default=TrainConfig.lr)
    sub.add_argument("--epochs", type=positive, default=TrainConfig.epochs)
    sub.add_argument("--batch-size", type=positive, default=TrainConfig.batch_size)
    sub.add_argument("--seed", type=whole, default=TrainConfig.seed)
    sub.add_argument("--checkpoint", action="store_true", help="less memory, more time: compute activations again")
    sub.add_argument("--no-graph", dest="graph", action="store_false", help="on a GPU, no CUDA graphs")
    sub.add_argument("--out", type=Path, help="a new folder; default runs/NAME-OF-DATA")

    sub = command("predict", predict_texts, help="where the base model is now, if it moved")
    sub.add_argument("adapter", metavar="ADAPTER", help="a run's folder, an adapter file, or a merged model")
    sub.add_argument("text", metavar="TEXT", nargs="*", help="default: lines of standard input")

    sub = command("generate", generate_text, default="nano", help="the language model")
    sub.add_argument("--prompt", default="The ")
    sub.add_argument("--adapter", help="a run's folder or an adapter file; its head is left out")
    sub.add_argument("--tokens", type=positive, default=200)
    sub.add_argument("--temperature", type=not_negative, default=0.7)
    sub.add_argument("--top-k", type=positive, default=None)
    sub.add_argument("--top-p", type=share, default=None)
    sub.add_argument("--repetition-penalty", type=above_zero, default=1.0)
    sub.add_argument("--seed", type=whole, default=None)

    sub = command("merge", merge, help="where the base model is now, if it moved")
    sub.add_argument("adapter", metavar="ADAPTER", help="a run's folder or an adapter file")
    sub.add_argument("--out", type=Path, required=True, help="a new folder")
    sub = command("inspect", inspect)
    sub.add_argument("adapter", metavar="ADAPTER", help="a run's folder, an adapter file, or PEFT's folder")
    return top


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; texts to predict may stand behind an option, too, where argparse finds no place for them."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest and (not hasattr(args, "text") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.text += rest
    return args


def _one_line(error: BaseException) -> str:
    """The error's message; of a long list, the first entries."""
    first, *rest = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    more = f"; and {len(rest) - 4} more" if len(rest) > 4 else ""
    return f"{first} {'; '.join(rest[:4])}{more}".strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parsed(argv)
    try:
        if getattr(args, "device", None):
            backend.set_default_device(args.device)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"tinylora: warning: {message}", file=sys.stderr)
            args.run(args)
    except UsageError as error:
        print(f"tinylora: error: {error}", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, LookupError, OSError, ArithmeticError, MemoryError) as error:
        print(f"tinylora: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tinylora: interrupted", file=sys.stderr)
        return 130
    return 0
