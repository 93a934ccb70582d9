"""The one door to a model: what a person names, and everything that belongs to it. Each file is read once.

"nano" is the model that comes with tinylora; else it is a folder that tinylora wrote, or a folder, or a name, of Hugging
Face's.
"""

from __future__ import annotations

import functools
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from tinylora.formats import MissingFileError, shards, strict_json
from tinylora.models import hub, native, pretrained
from tinylora.models.config import ModelConfig
from tinylora.models.decoder import Decoder
from tinylora.models.names import Family
from tinylora.text.tokenizer import BYTES, TOKENIZER_FILES, FolderTokenizer, Tokenizer

NANO = Path(__file__).parent.parent / "assets" / "nano"


class ModelSource(ABC):
    """A model where it is stored. `name` is what it is known by: what was asked for, a folder's whole path.

    `adapter_format` is that of adapters which go with it: "peft" where Hugging Face's libraries can load the base.
    """

    name: str
    family: Family
    config: ModelConfig
    adapter_format: Literal["tinylora", "peft"]

    @staticmethod
    def open(name: str | Path) -> ModelSource:
        """Find a model and read its configuration. A name may be fetched from the hub, a Path never is.

        Raises LoadError or OSError that says what is missing, in one line.

        >>> ModelSource.open("nano").config.vocab_size
        257
        """
        if str(name) == "nano":
            return NativeSource("nano", NANO)
        folder = name if isinstance(name, Path) else hub.local(name)
        entries = _config(folder)
        asked = str(name) if not Path(name).exists() else str(Path(name).absolute())
        kind = HuggingFaceSource if "model_type" in entries else NativeSource
        return kind(asked, folder, entries)

    @abstractmethod
    def model(self) -> Decoder:
        """The model in float32 and evaluation mode, on the default device."""

    @abstractmethod
    def save_merged(self, model: Decoder, out: Path) -> None:
        """Write a whole model of this architecture, tokenizer included, in the format that this one is stored in."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer: ...

    @property
    def head_bias(self) -> bool:
        """Does the head of a classifier made from it have a bias? Hugging Face's have none."""
        return self.adapter_format == "tinylora"


class NativeSource(ModelSource):
    """A folder that tinylora wrote; its text is bytes."""

    adapter_format = "tinylora"

    def __init__(self, name: str, folder: Path, entries: dict[str, Any] | None = None) -> None:
        self.name, self.folder = name, folder
        self.family, self.config = native.read_config(entries or _config(folder), str(folder / "config.json"))

    def model(self) -> Decoder:
        return native.build(self.family, self.config, self.folder / "model.safetensors")

    def save_merged(self, model: Decoder, out: Path) -> None:
        native.save_model(model, out)

    @property
    def tokenizer(self) -> Tokenizer:
        return BYTES


class HuggingFaceSource(ModelSource):
    """A folder as transformers writes it."""

    adapter_format = "peft"

    def __init__(self, name: str, folder: Path, entries: dict[str, Any]) -> None:
        self.name, self.folder = name, folder
        where = str(folder / "config.json")
        self.family = pretrained.family_for(entries, where)
        self.config = self.family.config.read(entries, where)

    def model(self) -> Decoder:
        return pretrained.build(self.family, self.config, shards.Weights(self.folder), str(self.folder))

    def save_merged(self, model: Decoder, out: Path) -> None:
        model.save_pretrained(out)
        for file in (self.folder / part for part in (*TOKENIZER_FILES, "generation_config.json")):
            if file.is_file():
                shutil.copyfile(file, out / file.name)

    @functools.cached_property
    def generation(self) -> dict[str, Any]:
        """The entries of generation_config.json."""
        return strict_json.read_optional(self.folder / "generation_config.json")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return FolderTokenizer(self.folder, stop_tokens(self.generation.get("eos_token_id"), self.config.eos_token_id))


def stop_tokens(*given: Any) -> tuple[int, ...]:
    """All the tokens at which a text ends, of several entries that may hold none, one or a list."""
    found: list[int] = []
    for value in given:
        found += [i for i in (value if isinstance(value, list | tuple) else [value]) if type(i) is int and i >= 0]
    return tuple(dict.fromkeys(found))


def load_model(name: str | Path) -> Decoder:
    """The model that `name` means, in float32 and evaluation mode, on the default device: see ModelSource.

    >>> import tinylora
    >>> tinylora.load_model("nano").cfg.vocab_size
    257
    """
    return ModelSource.open(name).model()


def _config(folder: Path) -> dict[str, Any]:
    try:
        return strict_json.read(folder / "config.json")
    except MissingFileError as error:
        raise MissingFileError(f"{error}; a model is 'nano' or a folder that holds one") from None
