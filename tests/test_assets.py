"""What is in the box: the messages, each written for this project, and the foundation model."""

import gzip
import importlib.util
import os
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tinylora.app.demo import MESSAGES
from tinylora.formats import safetensors
from tinylora.models import load_model
from tinylora.models.source import NANO, ModelSource
from tinylora.tasks.messages import read_messages

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TINYLORA_DATA", ROOT / ".." / "shared" / "data"))
SMS = DATA / "sms_spam" / "sms.tsv"
VALID = DATA / "text" / "wikitext-2" / "valid.raw.gz"


def normalised(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


@pytest.fixture(scope="module")
def messages():
    return read_messages(MESSAGES)


def test_the_messages_are_many_and_balanced(messages):
    counts = Counter(m.label for m in messages)
    assert counts.keys() == {"ham", "spam"} and counts["ham"] == counts["spam"] and counts.total() >= 400
    assert all(len(m.text.encode()) <= ModelSource.open("nano").config.context_length - 2 for m in messages)


def test_no_two_messages_are_alike(messages):
    words = [set(normalised(m.text).split()) for m in messages]
    assert len({normalised(m.text) for m in messages}) == len(messages)
    for (a, first), (b, second) in combinations(zip(words, messages, strict=True), 2):
        assert len(a & b) < 0.5 * len(a | b), f"{first.text!r} and {second.text!r}"


@pytest.mark.skipif(not SMS.is_file(), reason="the SMS data is absent: name its folder in TINYLORA_DATA")
def test_no_message_is_taken_from_the_sms_data(messages):
    sms = {normalised(m.text) for m in read_messages(SMS)}
    assert not sms & {normalised(m.text) for m in messages}


def test_the_model_is_small_and_in_half_precision():
    assert {p.name for p in NANO.iterdir()} == {"config.json", "model.safetensors"}
    assert sum(p.stat().st_size for p in NANO.iterdir()) <= 8_000_000
    arrays, _ = safetensors.load(NANO / "model.safetensors")
    assert {a.dtype for a in arrays.values()} == {np.dtype("float16")}


def test_the_model_loads_in_single_precision_with_its_head_tied():
    model = load_model("nano")
    assert {p.dtype for p in model.parameters()} == {np.dtype("float32")}
    assert model.cfg.vocab_size == 257 and model.out_head.weight is model.tok_emb.weight
    assert not model.training and all(np.isfinite(p.array).all() for p in model.parameters())


@pytest.mark.skipif(not VALID.is_file(), reason="WikiText-2 is absent: name its folder in TINYLORA_DATA")
def test_the_model_needs_less_than_two_bits_per_byte_of_text_it_never_saw():
    spec = importlib.util.spec_from_file_location("pretrain", ROOT / "examples" / "pretrain.py")
    pretrain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pretrain)
    tokens = pretrain.tokens_of(gzip.decompress(VALID.read_bytes())[:20_000])
    assert pretrain.bits_per_byte(load_model("nano"), tokens, batch=8) < 2.0
