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

from tinylora import backend
from tinylora.app import commands, demo, terminal
from tinylora.app.commands import UsageError
from tinylora.models.presets import PRESETS
from tinylora.runs.lock import FolderError
from tinylora.runs.recipe import Recipe


# ------------------------------------------------------------------------------------------- arguments
class Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage."""

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


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(prog="tinylora", description="LoRA fine-tuning from the inside. Alone: the main job.")
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

    sub = command("finetune", commands.finetune, default="nano", help="the base model")
    sub.add_argument("data", metavar="DATA", help="TSV, CSV or JSONL with a label and a text column")
    sub.add_argument("--text-column", metavar="NAME")
    sub.add_argument("--label-column", metavar="NAME")
    sub.add_argument("--rank", type=positive, default=Recipe.rank)
    sub.add_argument("--alpha", type=above_zero, default=Recipe.alpha, help="A B is multiplied by alpha / rank")
    sub.add_argument("--lr", type=above_zero, default=Recipe.lr)
    sub.add_argument("--epochs", type=positive, default=Recipe.epochs)
    sub.add_argument("--batch-size", type=positive, default=Recipe.batch_size)
    sub.add_argument("--seed", type=whole, default=Recipe.seed)
    sub.add_argument("--checkpoint", action="store_true", help="less memory, more time: compute activations again")
    sub.add_argument("--no-graph", dest="graph", action="store_false", help="on a GPU, no CUDA graphs")
    sub.add_argument("--out", type=Path, help="a new folder; default runs/NAME-OF-DATA")
    sub.add_argument("--save-every", metavar="N|Ns", help="save in this many steps or seconds; default: after each epoch")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")

    sub = command("resume", commands.resume)
    sub.add_argument("folder", metavar="RUN", help="a run's folder")

    sub = command("predict", commands.predict_texts, help="where the base model is now, if it moved")
    sub.add_argument("adapter", metavar="ADAPTER", help="a run's folder, an adapter file, or a merged model")
    sub.add_argument("text", metavar="TEXT", nargs="*", help="default: lines of standard input")

    sub = command("generate", commands.generate_text, default=None, help="default: the adapter's base, else nano")
    sub.add_argument("--prompt", default="The ")
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
    sub = command("inspect", commands.inspect)
    sub.add_argument("adapter", metavar="ADAPTER", help="a run's folder, an adapter file, or PEFT's folder")
    return top


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
    args = _parsed(argv)
    try:
        if getattr(args, "device", None):
            backend.set_default_device(args.device)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"tinylora: warning: {message}", file=sys.stderr)
            args.run(args)
            sys.stdout.flush()  # a closed pipe is noticed here, not when Python ends
    except (UsageError, FolderError) as error:
        print(f"tinylora: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        with terminal.closed_output_is_silent():
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
