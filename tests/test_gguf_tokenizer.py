"""The tokenizer out of a GGUF file's own entries: each family's, token for token, and what is wrong with an entry."""

import functools
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from gguf_files import smollm2
from hypothesis import given
from hypothesis import strategies as st

from tinylora.formats import LoadError
from tinylora.formats.gguf import GGUF
from tinylora.text.gguf_tokenizer import FAMILIES, GGUFTokenizer
from tinylora.text.tokenizer import FolderTokenizer

DATA = Path(os.environ.get("TINYLORA_DATA") or Path(__file__).parents[2] / "shared" / "data")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MIXED = st.lists(st.sampled_from([*"aAſ'sSrREe  \n\r\t1२½.!…é🙂_", "'ll", "123", "\u0301"]), max_size=30).map("".join)


def bytes_as_text():
    """The 256 characters that stand for bytes in byte-level BPE: the printable ones themselves, or the next free."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def entries(pre="smollm", **changes):
    """A vocabulary of the bytes, some merges, a control token and one that a user has defined."""
    merges = ["a b", "Ġ a", "Ġ Ġ", "Ġ 1", "1 2", "12 3", "e r", "' s", "ĠĠ ĠĠ", "Ċ Ċ"]
    tokens = [*bytes_as_text(), *(merge.replace(" ", "") for merge in merges), "whole", "<|end|>", "<think>", "[PAD]"]
    given = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "merges": merges,
        "token_type": np.array([1] * (len(tokens) - 3) + [3, 4, 5], "i4"), "eos_token_id": len(tokens) - 3,
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": found for name, found in (given | changes).items() if found is not None}


def made(pre="smollm", **changes):
    pytest.importorskip("tokenizers")
    return GGUFTokenizer(entries(pre, **changes), "x.gguf")


def pieces(found, text):
    return [found.decode([i]) for i in found.tokens(text)]


@functools.cache
def of_family(pre):
    return made(pre)


@pytest.mark.parametrize("pre", FAMILIES)
@given(text=TEXTS | MIXED)
def test_text_comes_back(pre, text):
    expected = unicodedata.normalize("NFC", text) if pre == "qwen2" else text  # as Qwen's own tokenizer does
    assert of_family(pre).decode(of_family(pre).tokens(text)) == expected


@pytest.mark.parametrize(
    "pre, expected",
    [
        ("gpt-2", ["a", "  ", " 1", "2"]), ("smollm", ["a", "  ", " ", "1", "2"]),
        ("llama-bpe", ["a", "  ", " ", "12"]), ("qwen2", ["a", "  ", " ", "1", "2"]),
    ],
)  # fmt: skip
def test_a_family_cuts_numbers_and_spaces_its_own_way(pre, expected):
    assert pieces(made(pre), "a   12") == expected


def test_a_word_that_is_a_token_is_found_without_merges_by_llama_3_alone():
    assert pieces(made("llama-bpe"), "whole") == ["whole"] and pieces(made("qwen2"), "whole") == list("whole")


def test_special_tokens_are_found_in_text_and_left_out_of_it():
    found = made()
    n = len(found)
    assert found.tokens("ab<|end|>ab<think>") == [256, n - 3, 256, n - 2]
    assert found.decode([256, n - 3, n - 2]) == "ab<think>"  # a control token is no text
    assert found.tokens("[PAD]") == [bytes_as_text().index(c) for c in "[PAD]"]  # a token that is not used
    assert (n, found.id_of("<|end|>"), found.id_of("<|start|>")) == (256 + 10 + 4, n - 3, None)
    assert (found.stop, found.pad, found.eos_token, found.bos_token) == ((n - 3,), n - 3, "<|end|>", "")


def test_a_message_begins_and_ends_as_the_file_says(tmp_path):
    n = len(made())
    both = made(add_bos_token=True, add_eos_token=True, bos_token_id=n - 2, padding_token_id=n - 1, eot_token_id=5)
    assert both.encode("ab", 9).tolist() == [n - 2, 256, n - 3] and both.encode("abab", 3).tolist() == [n - 2, 256, n - 3]
    assert both.encode("ab", 2).tolist() == [n - 2, n - 3]  # what is added is never cut
    both.save(tmp_path / "tokenizer.json")
    assert FolderTokenizer(tmp_path).encode("ab", 9).tolist() == [n - 2, 256, n - 3]
    assert both.prompt("ab") == [n - 2, 256] and both.prompt("") == [n - 2] and both.tokens("") == []
    assert (both.stop, both.pad, both.bos) == ((n - 3, 5), n - 1, n - 2)
    assert made("llama-bpe", bos_token_id=n - 2).prompt("ab") == [n - 2, 256]  # which Llama 3 does unless told not to
    assert made("llama-bpe", bos_token_id=n - 2, add_bos_token=False).prompt("ab") == [256]
    assert made().prompt("ab") == [256] and made().prompt("") == made().encode("", 9).tolist() == [n - 3]
    assert made("gpt-2", add_space_prefix=True).decode(made("gpt-2", add_space_prefix=True).tokens("ab")) == " ab"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "llama"}, "model is 'llama'; known are gpt2"), ({"model": None}, "model is missing; known are gpt2"),
        ({"pre": "tekken"}, "pre is 'tekken'; known are gpt-2, smollm, llama-bpe, llama3, llama-v3, qwen2"),
        ({"pre": None}, "pre is missing; known are"), ({"pre": 3}, "pre is '3'"),
        ({"tokens": None}, "tokens is missing"), ({"tokens": ["a", 3]}, "is no list of texts"),
        ({"merges": None}, "merges is missing"), ({"merges": ["a b c"]}, "merges has 'a b c', which does not join"),
        ({"merges": ["ab"]}, "merges has 'ab', which"), ({"merges": ["a c"]}, "merges has 'a c', which"),
        ({"merges": ["who le"]}, "merges does not fit the tokens"),
        ({"tokens": ["a", "b", "a"]}, "tokens has 'a' twice"),
        ({"token_type": np.ones(3, "i4")}, "has not one number for each"),
        ({"token_type": ["x"]}, "has not one number for each"),
        ({"eos_token_id": 10**6}, "eos_token_id is '1000000', and there"),
        ({"bos_token_id": True}, "bos_token_id is 'True'"), ({"padding_token_id": -1}, "padding_token_id is '-1'"),
        ({"add_bos_token": 1}, "add_bos_token is a bool, not '1'"),
        ({"add_bos_token": True}, "bos_token_id is missing, and add_bos_token asks for it"),
        ({"add_space_prefix": True}, "add_space_prefix is true, which is not known with 'smollm'"),
    ],
)  # fmt: skip
def test_every_fault_is_named(changes, message):
    with pytest.raises(LoadError) as error:
        made(**changes)
    assert str(error.value).startswith("x.gguf: tokenizer.ggml.") and message in str(error.value)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RuntimeError, match=r"x\.gguf has a tokenizer, which needs a library: pip install 'tinylora\[hf\]'"):
        GGUFTokenizer(entries(), "x.gguf")


# ------------------------------------------------------------------------------------------------ others' as oracles
@functools.cache
def of_transformers(pre):
    qwen2 = pytest.importorskip("transformers.models.qwen2.tokenization_qwen2")
    found = entries(pre)
    vocabulary = {token: i for i, token in enumerate(found["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split()) for merge in found["tokenizer.ggml.merges"]]
    return qwen2.Qwen2Tokenizer(vocabulary, merges, unk_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>")


@given(MIXED | TEXTS)
def test_qwen_2_cuts_text_as_transformers_does(text):
    assert of_family("qwen2").tokens(text) == of_transformers("qwen2")(text)["input_ids"]


@given(MIXED | TEXTS)
def test_llama_3_cuts_text_where_transformers_does(text):
    tokenizers = pytest.importorskip("tokenizers")
    converter = pytest.importorskip("transformers.convert_slow_tokenizer").TikTokenConverter()
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(converter.pattern), behavior="isolated")
    ours = of_family("llama-bpe")._tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [where for _, where in ours] == [where for _, where in split.pre_tokenize_str(text)]


@functools.cache
def gpt2():
    pytest.importorskip("tokenizers")
    if not (DATA / "gpt2_bpe").is_dir():
        pytest.skip(f"GPT-2's vocabulary is not at {DATA / 'gpt2_bpe'}: set TINYLORA_DATA")
    folder = FolderTokenizer(DATA / "gpt2_bpe", (50256,))
    merges = [
        line for line in (DATA / "gpt2_bpe" / "merges.txt").read_text().splitlines() if not line.startswith("#version")
    ]
    tokens = [folder._tokenizer.id_to_token(i) for i in range(len(folder))]
    kinds = np.array([1] * 50256 + [3], "i4")
    return folder, made("gpt-2", tokens=tokens, merges=merges, token_type=kinds, eos_token_id=50256)


@given(TEXTS | MIXED)
def test_gpt_2_is_the_folders_tokenizer(text):
    folder, ours = gpt2()
    assert ours.prompt(text + "<|endoftext|>") == folder.prompt(text + "<|endoftext|>")


@functools.cache
def of_smollm2():
    pytest.importorskip("tokenizers")
    file = GGUF(smollm2())
    return file, GGUFTokenizer(file.metadata, str(file.path))


@given(TEXTS)
def test_smollm2_gives_text_back_of_the_bytes_that_it_has(text):
    """Its vocabulary lacks 21 of the 256, among them control characters: they are left out."""
    _, ours = of_smollm2()
    lacking = {byte for byte, name in enumerate(bytes_as_text()) if ours.id_of(name) is None}
    assert len(lacking) == 21
    assert ours.decode(ours.tokens(text)) == bytes(b for b in text.encode() if b not in lacking).decode(errors="replace")


def test_smollm2_has_the_tokens_of_its_embedding_and_knows_its_turns():
    file, ours = of_smollm2()
    assert len(ours) == file.shapes["token_embd.weight"][0] == 49152
    assert (ours.bos, ours.eos, ours.unk, ours.pad, ours.stop) == (1, 2, 0, 2, (2,))
    assert ours.tokens("<|im_start|>user\nHi<|im_end|>\n") == [1, 4093, 198, 26843, 2, 198]
    assert ours.prompt("a  12")[-2:] == ours.tokens("1") + ours.tokens("2")


@functools.cache
def smollm2_of_transformers():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    return transformers.AutoTokenizer.from_pretrained(smollm2().parent, gguf_file=smollm2().name)


@given(st.text(st.characters(exclude_categories=["Cs", "Nd", "Nl", "No"]), max_size=40))
def test_smollm2_without_numbers_is_that_of_transformers(text):
    """Which reads the file as GPT-2's, without the rule for digits."""
    _, ours = of_smollm2()
    assert ours.tokens(text) == smollm2_of_transformers()(text)["input_ids"]
