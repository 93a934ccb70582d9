"""`import torch` means tinylora, in this process: the import hook behind `python -m tinylora.as_torch script.py`.

Each module of torch is stood in for by a module whose names are looked up in the module of tinylora that has the same path:
`torch.nn.functional.gelu` is `tinylora.nn.functional.gelu`. A name that is not there is an error that says where it was
asked for, and what is nearest to it.
"""

from __future__ import annotations

import difflib
import dis
import importlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = __name__.partition(".")[0]  # "tinylora"
FOLLOWED = "2.13.0+tinylora"  # what torch.__version__ says
# Files of PyTorch's that programs import from, whose names are those of the package that they are in.
FILES = re.compile(
    r"^torch\.(nn|optim|utils\.data|nn\.utils)\.(modules(\.[a-z]\w*)?|parameter|rnn|clip_grad|optimizer|adamw?|sgd|dataloader|dataset|sampler)(?=\.|$)"
)
IMPORT_FROM = dis.opmap["IMPORT_FROM"]


@dataclass(frozen=True)
class Missing:
    """A name of torch that was asked for and is not here: "torch.fft", asked for at file:line."""

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        near = nearest(self.name)
        file = os.path.relpath(self.file) if Path(self.file).is_absolute() else self.file
        return f"{file}:{self.line}: tinylora has no {self.name}" + (f"; the nearest name is {near}" if near else "")


missing: list[Missing] = []  # in the order in which they were asked for


# ------------------------------------------------------------------------------------------- looking up
def find(name: str) -> Any:
    """What "torch.nn.Linear" is here. Raises AttributeError or ImportError if it is nothing."""
    name = FILES.sub(r"torch.\1", name)
    parts = name.split(".")
    found: Any = importlib.import_module(HERE)
    for i, part in enumerate(parts[1:], 1):
        try:
            found = special(".".join(parts[: i + 1])) or getattr(found, part)
        except AttributeError:
            if not isinstance(found, types.ModuleType) or part.startswith("_"):
                raise
            found = importlib.import_module(f"{found.__name__}.{part}")
    return found


def special(name: str) -> Any:
    """torch.Tensor, which is a constructor too, and the version of PyTorch that is followed; None for other names."""
    if name == "torch.Tensor":
        return importlib.import_module(f"{HERE}.torch_api.legacy").AnyTensor
    return FOLLOWED if name == "torch.__version__" else None


def has(name: str) -> bool:
    """Is there a name of torch here?"""
    try:
        find(name)
    except (AttributeError, ImportError):
        return False
    return True


def nearest(name: str) -> str | None:
    """The existing name that is most like a missing one, in the same module, or of the same spelling in another."""
    path, _, last = name.rpartition(".")
    while path and not has(path):
        path, _, last = path.rpartition(".")
    inside = names_in(path) if path else []
    close = difflib.get_close_matches(last, inside, 1, 0.75)
    if close:
        return f"{path}.{close[0]}"
    for elsewhere in ("torch", "torch.nn.functional", "torch.nn", "torch.Tensor", "torch.optim.lr_scheduler"):
        if elsewhere != path and last in names_in(elsewhere):
            return f"{elsewhere}.{last}"
    return None


def names_in(path: str) -> list[str]:
    """The public names of a module or class of torch that are here."""
    return [n for n in dir(find(path)) if not n.startswith("_")]


# ------------------------------------------------------------------------------------ the modules of torch
class StandIn(types.ModuleType):
    """A module of torch, such as torch.nn, whose names are those of a module of tinylora."""

    def __init__(self, name: str, ours: types.ModuleType) -> None:
        super().__init__(name, ours.__doc__)
        self.__dict__.update(_ours=ours, __path__=[], __file__=getattr(ours, "__file__", None))

    def __getattr__(self, name: str) -> Any:
        path = f"{self.__name__}.{name}"
        try:
            found = special(path) or getattr(self._ours, name)
        except AttributeError:
            if name.startswith("__"):
                raise
            raise self._error(path, sys._getframe(1)) from None
        if isinstance(found, types.ModuleType) and found.__name__.startswith(HERE):
            return importlib.import_module(path)
        if callable(found) or isinstance(found, np.dtype):
            self.__dict__[name] = found  # found without this function the next time
        return found

    def _error(self, path: str, frame: types.FrameType) -> Exception:
        gone = Missing(path, frame.f_code.co_filename, frame.f_lineno)
        if not gone.file.startswith("<frozen"):  # the import system asks first, and `from torch import name` then
            missing.append(gone)
        if frame.f_code.co_code[frame.f_lasti] == IMPORT_FROM:
            return ImportError(str(gone), name=self.__name__)
        return AttributeError(str(gone), name=path.rpartition(".")[2], obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, StandIn) and not name.startswith("__"):
            setattr(self._ours, name, value)
        if name.startswith("__") or name in self.__dict__:
            super().__setattr__(name, value)

    def __dir__(self) -> Sequence[str]:
        return dir(self._ours)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torch and all modules below it, and nothing else."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "torch":
            return None
        try:
            found = find(fullname)
        except (AttributeError, ImportError):
            found = None
        if isinstance(found, types.ModuleType):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            if frame.f_code.co_name == "_handle_fromlist":
                return None  # `from torch import name`, where the name need not be a module
            frame = frame.f_back
        gone = Missing(fullname, frame.f_code.co_filename if frame else "?", frame.f_lineno if frame else 0)
        missing.append(gone)
        raise ModuleNotFoundError(str(gone), name=fullname)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> StandIn:
        return StandIn(spec.name, find(spec.name))

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: names are looked up when they are asked for."""


_finder = Finder()


def install() -> None:
    """From now on `import torch` imports tinylora, in this process.

    Raises RuntimeError if PyTorch has been imported: what has imported it would go on using it.
    """
    if _finder in sys.meta_path:
        return
    if "torch" in sys.modules:
        raise RuntimeError("PyTorch is imported already: call tinylora.as_torch.install() before anything imports torch")
    sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undo `install()`: the next `import torch` imports PyTorch. Names imported before stay what they are."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
            del sys.modules[name]
    missing.clear()
