"""torch.utils: `data`, which makes batches of examples, and `checkpoint`."""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from tinylora.training import recompute as checkpoint
    from tinylora.utils import data


def __getattr__(name: str) -> typing.Any:
    """Both are imported at their first use."""
    if name == "data":
        return importlib.import_module("tinylora.utils.data")
    if name == "checkpoint":
        return importlib.import_module("tinylora.training.recompute")
    raise AttributeError(f"module 'tinylora.utils' has no attribute {name!r}")
