"""The command line on Hugging Face's folders and PEFT's adapters: fine-tune, predict, generate, merge, inspect."""

import json

import numpy as np
import pytest
from commands import failing, run, some_messages

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora, load_adapter, save_adapter
from tinylora.adapters.report import inspect_adapter
from tinylora.app import cli
from tinylora.formats import LoadError, safetensors
from tinylora.lora import lora_modules
from tinylora.models import load_model
from tinylora.models.gpt import GPTModel
from tinylora.models.source import ModelSource
from tinylora.runs.run import Run
from tinylora.runs.run_folder import adapter_file

TEXTS = ["Are you coming home for dinner?", "WIN a prize now"]
PEFT_RUN = {"adapter_config.json", "adapter_model.safetensors", "config.json", "metrics.jsonl"}


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """m.tsv, and gpt2/: a tiny random model as Hugging Face stores it, with a tokenizer trained on the messages."""
    tokenizers = pytest.importorskip("tokenizers")
    at = tmp_path_factory.mktemp("hf")
    (at / "m.tsv").write_text(some_messages(), encoding="utf-8")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train([str(at / "m.tsv")], vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    tinylora.manual_seed(0)
    model = GPTModel({
        "vocab_size": 300, "context_length": 48, "emb_dim": 16, "n_heads": 2, "n_layers": 2, "drop_rate": 0.1,
        "qkv_bias": True, "tie_head": True, "eos_token_id": 0,
    })  # fmt: skip
    model.save_pretrained(at / "gpt2")
    made.save_model(str(at / "gpt2"))
    return at


@pytest.fixture(scope="module")
def finetuned(hf):
    arguments = ["--model", hf / "gpt2", "--rank", 4, "--alpha", 9, "--epochs", 1, "--seed", 3, "--out", hf / "run"]
    assert cli.main(["finetune", str(hf / "m.tsv"), *map(str, arguments)]) == 0
    return hf / "run"


def test_a_run_on_such_a_folder_is_an_adapter_for_peft(capsys, hf, finetuned):
    assert {p.name for p in finetuned.iterdir()} == PEFT_RUN
    config = json.loads((finetuned / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["task_type"] == "SEQ_CLS" and config["modules_to_save"] == ["score"]
    assert config["base_model_name_or_path"] == str(hf / "gpt2")
    status, out, _ = run(capsys, "predict", finetuned, *TEXTS)
    rows = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [row[2] for row in rows] == TEXTS and {row[0] for row in rows} <= {"ham", "spam"}
    assert run(capsys, "predict", "--model", hf / "gpt2", finetuned, *TEXTS) == (0, out, "")


def test_merged_it_is_a_folder_of_the_same_kind_with_its_tokenizer(capsys, hf, finetuned, tmp_path):
    expected = run(capsys, "predict", finetuned, *TEXTS)[1]
    status, out, _ = run(capsys, "merge", finetuned, "--out", tmp_path / "merged")
    assert status == 0 and "model.safetensors" in out and "vocab.json" in out
    assert load_model(tmp_path / "merged").cfg.labels == ("ham", "spam")
    merged = run(capsys, "predict", tmp_path / "merged", *TEXTS)[1]
    assert [row.split("\t")[::2] for row in merged.splitlines()] == [row.split("\t")[::2] for row in expected.splitlines()]
    assert "is a classifier" in failing(capsys, 1, "generate", "--model", tmp_path / "merged")
    assert "merged already" in failing(capsys, 1, "merge", tmp_path / "merged", "--out", tmp_path / "again")


def test_generate_reads_and_writes_the_tokens_of_the_folder(capsys, hf, finetuned):
    arguments = ["generate", "--model", hf / "gpt2", "--prompt", "Are you", "--tokens", 8, "--temperature", 0]
    status, plain, _ = run(capsys, *arguments)
    assert status == 0 and plain.startswith("Are you")
    adapted = run(capsys, *arguments, "--adapter", finetuned)
    assert adapted[0] == 0 and adapted[1].startswith("Are you")
    assert run(capsys, *arguments[:3], "--tokens", 3)[0] == 0


def test_an_adapter_of_a_language_model_generates_and_merges(capsys, hf, tmp_path):
    model, config = load_model(hf / "gpt2"), LoRAConfig(2, 4.0, ("W_query", "layers.0"), ("final_norm",), "alpha/r")
    apply_lora(model, config)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        if p.requires_grad:
            p.array = rng.standard_normal(p.shape).astype(np.float32)
    save_adapter(model, tmp_path / "a", config, format="peft")
    arguments = ["generate", "--prompt", "Are you", "--tokens", 8, "--temperature", 0]
    status, out, _ = run(capsys, *arguments, "--model", hf / "gpt2", "--adapter", tmp_path / "a")
    assert "give it with --model" in failing(capsys, 1, "merge", tmp_path / "a", "--out", tmp_path / "m")
    assert run(capsys, "merge", tmp_path / "a", "--model", hf / "gpt2", "--out", tmp_path / "m")[0] == 0
    assert run(capsys, *arguments, "--model", tmp_path / "m") == (status, out, "") and status == 0
    assert "it is no classifier" in failing(capsys, 1, "predict", "--model", hf / "gpt2", tmp_path / "a", "hi")


def test_inspect_shows_what_is_in_an_adapter(capsys, hf, finetuned, tmp_path):
    own = ["finetune", hf / "m.tsv", "--rank", 4, "--epochs", 1, "--batch-size", 60, "--out", tmp_path / "nano"]
    assert run(capsys, *own)[0] == 0
    for path, layers, whole in ((finetuned, 8, 32), (tmp_path / "nano", 24, 514)):
        status, out, error = run(capsys, "inspect", path)
        assert (status, error) == (0, "")
        assert f"{whole} of modules trained whole" in out and "‖ΔW‖" in out and "σ4" in out
        found = inspect_adapter(adapter_file(path))
        assert (len(found.changes), found.whole) == (layers, whole)
        assert found.lora == sum(len(c.spectrum) * (c.in_features + c.out_features) for c in found.changes)
        deltas = [m.lora.delta() for _, m in lora_modules(Run.load(path).model)]
        total = sum(np.square(d, dtype=np.float64).sum() for d in deltas)
        np.testing.assert_allclose(sum(c.norm**2 for c in found.changes), total, rtol=1e-4)
        for c in found.changes:
            assert f"{c.norm:.3g}" in out and 0 < c.effective_rank <= len(c.spectrum)


def test_inspect_refuses_what_loading_refuses(capsys, finetuned, tmp_path):
    assert "no such file" in failing(capsys, 1, "inspect", tmp_path / "absent")
    arrays, metadata = safetensors.load(finetuned / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((finetuned / "adapter_config.json").read_text())
    arrays.pop(next(name for name in arrays if name.endswith("lora_B.weight")))
    safetensors.save(tmp_path / "adapter_model.safetensors", arrays, metadata)
    assert "do not multiply" in failing(capsys, 1, "inspect", tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80")
    assert "refused" in failing(capsys, 1, "inspect", tmp_path)


def test_another_base_is_refused(capsys, hf, finetuned, tmp_path):
    tinylora.manual_seed(1)
    model = GPTModel(load_model(hf / "gpt2").cfg)
    model.save_pretrained(tmp_path / "other")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "other" / name).write_bytes((hf / "gpt2" / name).read_bytes())
    assert "another base" in failing(capsys, 1, "predict", "--model", tmp_path / "other", finetuned, "hi")
    with pytest.raises(LoadError, match="another base"):
        load_adapter(load_model(tmp_path / "other"), finetuned)


def test_the_count_of_such_a_folder(capsys, hf):
    status, out, _ = run(capsys, "count", "--model", hf / "gpt2", "--tree")
    assert status == 0 and "W_query: LinearWithLoRA" in out
    assert ModelSource.open(hf / "gpt2").tokenizer.stop == (0,)


@pytest.mark.filterwarnings("ignore:::transformers", "ignore:::peft")
def test_they_predict_what_we_predict(hf, finetuned):
    """The run's folder in PEFT's hands."""
    torch, peft, transformers = (pytest.importorskip(name) for name in ("torch", "peft", "transformers"))
    transformers.logging.disable_progress_bar()
    kind = transformers.GPT2ForSequenceClassification
    model = peft.PeftModel.from_pretrained(kind.from_pretrained(hf / "gpt2", num_labels=2), finetuned).eval()
    ours = Run.load(finetuned)
    for text in TEXTS:
        tokens = ours.source.tokenizer.encode(text, 48)
        expected = model(torch.tensor(tokens[None])).logits.detach().numpy()
        found = ours.model(tinylora.tensor(tokens[None])).detach().numpy()[:, -1]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert ours.task.labels == ("ham", "spam")
