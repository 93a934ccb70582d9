"""Builds the tokenizer of a Hugging Face folder from its files, by the rules of transformers 5.

Some classes of transformers do not use the rules in tokenizer.json but their own, with its vocabulary. Then tokens are added
in this order: `added_tokens_decoder` of tokenizer_config.json (else added_tokens.json and those of tokenizer.json), the
named special tokens, and the extra ones. A token that is not in the vocabulary gets the next id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinylora.formats import LoadError, strict_json

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
END_OF_TEXT = "<|endoftext|>"
DEFAULTS: dict[str, dict[str, str | None]] = {
    "GPT2Tokenizer": {"unk_token": END_OF_TEXT, "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT},
    "Qwen2Tokenizer": {"unk_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
}
OF_MODEL = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "mistral": "as stored"}
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Built(NamedTuple):
    """A tokenizer of the library `tokenizers`, and how texts are cut: to `max_length` tokens, on the "right" or "left"."""

    tokenizer: Any
    max_length: int | None
    truncation_side: str


def build(folder: Path) -> Built:
    """The tokenizer of `folder`. Raises LoadError if files are missing or broken, RuntimeError without the library."""
    stored, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not stored.is_file() and not (vocab.is_file() and merges.is_file()):
        raise LoadError(f"{folder}: no tokenizer.json, nor vocab.json and merges.txt")
    try:
        import tokenizers
    except ImportError:
        raise RuntimeError(f"{folder} has a tokenizer, which needs a library: pip install 'tinylora[hf]'") from None
    about = strict_json.read_optional(folder / "tokenizer_config.json")
    try:
        entries = json.loads(stored.read_bytes()) if stored.is_file() else None
        kind = _class_of(folder, about, entries)
        if entries is not None and kind == "as stored":
            made = tokenizers.Tokenizer.from_file(str(stored))
        elif entries is not None:
            made = _made(tokenizers, kind, entries["model"]["vocab"], _pairs(entries["model"]["merges"]), about)
            made.post_processor = _without_vocabulary(tokenizers, entries).post_processor
        else:
            kind = "GPT2Tokenizer" if kind == "as stored" else kind
            made = _made(tokenizers, kind, *tokenizers.models.BPE.read_file(str(vocab), str(merges)), about)
        _add_tokens(made, folder, kind, about, entries)
    except LoadError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise LoadError(f"{folder}: its tokenizer is not readable ({error})") from None
    side = about.get("truncation_side", (made.truncation or {}).get("direction", "right"))
    if side not in ("left", "right"):
        raise LoadError(f"{folder / 'tokenizer_config.json'}: truncation_side is {side!r}, not 'left' or 'right'")
    limit = about.get("model_max_length", about.get("max_len"))
    return Built(made, int(limit) if isinstance(limit, int | float) and 0 < limit < 1e18 else None, side)


def _class_of(folder: Path, about: dict[str, Any], entries: dict[str, Any] | None) -> str:
    """The class of transformers that has rules of its own, or "as stored" for one that keeps those of tokenizer.json."""
    config = strict_json.read_optional(folder / "config.json")
    model = str(config.get("model_type"))
    named = str(about.get("tokenizer_class") or config.get("tokenizer_class") or "").removesuffix("Fast")
    usual = OF_MODEL.get(model)
    if named == "LlamaTokenizer" and model not in ("mistral", "qwen2") and '"ByteLevel"' in json.dumps(entries):
        return "as stored"
    if not named or usual == "as stored" or (model == "qwen2" and named != usual):
        named = usual or ""
    return named if named in DEFAULTS else "as stored"


def _made(
    tokenizers: Any, kind: str, vocab: dict[str, int], merges: Sequence[tuple[str, ...]], about: dict[str, Any]
) -> Any:
    """The vocabulary with the rules of a class: how text is normalised, split and put together."""
    space = about.get("add_prefix_space")
    llama, models, splitters, decoders = (
        kind == "LlamaTokenizer",
        tokenizers.models,
        tokenizers.pre_tokenizers,
        tokenizers.decoders,
    )
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, fuse_unk=llama, byte_fallback=llama))
    made.decoder = decoders.ByteLevel()
    if kind == "GPT2Tokenizer":
        made.pre_tokenizer = splitters.ByteLevel(add_prefix_space=bool(space))
    elif kind == "Qwen2Tokenizer":
        made.normalizer = tokenizers.normalizers.NFC()
        words = splitters.Split(tokenizers.Regex(QWEN2_WORDS), behavior="isolated", invert=False)
        made.pre_tokenizer = splitters.Sequence([words, splitters.ByteLevel(add_prefix_space=bool(space), use_regex=False)])
    else:
        scheme = "never" if space is False else "always" if about.get("legacy") else "first"
        made.pre_tokenizer = splitters.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence([*parts, *([] if space is False else [decoders.Strip(content=" ", left=1)])])
    return made


def _pairs(merges: list[Any]) -> list[tuple[str, ...]]:
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def _without_vocabulary(tokenizers: Any, entries: dict[str, Any]) -> Any:
    """The rules of a tokenizer.json, read without its tokens."""
    model = {**entries["model"], "vocab": {}, "merges": []}
    return tokenizers.Tokenizer.from_str(json.dumps({**entries, "model": model, "added_tokens": []}))


# --------------------------------------------------------------------------------------- added tokens
def _add_tokens(made: Any, folder: Path, kind: str, about: dict[str, Any], entries: dict[str, Any] | None) -> None:
    """Add the tokens that the files beside the vocabulary name, and what begins and ends a text.

    Raises LoadError if a file gives one an id that is not the one it gets.
    """
    about = {**DEFAULTS.get(kind, {}), **about}
    stated = _stated_tokens(folder, about, entries)
    by_text = {token.content: token for _, token, _ in stated}
    extra = about.get("extra_special_tokens") or about.get("additional_special_tokens") or []
    named = {name: about.get(name) for name in NAMED}
    named |= {name: value for name, value in about.items() if name.endswith("_token") and isinstance(value, str | dict)}
    if isinstance(extra, dict):
        named, extra = {**named, **extra}, []
    special = {name: _token(value, by_text) for name, value in named.items() if value is not None}
    added = [token for _, token, _ in sorted(stated, key=lambda entry: entry[0])]
    known = {token.content for token in (*made.get_added_tokens_decoder().values(), *added)}
    for token in (*special.values(), *(_token(value, by_text) for value in extra)):
        if token.content not in known:
            added.append(token)
            known.add(token.content)
    for token in added:
        token.special = token.special or token.content in {one.content for one in special.values()}
    if kind == "Qwen2Tokenizer":
        added += [_token(_text(value), {}) for value in (*named.values(), *extra) if value is not None]
    made.add_tokens(added)
    for number, token, file in stated:
        if (found := made.token_to_id(token.content)) != number:
            raise LoadError(
                f"{folder / file}: {token.content!r} has the id {number}, and is number {found} in the vocabulary"
            )
    if about.get("split_special_tokens") is True:
        made.encode_special_tokens = True
    if entries is None:
        ends = [special.get(f"{end}_token") if about.get(f"add_{end}_token") is True else None for end in ("bos", "eos")]
        surround(made, *([] if token is None else [token.content] for token in ends))


def _stated_tokens(folder: Path, about: dict[str, Any], entries: dict[str, Any] | None) -> list[tuple[int, Any, str]]:
    """Tokens whose ids are stated: the id, the token, the file. Older folders state them in several files, and more special
    tokens in special_tokens_map.json, which are put into `about`."""
    if isinstance(decoder := about.get("added_tokens_decoder"), dict):
        return [(int(number), _token(token, {}), "tokenizer_config.json") for number, token in decoder.items()]
    for name, value in strict_json.read_optional(folder / "special_tokens_map.json").items():
        about[name] = {**value, "special": True} if isinstance(value, dict) and "content" in value else value
    extra = about.get("extra_special_tokens") or about.get("additional_special_tokens") or []
    names = {_text(about.get(name)) for name in NAMED} | {_text(token) for token in extra}
    found = {}
    for text, number in strict_json.read_optional(folder / "added_tokens.json").items():
        token = _token({"content": text, "normalized": text not in names, "special": text in names}, {})
        found[number] = (number, token, "added_tokens.json")
    for token in (entries or {}).get("added_tokens", ()):
        found[token["id"]] = (token["id"], _token(token, {}), "tokenizer.json")
    return list(found.values())


def _token(value: Any, known: dict[str, Any]) -> Any:
    """A token from its text, which then is special, or from an object with its properties; the known one of that text."""
    import tokenizers

    text = _text(value)
    if text in known:
        return known[text]
    if isinstance(value, str):
        return tokenizers.AddedToken(value, special=True)
    flags = {name: value[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special") if name in value}
    return tokenizers.AddedToken(text, **flags)


def _text(value: Any) -> str:
    """The text of a special token, which is a string or an object that contains it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def surround(made: Any, before: list[str], after: list[str]) -> None:
    """Put these tokens before and after every text."""
    import tokenizers

    ids = [(token, made.token_to_id(token)) for token in dict.fromkeys(before + after)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)
