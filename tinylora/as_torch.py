"""Runs a program written for PyTorch on tinylora: `python -m tinylora.as_torch [--report] script.py [arguments]`."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from types import TracebackType

from tinylora.torch_api.as_torch import install as install
from tinylora.torch_api.as_torch import missing
from tinylora.torch_api.as_torch import uninstall as uninstall
from tinylora.torch_api.as_torch_report import report

USAGE = """usage: python -m tinylora.as_torch [--report] script.py [arguments ..]
       python -m tinylora.as_torch [--report] -m module [arguments ..]

Runs a program with `import torch` meaning tinylora. --report lists the names of torch that its files mention instead."""


def main(arguments: list[str]) -> int:
    """Run the program that the arguments name. Returns its exit status."""
    only_report = arguments[:1] == ["--report"]
    arguments = arguments[only_report:]
    as_module = arguments[:1] == ["-m"]
    arguments = arguments[as_module:]
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    name = arguments[0]
    folder = Path.cwd() if as_module else Path(name).resolve().parent
    file = folder / (name.replace(".", "/") + ".py") if as_module else Path(name)
    if not as_module and not file.is_file():
        print(f"{name}: no such file", file=sys.stderr)
        return 2
    if only_report:
        text, complete = report(file)
        print(text)
        return 0 if complete else 1
    return run(name, as_module, folder, arguments)


def run(name: str, as_module: bool, folder: Path, arguments: list[str]) -> int:
    """Run a file or module with `import torch` meaning tinylora. If it fails, say which names of torch were not there."""
    sys.argv = arguments
    sys.path[0] = str(folder)
    install()
    try:
        if as_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except Exception as error:
        traceback.print_exception(error.with_traceback(_of_the_program(error.__traceback__)))
        if missing:
            print("\nNames of torch that it asked for and tinylora does not have (--report lists all):", file=sys.stderr)
            for gone in dict.fromkeys(map(str, missing)):
                print(f"  {gone}", file=sys.stderr)
        return 1
    return 0


def _of_the_program(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that started the program."""
    here = (__file__, "<frozen runpy>")
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in here:
        trace = trace.tb_next
    return trace


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
