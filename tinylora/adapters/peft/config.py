"""Reads `adapter_config.json` of Hugging Face PEFT, and resolves which modules it targets.

Every entry is supported, has no effect on the computation, or is refused by name. Module names are those of the Hugging
Face model ("transformer.h.0.attn.c_attn"); load.py maps them to ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinylora.formats import LoadError, strict_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA = re.compile(r"(?P<module>.+)\.lora_(?:(?P<ab>[AB])\.weight|embedding_(?P<embedding>[AB])|magnitude_vector)")

# entries that do not change the computation; nothing they name is imported or opened
WITHOUT_EFFECT = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode peft_version task_type fan_in_fan_out megatron_core
    loftq_config eva_config qalora_group_size runtime_config""".split()
)
# initialisations that leave the base unchanged; PiSSA, OLoRA, LoftQ and others change it
INITS = (True, False, "gaussian", "eva", "orthogonal")
REPEATS, OPTIONS = re.compile(r"(?<!\\)[*+{]"), re.compile(r"(?<![\\(*+?}])\?")
WORDS = re.compile(r"\((?:\?:)?(\w+(?:\|\w+)*)\)")  # a group of alternative words
TRIES = 2**21  # limits matching to a few seconds for all names of GPT-2 small


@dataclass(frozen=True)
class PeftConfig:
    """The entries of an `adapter_config.json`, by PEFT's names."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...] | str = ()
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: dict[str, Any] = field(default_factory=dict)
    alpha_pattern: dict[str, Any] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    bias: str = "none"
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    task_type: str | None = None
    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] = ()
    ensure_weight_tying: bool = False

    def rank(self, module: str) -> int:
        """The rank at a module: that of the first pattern in rank_pattern that matches its name, else r."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """The factor of B A at a module: alpha / r, or alpha / √r with rsLoRA."""
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def saves(self, module: str) -> bool:
        """Whether this module is trained and stored whole."""
        owners = [module.rsplit(".", i)[0] for i in range(module.count(".") + 1)]
        return any(owner.endswith(name) for owner in owners for name in self.modules_to_save)

    def targets(self, modules: dict[str, str]) -> list[str]:
        """The names of those `modules` (name -> kind, see models/names.py) that get LoRA.

        Raises LoadError if there is none, or if one is neither a linear layer nor an embedding.
        """
        if isinstance(self.target_modules, str) and self.target_modules.lower() == "all-linear":
            heads = ("lm_head", "score") if self.task_type == "SEQ_CLS" else ("lm_head",)
            linear = [name for name, kind in modules.items() if kind == "linear" and name not in heads]
            chosen = [name for name in linear if not self._left_out(name)]
        else:
            chosen = [name for name in modules if not self._left_out(name) and self._targeted(name)]
        for name in chosen:
            if modules[name] not in ("linear", "embedding"):
                raise LoadError(f"target_modules names {name}, which is neither a linear layer nor an embedding")
        if not chosen:
            raise LoadError(f"target_modules {str(self.target_modules)[:80]} names no module of this model")
        return chosen

    def _left_out(self, module: str) -> bool:
        excluded = self.exclude_modules
        if re.fullmatch(excluded, module) if isinstance(excluded, str) else _named(module, excluded):
            return True
        return any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save)

    def _targeted(self, module: str) -> bool:
        if isinstance(self.target_modules, str):
            return re.fullmatch(self.target_modules, module) is not None
        if module in self.target_modules or not _named(module, self.target_modules):
            return module in self.target_modules
        if self.layers_to_transform is None:
            return True
        patterns = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in self.layers_pattern] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        found = next(filter(None, (re.match(pattern, module) for pattern in patterns)), None)
        return found is not None and int(found["idx"]) in self.layers_to_transform


def _named(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern(patterns: dict[str, Any], module: str) -> str:
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), module)


# -------------------------------------------------------------------------------------------- reading
def read_config(folder: Path) -> PeftConfig:
    """The configuration in `folder`. Raises LoadError that names an unsupported entry."""
    path = folder / CONFIG
    found = strict_json.read(path)
    try:
        return _parsed(found)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None


def _parsed(found: dict[str, Any]) -> PeftConfig:
    if found.get("peft_type") != "LORA":
        raise LoadError(f"peft_type is {found.get('peft_type')!r}, and tinylora reads LORA")
    if found.get("init_lora_weights", True) not in INITS:
        raise LoadError(
            f"init_lora_weights is {found['init_lora_weights']!r}: it may change the base; convert it to plain LoRA"
        )
    known = PeftConfig.__dataclass_fields__.keys() | WITHOUT_EFFECT | {"peft_type", "init_lora_weights"}
    for name in found.keys() - known:
        if found[name] not in (None, False, [], {}):  # unknown entries are accepted only if they are off
            raise LoadError(f"{name} is {str(found[name])[:60]!r}, which tinylora does not know how to honour")
    if found.get("bias", "none") not in ("none", "all", "lora_only"):
        raise LoadError(f"bias is none, all or lora_only, not {found['bias']!r}")
    layers, targets = found.get("layers_to_transform"), found.get("target_modules")
    if isinstance(targets, str) and (layers is not None or found.get("layers_pattern")):
        raise LoadError("layers_to_transform and layers_pattern go with a list of target_modules, not with a pattern")
    if not targets:
        raise LoadError("target_modules is missing")
    return PeftConfig(
        r=_rank(found.get("r", 8), "r"),
        lora_alpha=_finite(found.get("lora_alpha", 8), "lora_alpha"),
        target_modules=_names(targets, "target_modules", pattern=True),
        exclude_modules=_names(found.get("exclude_modules"), "exclude_modules", pattern=True),
        layers_to_transform=_layers(layers),
        layers_pattern=_patterns(found.get("layers_pattern"), "layers_pattern"),
        rank_pattern={p: _rank(r, p) for p, r in _table(found.get("rank_pattern"), "rank_pattern").items()},
        alpha_pattern={p: _finite(a, p) for p, a in _table(found.get("alpha_pattern"), "alpha_pattern").items()},
        modules_to_save=_patterns(found.get("modules_to_save"), "modules_to_save"),
        bias=found.get("bias", "none"),
        lora_dropout=_dropout(found.get("lora_dropout", 0.0)),
        use_rslora=_flag(found.get("use_rslora", False), "use_rslora"),
        use_dora=_flag(found.get("use_dora", False), "use_dora"),
        task_type=found.get("task_type"),
        trainable_token_indices=_tokens(found.get("trainable_token_indices")),
        ensure_weight_tying=_flag(found.get("ensure_weight_tying", False), "ensure_weight_tying"),
    )


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value < 2**20:
        raise LoadError(f"{name} must be a rank, an integer of at least 1, not {str(value)[:40]!r}")
    return value


def _finite(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise LoadError(f"{name} must be a number, not {str(value)[:40]!r}")
    return value


def _dropout(value: Any) -> float:
    if not 0 <= _finite(value, "lora_dropout") < 1:
        raise LoadError(f"lora_dropout must be at least 0 and below 1, not {value!r}")
    return float(value)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise LoadError(f"{name} must be true or false, not {str(value)[:40]!r}")
    return value


def _layers(value: Any) -> tuple[int, ...] | None:
    found = [value] if type(value) is int else value or None
    if found is not None and (not isinstance(found, list) or not all(type(i) is int for i in found)):
        raise LoadError(f"layers_to_transform must be numbers of layers, not {str(value)[:40]!r}")
    return tuple(found) if found else None


def _tokens(value: Any) -> Any:
    """Numbers of tokens, or these by the name of an embedding."""
    if isinstance(value, dict) and len(value) == 1:
        return {name: _tokens(tokens) for name, tokens in value.items()}
    if value is not None and (not isinstance(value, list) or not all(type(i) is int and i >= 0 for i in value)):
        raise LoadError(f"trainable_token_indices must be numbers of tokens of one embedding, not {str(value)[:40]!r}")
    return tuple(value or ())


def _names(value: Any, name: str, pattern: bool = False) -> Any:
    if pattern and isinstance(value, str):
        return value if value.lower() == "all-linear" else _safe(value, name)
    if value is not None and (not isinstance(value, list) or not all(isinstance(n, str) and n for n in value)):
        raise LoadError(f"{name} must be a list of names, not {str(value)[:40]!r}")
    return tuple(value or ())


def _patterns(value: Any, name: str) -> tuple[str, ...]:
    names = _names([value] if isinstance(value, str) and value else value or None, name)
    return tuple(_safe(p, name, tries=1) for p in names)  # PEFT adds repeats around these patterns


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise LoadError(f"{name} must map patterns to numbers, not {str(value)[:40]!r}")
    if sum(map(_tries, value or {})) > TRIES + len(value or {}):
        raise LoadError(f"{name}: its patterns together have too many repeats and alternatives")
    return {_safe(p, name): number for p, number in (value or {}).items()}


def _safe(pattern: str, name: str, tries: int = TRIES) -> str:
    """The pattern, if it is sure to match in reasonable time: no repeated group, few repeats and alternatives."""
    if re.search(r"\)[*+{]", pattern) or _tries(pattern) > tries:
        raise LoadError(f"{name}: the pattern {pattern[:60]!r} has a repeated group, or too many repeats and alternatives")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise LoadError(f"{name}: {pattern[:60]!r} is no regular expression ({error})") from None
    return pattern


def _exclusive(words: list[str]) -> bool:
    """Whether at most one of these words stands at any place of a text: then trying all of them costs no backtracking."""
    return not any(other.startswith(word) for i, word in enumerate(words) for other in words[:i] + words[i + 1 :])


def _tries(pattern: str) -> int:
    """A rough bound on the backtracking for one name: the product of repeats, options and alternatives."""
    if len(pattern) > 1000:
        return 2 * TRIES
    shorter = WORDS.sub(lambda group: "x" if _exclusive(group[1].split("|")) else group[0], pattern)
    if shorter != pattern:
        return _tries(shorter)
    alternatives = math.prod(part.count("|") + 1 for part in pattern.split("("))
    return 16 ** len(REPEATS.findall(pattern)) * 2 ** len(OPTIONS.findall(pattern)) * alternatives
