"""Converts Hugging Face's `config.json` to a ModelConfig and back; entries that change the computation are never ignored.

Each family describes its entries in a ConfigTable; what is common to all families is here.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinylora.formats import LoadError
from tinylora.models.config import ModelConfig, check_choice, check_flag, check_number, check_size, checked_entries

Check = Callable[[str, Any], None]
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")

# entries that change the computation, with the values that tinylora supports
ONLY: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,), "is_decoder": (False, True), "is_encoder_decoder": (False,), "pruned_heads": ({}, None),
    "quantization_config": (None,), "auto_map": (None,), "problem_type": (None, "single_label_classification"),
    "chunk_size_feed_forward": (0,), "cross_attention_hidden_size": (None,), "tie_encoder_decoder": (False,),
}  # fmt: skip
WITHOUT_EFFECT = frozenset(
    """initializer_range use_cache architectures model_type num_labels id2label label2id dtype torch_dtype
    transformers_version name_or_path _name_or_path task_specific_params output_hidden_states output_attentions return_dict
    use_return_dict finetuning_task torchscript use_bfloat16 attn_implementation _attn_implementation_autoset _commit_hash
    tokenizer_class prefix sep_token_id decoder_start_token_id gradient_checkpointing base_model_tp_plan
    base_model_pp_plan""".split()
)


@dataclass(frozen=True)
class Entry:
    """An entry of config.json: its name in our ModelConfig, its default, and a check of its value."""

    ours: str
    default: Any
    check: Check


def size(ours: str, default: int) -> Entry:
    return Entry(ours, default, check_size)


def optional_size(ours: str) -> Entry:
    """A size that may be None, in which case it follows from others."""
    return Entry(ours, None, lambda name, value: None if value is None else check_size(name, value))


def number(ours: str, default: float) -> Entry:
    return Entry(ours, default, check_number)


def share(ours: str, default: float) -> Entry:
    """A probability below 1."""

    def check(name: str, value: Any) -> None:
        check_number(name, value)
        if value >= 1:
            raise ValueError(f"{name} must be below 1, not {value}")

    return Entry(ours, default, check)


def flag(ours: str, default: bool) -> Entry:
    return Entry(ours, default, check_flag)


def choice(ours: str, default: str, known: Any) -> Entry:
    return Entry(ours, default, lambda name, value: check_choice(name, value, known))


@dataclass(frozen=True)
class ConfigTable:
    """How a family's config.json is read and written.

    architectures: by model_type, the class names of the language model, the classifier and the base model. entries: by their
    names in config.json. defaults: by model_type, defaults that differ from those in `entries`. other_names: second names of
    entries. only: entries that change the computation, with the supported values; others are refused. without_effect:
    entries that are ignored silently. adjust(config.json, our entries) returns our entries, where they depend on several of
    theirs; restore(our configuration, config.json) is its inverse for writing.
    """

    config: type[ModelConfig]
    architectures: dict[str, tuple[str, str, str]]
    entries: dict[str, Entry]
    defaults: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    other_names: dict[str, str] = dataclasses.field(default_factory=dict)
    only: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    adjust: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda theirs, ours: ours
    restore: Callable[[Any, dict[str, Any]], dict[str, Any]] = lambda cfg, config: config

    def __post_init__(self) -> None:
        checked_entries(
            self.config,
            {entry.ours: None for entry in self.entries.values()},
            f"the ConfigTable of {self.config.__name__}",
            partly=True,
        )

    @property
    def model_types(self) -> tuple[str, ...]:
        return tuple(self.architectures)

    def known(self) -> set[str]:
        """The names of all entries that are read, refused or known to have no effect."""
        return {
            *self.entries,
            *TOKENS,
            "tie_word_embeddings",
            *self.other_names,
            *self.only,
            *ONLY,
            *self.without_effect,
            *WITHOUT_EFFECT,
        }

    def check(self, name: str, entry: str, value: Any) -> None:
        """Raise ValueError, which calls the entry `name`, unless it may have this value."""
        if entry in self.entries:
            self.entries[entry].check(name, value)

    def read(self, config: Mapping[str, Any], where: str) -> ModelConfig:
        """The ModelConfig of a config.json. Raises LoadError, whose message begins with `where`."""
        try:
            return self._read(config, where)
        except LoadError:
            raise
        except ValueError as error:
            raise LoadError(f"{where}: {error}") from None

    def _read(self, config: Mapping[str, Any], where: str) -> ModelConfig:
        for other, name in self.other_names.items():
            if other in config and config.get(name, config[other]) != config[other]:
                raise ValueError(f"{other} and {name} are one entry, and here they differ")
        kind = config.get("model_type", self.model_types[0])
        given = {self.other_names.get(key, key): value for key, value in config.items()}
        unknown = sorted(given.keys() - self.known())
        for name in unknown:
            if (near := self._nearest(name)) and near not in given and self.entries[near].check is check_size:
                raise ValueError(f"{name} is not known, and {near} is absent: did you mean {near}?")
        theirs = {"model_type": kind, **self.defaults.get(kind, {}), **given}
        self._refuse(theirs)
        ours: dict[str, Any] = {}
        for name, entry in self.entries.items():
            value = theirs.get(name, entry.default)
            entry.check(name, value)
            ours[entry.ours] = value
        labels = self._labels(theirs)
        tied = theirs.get("tie_word_embeddings", False)
        check_flag("tie_word_embeddings", tied)
        ours |= {"labels": labels, "tie_head": tied and not labels}
        for name in TOKENS:
            value = theirs.get(name)
            value = None if value == -1 else value  # Llama 1's way to say that there is none
            ours[name] = tuple(value) if isinstance(value, list) else value
        ours = self.adjust(theirs, ours)
        if unknown:
            warnings.warn(f"{where}: unknown and ignored: {', '.join(map(self._with_nearest, unknown))}", stacklevel=4)
        return self.config(**checked_entries(self.config, ours, f"what the ConfigTable of {self.config.__name__} reads"))

    def _nearest(self, name: str) -> str | None:
        return next(iter(difflib.get_close_matches(name, self.entries, n=1, cutoff=0.8)), None)

    def _with_nearest(self, name: str) -> str:
        near = self._nearest(name)
        return f"{name} (did you mean {near}?)" if near else name

    def write(self, cfg: ModelConfig, tied: bool, labels: tuple[str, ...]) -> dict[str, Any]:
        """The config.json of a model with this configuration; with `labels`, of a classifier."""
        kind = getattr(cfg, "model_type", self.model_types[0])
        check_choice("model_type", kind, self.model_types)
        config: dict[str, Any] = {"architectures": [self.architectures[kind][bool(labels)]], "model_type": kind}
        config |= {theirs: getattr(cfg, entry.ours) for theirs, entry in self.entries.items()}
        if labels:  # a classifier's head is never tied
            tied = self.defaults.get(kind, {}).get("tie_word_embeddings", False)
        config |= {"dtype": "float32", "tie_word_embeddings": tied}
        for name in TOKENS:
            value = getattr(cfg, name)
            config[name] = list(value) if isinstance(value, tuple) else value
        if labels:
            config |= {"id2label": {str(i): name for i, name in enumerate(labels)}}
            config |= {"label2id": {name: i for i, name in enumerate(labels)}}
            if config["pad_token_id"] is None:  # transformers needs one for batches of several messages
                ends = cfg.eos_token_id
                config["pad_token_id"] = next(iter(ends), None) if isinstance(ends, tuple) else ends
        return self.restore(cfg, config)

    def _refuse(self, config: Mapping[str, Any]) -> None:
        for name, allowed in {**ONLY, **self.only}.items():
            if name in config and config[name] not in allowed:
                raise ValueError(f"{name} is {str(config[name])[:60]}, and tinylora computes it as {allowed[0]} alone")
        architectures = config.get("architectures") or []
        for name in architectures if isinstance(architectures, list) else [architectures]:
            if name not in (known := self.architectures[config["model_type"]]):
                raise ValueError(f"architecture {name!r}; known are {', '.join(known)}")

    def _labels(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """A classifier's class names in order; empty for a language model."""
        if self.architectures[config["model_type"]][1] not in (config.get("architectures") or ()):
            return ()
        count = config.get("num_labels", 2)
        named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count if type(count) is int else 0)}
        labels: list[Any] = [named.get(str(i)) for i in range(len(named))] if isinstance(named, dict) else []
        if "num_labels" in config and count != len(labels):
            raise ValueError(f"num_labels is {count!r}, and id2label has {len(labels)}")
        if len(labels) == 1:
            raise ValueError("num_labels is 1, a regression; tinylora classifies")
        if len(labels) < 2 or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
            raise ValueError(f"id2label must map 0, 1, .. to two different names or more, not {str(named)[:60]}")
        return tuple(labels)
