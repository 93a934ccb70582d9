"""Downloads models from the Hugging Face hub into its cache. The only module that uses the network."""

from __future__ import annotations

import re
from pathlib import Path

FILES = (
    "config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer.json", "vocab.json", "merges.txt",
    "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
)  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def local(model: str) -> Path:
    """The folder of a model: a path as it is, or the cached download of a hub name.

    What exists as a path, or looks like one (`./x`, `runs/x` beside a folder `runs`), is never looked up on the hub.
    """
    beside = "/" in model and Path(model).parent.exists()
    if Path(model).exists() or beside or not NAME.fullmatch(model):
        return Path(model)
    return fetch(model)


def fetch(name: str) -> Path:
    """The folder of the model `name`, downloaded unless it is in the cache. Raises OSError that says why in one line."""
    try:
        import huggingface_hub
    except ImportError:
        raise OSError(
            f"{name}: no such folder, and to fetch a model of that name needs: pip install 'tinylora[hf]'"
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        reason = f"the Hugging Face hub cannot be reached: is there a network? ({_first_line(error)})"
    except Exception as error:  # the exceptions come from several libraries
        reason = f"the Hugging Face hub does not give it ({_first_line(error)})"
    raise OSError(f"{name}: no such folder, and {reason}")


def name_of(folder: Path) -> str | None:
    """The name on the hub of a folder in its cache that holds the newest version fetched, `.../models--A--B/snapshots/C`."""
    model = folder.absolute().parent.parent
    if folder.absolute().parent.name != "snapshots" or not model.name.startswith("models--"):
        return None
    try:
        newest = (model / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return model.name.removeprefix("models--").replace("--", "/", 1) if newest == folder.absolute().name else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
