"""Tokenizers of Hugging Face folders, in every combination of their files: the ids, cuts and texts of transformers."""

import functools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylora.formats import LoadError
from tinylora.models.gpt import GPTModel
from tinylora.models.source import ModelSource
from tinylora.tasks.classify import Classify
from tinylora.text.generate import generate, pieces
from tinylora.text.sampling import GREEDY
from tinylora.text.tokenizer import FolderTokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

END = "<|endoftext|>"
WORDS = "river stone cheap prize winner call meet lunch today free cash boat".split()
TEXTS = [
    "river cheap <|user|> today", f"hello{END}bye", "<pad>x", " <|user|> a", "river<|user|>", "<s>free</s> cash", "",
    "  two\n\nlines ",
    "é 漢字 🙂 12345 don't", "<unk> [SEP]river", "<extra> river<extra>",
]  # fmt: skip


@functools.cache
def trained(metaspace):
    """A byte-pair tokenizer of 400 tokens: by bytes as GPT-2's, or by words with ▁ as Llama 2's."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=metaspace, fuse_unk=metaspace))
    splitters = tokenizers.pre_tokenizers
    made.pre_tokenizer = splitters.Metaspace() if metaspace else splitters.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.Metaspace() if metaspace else tokenizers.decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)]] if metaspace else [END]
    alphabet = [] if metaspace else splitters.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    texts = [" ".join(np.random.default_rng(i).choice(WORDS, 12)) for i in range(60)]
    made.train_from_iterator(texts, trainer)
    entries = json.loads(made.to_str())
    if metaspace:
        entries["added_tokens"] = entries["added_tokens"][:3]
    return entries


def token(text, special=False, **flags):
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {"content": text, "special": special, **plain, **flags}


@st.composite
def folders(draw):
    """The files of a folder, as a dictionary of their entries; a string is a whole file."""
    metaspace, stored = draw(st.booleans()), draw(st.booleans())
    entries = dict(trained(metaspace))
    size = len(entries["model"]["vocab"])
    if ending := draw(st.sampled_from([None, "eos", "both"])):
        first, last = ("<s>", "</s>") if metaspace else (END, END)
        both = [{"SpecialToken": {"id": first, "type_id": 0}}] if ending == "both" else []
        entries["post_processor"] = {
            "type": "TemplateProcessing",
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "single": [*both, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": last, "type_id": 0}}],
            "special_tokens": {t: {"id": t, "ids": [entries["model"]["vocab"][t]], "tokens": [t]} for t in {first, last}},
        }  # fmt: skip
    names = ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"]
    if stored:
        names += [None, "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "TokenizersBackend"]
    about = {"tokenizer_class": draw(st.sampled_from(names))}
    flags = st.sampled_from([None, True, False])
    for name in ("add_bos_token", "add_eos_token", "add_prefix_space", "legacy", "split_special_tokens"):
        if (value := draw(flags)) is not None:
            about[name] = value
    texts = ["<s>", "</s>", "<unk>"] if metaspace else [END]
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token"):
        choices = [*texts, "<pad>", "<|user|>"]
        value = draw(
            st.sampled_from(["absent", "absent", None, *choices, {"__type": "AddedToken", **token(choices[0], lstrip=True)}])
        )
        if isinstance(value, dict):
            value.pop("special")
        if value != "absent":
            about[name] = value
    if draw(st.booleans()):
        about[draw(st.sampled_from(["additional_special_tokens", "extra_special_tokens"]))] = ["<extra>", "<|user|>"]
    files = {"config.json": {"model_type": draw(st.sampled_from(["gpt2", "llama", "qwen2", "qwen3"]))}}
    added = [
        token("<|user|>", draw(st.booleans()), lstrip=draw(st.booleans()), rstrip=draw(st.booleans())),
        token("<pad>", True),
    ]
    added = added[: draw(st.integers(0, 2))]
    how = draw(st.sampled_from(["decoder", "added_tokens", "both", "none"]))
    if how in ("decoder", "both"):
        about["added_tokens_decoder"] = {str(size + i): one for i, one in enumerate(added)}
    if how in ("added_tokens", "both"):
        files["added_tokens.json"] = {one["content"]: size + i for i, one in enumerate(added)}
    if draw(st.booleans()):
        files["special_tokens_map.json"] = {
            "pad_token": "<pad>",
            "eos_token": {k: v for k, v in token(texts[0]).items() if k != "special"},
        }
    if draw(st.booleans()):
        about["truncation_side"] = draw(st.sampled_from(["left", "right"]))
    if draw(st.booleans()):
        about["model_max_length"] = draw(st.sampled_from([5, 8, 1e30]))
    if stored:
        files["tokenizer.json"] = entries
    else:
        files["vocab.json"] = entries["model"]["vocab"]
        files["merges.txt"] = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in entries["model"]["merges"])
    return {**files, "tokenizer_config.json": about}


def write(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, entries in files.items():
        (folder / name).write_text(entries if isinstance(entries, str) else json.dumps(entries), "utf-8")
    return folder


@settings(max_examples=40)
@given(folders())
def test_any_folder_gives_the_ids_of_transformers_or_is_refused_by_name(tmp_path_factory, files):
    folder = write(tmp_path_factory.getbasetemp() / "any", files)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    try:
        ours = FolderTokenizer(folder)
    except LoadError as error:  # an id that the files state and that transformers does not give
        text = next(t for t in ("<|user|>", "<pad>", "<unk>", "<s>", "</s>", END) if repr(t) in str(error))
        assert f"has the id {theirs.convert_tokens_to_ids(text)}," not in str(error) and str(folder) in str(error)
        return
    assert len(ours) == len(theirs)
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.prompt(text) == (ids or [0])
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        for context in (4, 7):
            limit = min(context, theirs.model_max_length)
            cut = theirs(text, truncation=True, max_length=limit)["input_ids"]
            assert ours.encode(text, context).tolist() == (cut or [0])


def test_an_id_that_is_stated_and_not_given_is_refused_by_name(tmp_path):
    files = {"tokenizer.json": trained(False), "tokenizer_config.json": {"added_tokens_decoder": {"999": token("<|user|>")}}}
    with pytest.raises(LoadError, match=r"tokenizer_config\.json: '<\|user\|>' has the id 999, and is number 3\d\d"):
        FolderTokenizer(write(tmp_path / "f", files))


# ----------------------------------------------------------------------------- a tokenizer and its model
def model_folder(folder, pad=None, labels=None, files=None, rows=0, **about):
    """A tiny GPT-2 with the byte-level tokenizer; `rows` more or fewer than that has tokens."""
    write(folder, {"tokenizer.json": trained(False), "tokenizer_config.json": {"eos_token": END, **about}, **(files or {})})
    tinylora_model = GPTModel(
        {**TINY, "vocab_size": len(trained(False)["model"]["vocab"]) + rows, "eos_token_id": 0, "pad_token_id": pad}
    )
    if labels:
        tinylora_model.set_classes(labels, bias=False)
    rng = np.random.default_rng(0)
    for parameter in tinylora_model.parameters():
        parameter.array = rng.normal(0, 0.3, parameter.shape).astype(np.float32)
    tinylora_model.save_pretrained(folder)
    return folder


def predict(model, texts, tokens):
    return Classify(tokens, model.cfg.context_length, model.cfg.labels).probabilities(model, texts)


TINY = {"context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True}
APPENDS = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
}  # fmt: skip


@pytest.mark.parametrize("pad", [END, "!", "x"])
@pytest.mark.parametrize("appends", [False, True])
def test_a_class_is_read_at_the_last_token_that_is_not_padding_as_transformers_does(tmp_path, pad, appends):
    torch = pytest.importorskip("torch")
    stored = {**trained(False), **({"post_processor": APPENDS} if appends else {})}
    number = stored["model"]["vocab"][pad]
    folder = model_folder(tmp_path / "f", number, ("a", "b", "c"), {"tokenizer.json": stored}, pad_token=pad)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    theirs_of = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [
        "river cheap winner",
        "call me!!",
        "!!!",
        "xx",
        f"hello{END}",
        "free x",
        f"bye {END}{END}",
        "x!river!",
        "winner " * 20,
    ]
    source = ModelSource.open(folder)
    found = predict(source.model(), texts, source.tokenizer)
    with torch.no_grad():
        for text, p in zip(texts, found, strict=True):
            one = theirs_of(text, truncation=True, max_length=16, return_tensors="pt")
            assert np.allclose(p, theirs(**one).logits[0].softmax(-1).numpy(), atol=1e-6), text


def test_a_merged_classifier_without_a_padding_token_names_the_one_it_was_trained_with(tmp_path):
    torch = pytest.importorskip("torch")
    folder = model_folder(tmp_path / "f", files={"tokenizer.json": {**trained(False), "post_processor": APPENDS}})
    source = ModelSource.open(folder)
    model = source.model()
    model.set_classes(("a", "b"), bias=False)
    model.out_head.weight.array = np.random.default_rng(1).normal(size=model.out_head.weight.shape).astype(np.float32)
    texts = ["river cheap winner", "today", "call meet"]
    expected = predict(model, texts, source.tokenizer)
    source.save_merged(model, tmp_path / "merged")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    for text, p in zip(texts, expected, strict=True):
        one = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")(text, return_tensors="pt")
        with torch.no_grad():
            assert np.allclose(p, theirs(**one).logits[0].softmax(-1).numpy(), atol=1e-6), text
    again = ModelSource.open(tmp_path / "merged")
    assert np.allclose(predict(again.model(), texts, again.tokenizer), expected, atol=1e-6)


def test_generation_stops_at_each_token_of_a_list_and_a_merged_model_keeps_it(tmp_path):
    folder = model_folder(tmp_path / "f")
    source = ModelSource.open(folder)
    free = list(generate(source.model(), source.tokenizer.prompt("river"), 12, GREEDY))
    stop = free[3]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, stop]}))
    source = ModelSource.open(folder)
    assert source.tokenizer.stop[:2] == (0, stop)
    source.save_merged(source.model(), tmp_path / "merged")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = transformers.AutoTokenizer.from_pretrained(folder)("river", return_tensors="pt")
    reply = theirs.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[
        0, ids["input_ids"].shape[1] :
    ].tolist()
    for place in (folder, tmp_path / "merged"):
        source = ModelSource.open(place)
        tokens = source.tokenizer
        assert list(generate(source.model(), tokens.prompt("river"), 12, GREEDY, tokens.stop)) == [
            t for t in reply if t not in (0, stop)
        ]


def test_a_tokenizer_with_more_tokens_than_the_model_says_which(tmp_path):
    with pytest.raises(LoadError, match=r"f: its tokenizer has \d+ tokens, and the model knows \d+: it lacks '.+', so"):
        ModelSource.open(model_folder(tmp_path / "f", rows=-2)).tokenizer
    folder = model_folder(tmp_path / "g", pad_token="<pad>")  # added, and the model was never resized
    tokens = ModelSource.open(folder).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokens.pad == 0 and tokens.prompt("river") == theirs("river")["input_ids"]
    assert max(theirs("a <pad>")["input_ids"]) == tokens.known
    for read in (tokens.prompt, tokens.tokens, lambda text: tokens.encode(text, 16)):
        with pytest.raises(
            LoadError, match=r"g: the text contains '<pad>', token \d+ of .* the model has \d+ tokens: resize"
        ):
            read("river <pad> x")


def test_a_space_before_the_first_generated_word_is_kept(tmp_path):
    files = {"tokenizer.json": trained(True), "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}
    tokens = FolderTokenizer(write(tmp_path / "f", {**files, "config.json": {"model_type": "llama"}}))
    prompt, whole = tokens.prompt("river stone"), tokens.prompt("river stone winner today")
    assert whole[: len(prompt)] == prompt
    assert "".join(["river stone", *pieces(whole[len(prompt) :], tokens.decode, prompt)]) == "river stone winner today"
