"""docs/pytorch.md lists every name of PyTorch's that is here, and no other."""

import importlib

import pytest
from names_page import MODULES, PAGE, current, listed

from tinylora.torch_api.as_torch import has


def test_the_lists_are_current():
    text = PAGE.read_text(encoding="utf-8")
    assert text == current(text), "run python tests/names_page.py"


def test_every_listed_name_is_here():
    lists = listed(PAGE.read_text(encoding="utf-8"))
    assert list(lists) == list(MODULES)
    assert not [f"{path}.{name}" for path, names in lists.items() for name in names if not has(f"{path}.{name}")]


def test_every_listed_name_is_one_of_pytorchs():
    torch = pytest.importorskip("torch")

    def holder(path):
        return torch.Tensor if path == "torch.Tensor" else importlib.import_module(path)

    lists = listed(PAGE.read_text(encoding="utf-8"))
    assert not [f"{path}.{name}" for path, names in lists.items() for name in names if not hasattr(holder(path), name)]
