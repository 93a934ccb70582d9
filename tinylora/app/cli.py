"""The command line: `tinylora` alone runs the demo; the commands are those of `parser`.

Exit status: 0, or 2 for wrong usage, or 1 for a run that failed, or 128 + the number of the signal that ended it; then one
line on standard error says why.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tinylora
from tinylora import backend
from tinylora.adapters.config import VARIANTS
from tinylora.app import commands, demo, terminal
from tinylora.app.commands import UsageError
from tinylora.models.presets import PRESETS
from tinylora.runs.lock import FolderError
from tinylora.runs.recipe import Recipe, interval
from tinylora.tasks import TASKS
from tinylora.training.schedule import DECAYS


# ------------------------------------------------------------------------------------------- arguments
class Formatter(argparse.HelpFormatter):
    """Appends defaults to help texts."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.option_strings and action.default not in (None, False, True, argparse.SUPPRESS)
        return f"{action.help or ''}{' (default: %(default)s)' if shown else ''}".strip()


class Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage; help shows defaults."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=Formatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


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


def every(text: str) -> str:
    try:
        interval(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(prog="tinylora", description="LoRA fine-tuning from the inside. Alone: the main job.")
    top.add_argument("--version", action="version", version=f"tinylora {tinylora.__version__}")
    top.set_defaults(run=lambda args: demo.run())
    subparsers = top.add_subparsers(title="commands")

    def command(name: str, run: Callable[[argparse.Namespace], None], **base: Any) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("--device", choices=("cpu", "cuda"), help="default: TINYLORA_DEVICE, else cpu")
        if base:
            sub.add_argument("--model", metavar="nano|smollm2|DIR|FILE|NAME", **base)
        return sub

    def sampling(sub: argparse.ArgumentParser, temperature: float, top_p: float | None, tokens: int) -> None:
        sub.add_argument("--adapter", help="a run's folder or an adapter file; a classifier's head is left out")
        sub.add_argument("--tokens", type=positive, default=tokens, help="at most")
        sub.add_argument("--temperature", type=not_negative, default=temperature)
        sub.add_argument("--top-k", type=positive, default=None)
        sub.add_argument("--top-p", type=share, default=top_p)
        sub.add_argument("--repetition-penalty", type=above_zero, default=1.0)
        sub.add_argument("--seed", type=whole, default=None)

    sub = command("count", commands.count)
    sub.add_argument("--model", default="gpt2-small", metavar="PRESET|nano|smollm2|DIR|FILE", help=", ".join(PRESETS))
    sub.add_argument("--classes", type=two_or_more, default=2)
    sub.add_argument("--rank", type=positive, default=16)
    sub.add_argument("--alpha", type=above_zero, default=16.0)
    sub.add_argument("--tree", action="store_true", help="print the whole model as a tree")

    finetune_options(command("finetune", commands.finetune, default="nano", help="the base model"))

    sub = command("resume", commands.resume)
    sub.add_argument("folder", metavar="RUN", help="a run's folder")

    sub = command("predict", commands.predict, help="where the base model is now, if it moved")
    sub.add_argument("adapter", metavar="RUN", help="a run's folder, an adapter file, or a merged model")
    sub.add_argument("text", metavar="TEXT", nargs="*", help="default: lines of standard input")

    sub = command("evaluate", commands.evaluate, help="where the base model is now, if it moved")
    sub.add_argument(
        "adapter", metavar="RUN", help="a run's folder, an adapter file, or a merged model; with --task a model"
    )
    sub.add_argument("data", metavar="DATA", help="a file of examples for the run's task")
    sub.add_argument("--task", choices=("chat", "text"), help="of a model that was not fine-tuned")
    sub.add_argument("--text-column", metavar="NAME")
    sub.add_argument("--label-column", metavar="NAME")

    sub = command("generate", commands.generate_text, default=None, help="default: the adapter's base, else nano")
    sub.add_argument("given", metavar="PROMPT", nargs="?", help='default: "The "')
    sub.add_argument("--prompt", default="The ", help=argparse.SUPPRESS)
    sampling(sub, temperature=0.7, top_p=None, tokens=200)

    sub = command("chat", commands.chat, default=None, help="default: the adapter's base, else smollm2")
    sub.add_argument("--system", metavar="TEXT", help="what the model is told about its role")
    sampling(sub, temperature=0.2, top_p=0.9, tokens=512)

    sub = command("perplexity", commands.perplexity_of, default="nano", help="a language model, or a run's folder")
    sub.add_argument("file", metavar="FILE", help="a text, gzipped or not")
    sub.add_argument("--window", type=positive, default=1024, help="tokens read at once")
    sub.add_argument("--tokens", type=positive, default=None, help="predict so many at most")

    sub = command("merge", commands.merge, help="where the base model is now, if it moved")
    sub.add_argument("adapter", metavar="ADAPTER", help="a run's folder or an adapter file")
    sub.add_argument("--out", type=Path, required=True, help="a new folder")
    sub = command("inspect", commands.inspect, help="with --task: the model that reads the data")
    sub.add_argument("adapter", metavar="RUN|DATA", help="a run's folder, an adapter file, PEFT's folder; or a file of data")
    sub.add_argument("--task", choices=tuple(TASKS), help="show how examples are read, and which tokens are trained")
    return top


def finetune_options(sub: argparse.ArgumentParser) -> None:
    """The options of `finetune`: the fields of Recipe."""
    sub.add_argument("data", metavar="DATA", help="TSV, CSV, JSONL, JSON, CoNLL or plain text")
    group = sub.add_argument_group("data")
    group.add_argument("--task", choices=tuple(TASKS), help="default: guessed from the file")
    group.add_argument("--valid", metavar="FILE", help="examples to choose the best epoch by; default: 10 %% of DATA")
    group.add_argument("--test", metavar="FILE", help="examples for the score at the end; default: 20 %% of DATA")
    group.add_argument("--text-column", metavar="NAME")
    group.add_argument("--label-column", metavar="NAME")
    group.add_argument(
        "--max-length", type=two_or_more, metavar="N", help="tokens of an example; default: what the model reads"
    )
    group.add_argument("--truncate", choices=("end", "beginning"), help="what is left out of a longer one; default: the end")
    group = sub.add_argument_group("LoRA")
    group.add_argument("--rank", type=positive, default=Recipe.rank, help="of A and B")
    group.add_argument("--alpha", type=above_zero, default=Recipe.alpha, help="A B is multiplied by alpha / rank")
    group.add_argument(
        "--targets", nargs="+", default=list(Recipe.targets), metavar="NAME", help="layers to put LoRA around"
    )
    group.add_argument("--dropout", type=not_negative, default=Recipe.dropout, help="of LoRA's input")
    group.add_argument("--variant", choices=tuple(VARIANTS), default=Recipe.variant, help="of LoRA")
    group.add_argument("--bits", type=int, choices=(8, 4), help="quantise the base: less memory")
    group.add_argument("--adapter", metavar="RUN", help="go on from a finished run's adapter")
    group = sub.add_argument_group("training")
    group.add_argument(
        "--epochs", type=positive, help="how often all examples are read; default: enough for small data, 2 for large"
    )
    group.add_argument("--lr", type=above_zero, default=Recipe.lr, help="the highest learning rate")
    group.add_argument("--batch-size", type=positive, default=Recipe.batch_size, metavar="N", help="examples in a batch")
    group.add_argument("--accumulate", type=positive, default=Recipe.accumulate, metavar="N", help="batches in a step")
    group.add_argument("--pack", action="store_true", help="several examples in a row instead of padding")
    group.add_argument("--schedule", choices=tuple(DECAYS), default=Recipe.schedule, help="of the learning rate")
    group.add_argument("--warmup", type=not_negative, default=Recipe.warmup, metavar="SHARE", help="of all steps")
    group.add_argument("--class-weights", action="store_true", default=None, help="all classes count the same")
    group.add_argument("--label-smoothing", type=not_negative, metavar="S", help="mix labels with S / classes of all others")
    group.add_argument("--once", dest="twice", action="store_false", default=None, help="tag: give each sentence once")
    group.add_argument("--patience", type=positive, metavar="N", help="stop after N validations without a better one")
    group.add_argument("--eval-every", type=positive, metavar="STEPS", help="default: after each epoch")
    group.add_argument("--seed", type=whole, default=Recipe.seed, help="the same seed gives the same bytes")
    group.add_argument("--checkpoint", action="store_true", help="less memory, more time: compute activations again")
    group.add_argument("--no-graph", dest="graph", action="store_false", help="on a GPU, no CUDA graphs")
    group = sub.add_argument_group("the run")
    group.add_argument("--out", type=Path, help="a new folder; default: runs/NAME-OF-DATA")
    group.add_argument(
        "--save-every", type=every, metavar="N|Ns", help="save in this many steps or seconds; default: after each epoch"
    )
    group.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments. Also accepts texts to predict after an option, where argparse would reject them."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest and (not hasattr(args, "text") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.text += rest
    return args


def _one_line(error: BaseException) -> str:
    """The error's message, with long lists shortened."""
    first, *rest = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    more = f"; and {len(rest) - 4} more" if len(rest) > 4 else ""
    return f"{first} {'; '.join(rest[:4])}{more}".strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    terminal.accept_any_encoding()
    args = _parsed(argv)
    try:
        if getattr(args, "device", None):
            backend.set_default_device(args.device)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"tinylora: warning: {message}", file=sys.stderr)
            args.run(args)
            if sys.stdout is not None:
                sys.stdout.flush()  # a closed pipe is noticed here, not when Python ends
    except (UsageError, FolderError) as error:
        print(f"tinylora: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        with terminal.output.silent_when_closed():
            raise
        return 128 + 13  # as a program that SIGPIPE ends
    except (ValueError, RuntimeError, LookupError, OSError, ArithmeticError, MemoryError) as error:
        print(f"tinylora: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"tinylora: {error or 'interrupted'}", file=sys.stderr)
        return 128 + getattr(error, "signal", signal.SIGINT)
    return 0
