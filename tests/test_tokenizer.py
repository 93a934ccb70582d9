"""Tokens of a folder: GPT-2's own, bit for bit, from either pair of files; and the bytes of the boxed model."""

import functools
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylora.formats import LoadError
from tinylora.models.gpt import GPTModel
from tinylora.models.source import ModelSource
from tinylora.text.tokenizer import BYTES, END, FolderTokenizer

DATA = Path(os.environ.get("TINYLORA_DATA") or Path(__file__).parents[2] / "shared" / "data")
BPE = DATA / "gpt2_bpe"
TINY = {
    "vocab_size": 11, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0, "qkv_bias": True,
}  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def small(folder, **changes):
    """A tokenizer.json of four characters and two merges, in `folder`."""
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5, "<|endoftext|>": 6}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [("a", "b"), ("ab", "c")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    for name, value in changes.items():
        getattr(made, name)(**value)
    made.save(str(folder / "tokenizer.json"))


def test_a_folder_is_read_cut_and_never_empty(tmp_path):
    small(tmp_path, enable_truncation={"max_length": 2}, enable_padding={"length": 9})  # neither is what is asked for here
    found = FolderTokenizer(tmp_path, (6,))
    assert found.encode("abc ab b", 99).tolist() == [5, 3, 4, 3, 1]
    assert found.encode("abc ab b", 3).tolist() == [5, 3, 4]
    assert found.encode("ab\udcff", 9).tolist() == [4]  # half a surrogate pair is "?", which this vocabulary lacks
    assert found.encode("", 9).tolist() == found.prompt("") == [6]
    assert found.decode([5, 3, 4, 6]) == "abc ab" and (found.pad, found.stop) == (6, (6,))
    assert FolderTokenizer(tmp_path, [6, 2]).stop == (6, 2)
    assert (FolderTokenizer(tmp_path).pad, FolderTokenizer(tmp_path).stop) == (0, ())


def test_which_tokenizer_a_model_has(tmp_path):
    assert ModelSource.open("nano").tokenizer is BYTES
    GPTModel({**TINY, "eos_token_id": 6}).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"no tokenizer\.json, nor vocab\.json and merges\.txt"):
        ModelSource.open(tmp_path).tokenizer
    small(tmp_path)
    assert ModelSource.open(tmp_path).tokenizer.stop == (6,)


def test_files_that_are_broken_or_a_library_that_is_missing_are_named(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(RuntimeError, match=r"needs a library: pip install 'tinylora\[hf\]'"):
            FolderTokenizer(tmp_path)
    pytest.importorskip("tokenizers")
    with pytest.raises(LoadError, match="its tokenizer is not readable"):
        FolderTokenizer(tmp_path)


# ------------------------------------------------------------------------------------------------ GPT-2's own
needs_bpe = pytest.mark.skipif(not BPE.is_dir(), reason=f"GPT-2's vocabulary is not at {BPE}: set TINYLORA_DATA")


@functools.cache
def ours():
    pytest.importorskip("tokenizers")
    return FolderTokenizer(BPE, (50256,))


@functools.cache
def theirs():
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2TokenizerFast.from_pretrained(BPE)


@needs_bpe
def test_tokens_that_are_known():
    assert ours().prompt("Hello, world!") == [15496, 11, 995, 0]
    assert ours().prompt("<|endoftext|>") == ours().prompt("") == [50256]
    assert ours().decode([15496, 11, 995, 0, 50256]) == "Hello, world!"


@needs_bpe
@given(TEXTS.filter(bool))
def test_text_comes_back(text):
    assert ours().decode(ours().prompt(text)) == text.encode("utf-8", "replace").decode()


@needs_bpe
@given(TEXTS.filter(bool))
def test_it_is_the_tokenizer_of_transformers(text):
    assert ours().prompt(text) == theirs()(text)["input_ids"]


@needs_bpe
def test_tokenizer_json_gives_the_same(tmp_path):
    theirs().save_pretrained(tmp_path)
    text = "It's 3 o'clock — naïve café 🙂\n\n  <|endoftext|>end"
    assert (tmp_path / "tokenizer.json").is_file()
    assert FolderTokenizer(tmp_path, (50256,)).prompt(text) == ours().prompt(text) == theirs()(text)["input_ids"]


@needs_bpe
def test_beside_vocab_and_merges_other_files_have_a_say(tmp_path):
    transformers = pytest.importorskip("transformers")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(BPE / name, tmp_path / name)
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 50257, "[USER]": 50258}')
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true, "tokenizer_class": "GPT2Tokenizer"}')
    found, text = FolderTokenizer(tmp_path), "Hello [USER] world[PAD]"
    assert found.prompt(text)[0] == 18435 and found.prompt("[PAD][USER]")[-2:] == [50257, 50258]
    assert found.decode(found.prompt("Hello")) == " Hello"
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path, add_prefix_space=True)
    assert found.prompt("Hello world") == theirs("Hello world")["input_ids"]
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 50300}')
    with pytest.raises(LoadError, match=r"added_tokens\.json: '\[PAD\]' has the id 50300, and is number 50257"):
        FolderTokenizer(tmp_path)


@given(TEXTS)
def test_bytes_begin_and_end_a_message_and_begin_a_prompt(text):
    whole = text.encode("utf-8", "replace")
    assert BYTES.encode(text, 10_000).tolist() == [END, *whole, END] and BYTES.prompt(text) == [END, *whole]
    assert BYTES.decode(BYTES.prompt(text)) == whole.decode()
