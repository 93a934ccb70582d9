"""What a run was begun with: options, files by hash, versions; and how another request differs from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

import tinylora
from tinylora import backend
from tinylora.adapters.peft.config import WEIGHTS
from tinylora.formats import LoadError
from tinylora.kernels.cpu.threads import get_num_threads
from tinylora.runs.recipe import Recipe
from tinylora.runs.run_folder import ADAPTER, CONFIG

FILES = ("data", "valid", "test", "adapter")  # the fields of a Recipe that name files
NOT_COMPARED = {*FILES, "model", "save_every"}  # by hash; by absolute path; changes no result


def surroundings() -> dict[str, Any]:
    """Versions and the number of threads, with which rounding may change."""
    found = {"tinylora": tinylora.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"versions": found, "threads": get_num_threads()}


def files_of(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Absolute path and SHA-256 of each file of examples, and of the adapter to go on from."""
    given = {name: Path(path) for name in FILES if (path := getattr(recipe, name)) is not None}
    return {name: {"path": str(path.absolute()), "sha256": _digest(path)} for name, path in given.items()}


def _digest(path: Path) -> str:
    path = next((path / name for name in (ADAPTER, WEIGHTS) if (path / name).is_file()), path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_in(about: dict[str, Any], folder: Path) -> Recipe:
    """The Recipe in a run's config.json, with absolute paths. Raises LoadError if there is none."""
    try:
        noted = dict(about["recipe"])
        known = {field.name for field in dataclasses.fields(Recipe)}
        paths = {name: file["path"] for name, file in about["files"].items() if name in FILES}
        chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in noted.items() if k in known}
        return Recipe(**{**chosen, **paths, "model": about["model"]})
    except (KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{folder / CONFIG}: it does not say how the run was begun ({error!r})") from None


def differences(about: dict[str, Any], recipe: Recipe, files: dict[str, dict[str, str]]) -> list[str]:
    """What differs between a run's config.json and a request to go on with it, each in a few words."""
    default = {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING}
    now: dict[str, Any] = _json(dataclasses.asdict(recipe))
    then = _json(default) | about["recipe"]
    found = [_changed(k, then.get(k), now[k]) for k in now if k not in NOT_COMPARED and then.get(k) != now[k]]
    device = str(backend.default_device())
    for name, old, new in (("model", about["model"], recipe.base), ("device", about.get("device", device), device)):
        if old != new:
            found.append(_changed(name, old, new))
    for name in FILES:
        old_file, new_file = about["files"].get(name), files.get(name)
        if (old_file is None) != (new_file is None):
            found.append(_changed(name, old_file and old_file["path"], new_file and new_file["path"]))
        elif old_file and new_file and old_file["sha256"] != new_file["sha256"]:
            found.append(f"the content of {new_file['path']} is another one (by its SHA-256)")
    return found


def _json(value: Any) -> Any:
    """What stays of it in a file: lists for tuples."""
    return json.loads(json.dumps(value))


def _changed(name: str, old: Any, new: Any) -> str:
    return f"{name} was {_shown(old)}, is now {_shown(new)}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "not given" if value is None else str(value)
