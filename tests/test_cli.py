"""The command line: what it prints, what it writes, and one clear line with the right exit status for every bad input."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import failing, run, some_messages

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora, save_adapter
from tinylora.app import cli, commands, demo, terminal
from tinylora.formats import safetensors
from tinylora.models import load_model, save_model
from tinylora.models.gpt import GPTModel

TINY = {
    "vocab_size": 257, "context_length": 48, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0,
    "qkv_bias": True,
}  # fmt: skip
RUN = {"adapter.safetensors", "config.json", "metrics.jsonl"}


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """m.tsv, a tiny model in tiny/, and a classifier fine-tuned from it in run/."""
    at = tmp_path_factory.mktemp("cli")
    (at / "m.tsv").write_text(some_messages(), encoding="utf-8")
    tinylora.manual_seed(0)
    save_model(GPTModel(TINY), at / "tiny")
    arguments = ["--model", str(at / "tiny"), "--rank", "4", "--epochs", "1", "--out", str(at / "run")]
    assert cli.main(["finetune", str(at / "m.tsv"), *arguments]) == 0
    return at


def everything_below(path):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(Path(path).rglob("*"))}


# --------------------------------------------------------------------------------------------- count
@pytest.mark.parametrize("rank", [1, 16, 64])
@pytest.mark.parametrize("alpha", [16, 3.5])
def test_count_prints_the_numbers_of_the_lecture(capsys, rank, alpha):
    status, out, error = run(capsys, "count", "--rank", rank, "--alpha", alpha)
    lines = [line.split()[-1] for line in out.splitlines()[1:4]]
    assert (status, error) == (0, "")
    assert lines == ["124,441,346", "0", f"{12 * 13_824 * rank + 770 * rank:,}"]
    assert rank != 16 or lines[2] == "2,666,528"
    assert f"LoRA on every Linear, rank {rank}, alpha {alpha}" in out


def test_count_is_instant_even_for_the_largest(capsys):
    begin = time.process_time()
    status, out, _ = run(capsys, "count", "--model", "gpt2-xl", "--classes", 5)
    assert status == 0 and time.process_time() - begin < 1
    C, V, T, L = 1600, 50_257, 1024, 48
    built = V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C + 5 * (C + 1)
    assert f"{built:,}" in out


def test_count_with_a_tree(capsys, folder):
    status, out, _ = run(capsys, "count", "--tree", "--model", folder / "tiny")
    assert status == 0 and "W_query: LinearWithLoRA" in out and "in_features=16" in out
    assert run(capsys, "count", "--model", "nano")[0] == 0


# ----------------------------------------------------------------------------- finetune, predict, merge
def test_finetune_writes_a_run_and_says_how_well_it_did(capsys, folder, tmp_path):
    out = tmp_path / "deep" / "run"
    status, printed, error = run(
        capsys, "finetune", folder / "m.tsv", "--rank", 4, "--epochs", 1, "--batch-size", 16, "--seed", 3, "--out", out
    )
    assert (status, error) == (0, "")
    assert {p.name for p in out.iterdir()} == RUN
    for words in ("42 to train on, 6 to validate, 12 to test", "epoch 1:", "accuracy ",
                  "precision", "recall", "F1", "true \\ predicted"):  # fmt: skip
        assert words in printed
    about = json.loads((out / "config.json").read_text())
    assert about["model"] == about["recipe"]["model"] == "nano" and about["labels"] == ["ham", "spam"]
    assert about["examples"] == {"train": 42, "valid": 6, "test": 12} and about["recipe"]["seed"] == 3
    assert about["task"]["name"] == "classify" and about["task"]["labels"] == ["ham", "spam"]
    assert about["task"]["max_length"] == 512
    assert about["best"] == {"epoch": 1, "step": 3}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("step") for row in rows] == [1, 2, 3, 3, None]
    assert rows[-1]["test"] == about["test"] and f"accuracy {about['test']['accuracy']:.2%}" in printed
    held_by_adapter, _ = safetensors.load(out / "adapter.safetensors")
    assert len(held_by_adapter) == 2 * 24 + 2

    texts = ["Are you coming home for dinner?", "WIN a :smile: prize\u2028 now, [red]click[/red]"]
    status, predicted, _ = run(capsys, "predict", out, *texts)
    assert status == 0
    cells = [line.split("\t") for line in predicted.removesuffix("\n").split("\n")]
    assert [row[2] for row in cells] == texts
    assert all(row[0] in ("ham", "spam") and 0.5 <= float(row[1]) <= 1 for row in cells)

    assert run(capsys, "merge", out, "--out", tmp_path / "merged")[0] == 0
    status, again, _ = run(capsys, "predict", tmp_path / "merged", *texts)
    assert [line.split("\t")[::2] for line in again.removesuffix("\n").split("\n")] == [row[::2] for row in cells]

    plain = run(capsys, "generate", "--tokens", 12, "--temperature", 0)[1]
    status, adapted, _ = run(capsys, "generate", "--tokens", 12, "--temperature", 0, "--adapter", out)
    assert status == 0 and plain.startswith("The ") and adapted.startswith("The ")


def test_the_same_seed_gives_the_same_bytes(capsys, folder, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["--model", folder / "tiny", "--epochs", 1, "--rank", 4, "--seed", seed, "--out", tmp_path / name]
        assert run(capsys, "finetune", folder / "m.tsv", *arguments)[0] == 0
    a, b, c = [safetensors.load(tmp_path / name / "adapter.safetensors")[0] for name in "abc"]
    assert all(a[k].tobytes() == b[k].tobytes() for k in a) and any(a[k].tobytes() != c[k].tobytes() for k in a)


def test_predict_reads_lines_of_standard_input(capsys, folder, monkeypatch):
    by_argument = run(capsys, "predict", folder / "run", "see you soon", "win now")
    for path in (folder / "run", folder / "run" / "adapter.safetensors"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("see you soon\r\n\n  win now"))
        assert run(capsys, "predict", path) == by_argument
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "no text" in failing(capsys, 1, "predict", folder / "run")


def test_a_base_that_moved_is_named_with_model(capsys, folder, tmp_path):
    expected = run(capsys, "predict", folder / "run", "win now")
    (folder / "tiny").rename(folder / "moved")
    try:
        assert "tiny" in failing(capsys, 1, "predict", folder / "run", "win now")
        assert run(capsys, "predict", "--model", folder / "moved", folder / "run", "win now") == expected
        assert run(capsys, "predict", folder / "run", "--model", folder / "moved", "win now") == expected
        assert run(capsys, "merge", folder / "run", "--model", folder / "moved", "--out", tmp_path / "m")[0] == 0
    finally:
        (folder / "moved").rename(folder / "tiny")
    assert "does not fit the model: missing" in failing(capsys, 1, "predict", "--model", "nano", folder / "run", "hi")
    assert "merged already" in failing(capsys, 1, "merge", tmp_path / "m", "--out", tmp_path / "again")


def test_a_run_without_out_goes_to_runs(capsys, folder):
    arguments = ["--model", folder / "tiny", "--epochs", 1, "--rank", 4]
    assert run(capsys, "finetune", folder / "m.tsv", *arguments)[0] == 0
    assert {p.name for p in Path("runs/m").iterdir()} == RUN
    assert "not empty" in failing(capsys, 2, "finetune", folder / "m.tsv", *arguments)


def test_text_is_shown_as_it_comes(capsys):
    def text():
        yield "one "
        assert capsys.readouterr().out == "one "
        yield "[bold]two :smile:"

    terminal.stream(text())
    assert capsys.readouterr().out == "[bold]two :smile:\n"


def test_generate_follows_its_seed(capsys, folder):
    arguments = ["generate", "--model", folder / "tiny", "--prompt", "Ä :smile:", "--tokens", 30, "--top-k", 5, "--seed"]
    first = run(capsys, *arguments, 1)
    assert first == run(capsys, *arguments, 1) != run(capsys, *arguments, 2)
    assert first[0] == 0 and first[1].startswith("Ä :smile:")


# ----------------------------------------------------------------------------------------- wrong usage
@pytest.mark.parametrize(
    "arguments, words",
    [
        ("finetune DATA --epochs -1", "--epochs: expected a whole number of at least 1, not '-1'"),
        ("finetune DATA --epochs 1.5", "--epochs: expected a whole number"),
        ("finetune DATA --lr nan", "--lr: expected a number above 0, not 'nan'"),
        ("finetune DATA --lr 0", "--lr: expected a number above 0"), ("finetune DATA --lr inf", "--lr: expected"),
        ("finetune DATA --rank 0", "--rank: expected a whole number of at least 1"),
        ("finetune DATA --rank 2.5", "--rank: expected"), ("finetune DATA --rank -4", "--rank: expected"),
        ("finetune DATA --lr=-1", "--lr: expected"), ("generate --temperature -1", "expected a number of at least 0"),
        ("finetune DATA --alpha nan", "--alpha: expected"), ("finetune DATA --batch-size 0", "--batch-size: expected"),
        ("finetune DATA --seed -1", "--seed: expected a whole number of at least 0"),
        ("finetune DATA --device tpu", "--device: invalid choice: 'tpu'"),
        ("finetune DATA --epoch-count 3", "unrecognized arguments: --epoch-count"),
        ("finetune", "arguments are required: DATA"), ("count --rank x", "--rank: expected"),
        ("count --classes 1", "--classes: expected a whole number of at least 2"),
        ("generate --top-k 0", "--top-k: expected"),
        ("generate --top-p 1.5", "--top-p: expected a number above 0 and at most 1"),
        ("generate --tokens none", "--tokens: expected"),
        ("merge RUN", "arguments are required: --out"), ("predict", "arguments are required: RUN"),
        ("finetun DATA", "invalid choice: 'finetun'"), ("--verbose", "unrecognized arguments: --verbose"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(capsys, arguments, words):
    assert words in failing(capsys, 2, *arguments.split())
    assert not everything_below(".")


def test_an_output_that_cannot_be_written_is_refused_before_anything_starts(capsys, folder, tmp_path, monkeypatch):
    for name in ("file", "full/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(commands, "ModelSource", None)
    monkeypatch.setattr(commands, "save_merged", None)
    before = everything_below(".")
    for command in (["finetune", folder / "m.tsv"], ["merge", folder / "run"]):
        for out, words in (("file", "is a file"), ("full", "is not empty"), ("file/below", "is not a folder")):
            assert words in failing(capsys, 2, *command, "--out", out)
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may write anywhere
            assert "permission to write" in failing(capsys, 2, *command, "--out", "new")
    assert everything_below(".") == before


# ------------------------------------------------------------------------------------------ failed runs
@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.tsv", b"", "empty"), ("a.tsv", b"label\ttext\n", "no message below"), ("a.tsv", b"\x00\x01\x02", "binary"),
        ("a.tsv", b"ham\tcaf\xe9\n", "line 1 is not UTF-8"), ("a.csv", b"a,b,c\n1,2,3\n", "no text column among a, b, c"),
        ("a.csv", b"text,date\nhi,today\n", "no label column among text, date: name it with --label-column"),
        ("a.tsv", b"ham\thi\nham\tho\nham\tha\n", "only one class, 'ham'"),
        ("a.tsv", b"ham\thi\nspam\tho\nham\tha\n", "class 'ham' has 2 different messages"),
        ("a.jsonl", b"{", "line 1 is not JSON"), ("a.pdf", b"%PDF", "expected a .tsv, .csv, .jsonl, .json, .conll or"),
        ("a.tsv", b"label\ttext\nham\n", "line 2 has 1 columns"), ("absent.tsv", None, "absent.tsv: no such file"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_is_one_line_and_status_2(capsys, name, content, words):
    if content is not None:
        Path(name).write_bytes(content)
    before = everything_below(".")
    line = failing(capsys, 1 if content is None else 2, "finetune", name, "--out", "out")
    assert words in line and (name in line or "class" in words)
    assert everything_below(".") == before


def broken(change):
    def make(folder):
        arrays, metadata = safetensors.load(folder / "run" / "adapter.safetensors")
        change(arrays)
        safetensors.save("x.safetensors", arrays, metadata)
        return "x.safetensors"

    return make


def written(name, content):
    return lambda folder: Path(name).write_bytes(content) and name


def add_many(arrays):
    arrays.update({f"extra.{i}": np.zeros(1) for i in range(20)})


def set_nan(arrays):
    arrays["out_head.bias"][0] = np.nan


def other_base(folder):
    tinylora.manual_seed(5)
    model = GPTModel(TINY)
    model.set_classes(2, bias=True)
    config = LoRAConfig(rank=2, targets=("W_query",), train=("out_head",))
    apply_lora(model, config)
    save_adapter(model, "x.safetensors", config, model=str(folder / "tiny"), labels=["ham", "spam"])
    return "x.safetensors"


@pytest.mark.parametrize(
    "make, words",
    [
        (broken(lambda a: a.pop("out_head.bias")), "does not fit the model: missing: out_head.bias"),
        (broken(add_many), "and 16 more"),
        (broken(lambda a: a.update({"out_head.bias": np.zeros(3)})), "out_head.bias: expected (2,), got (3,)"),
        (broken(set_nan), "NaN or infinity in out_head.bias"), (other_base, "trained on another base model"),
        (written("x.safetensors", b"cut"), "not a readable safetensors file"),
        (written("x.bin", b"\x80"), "refused"), (written("x.pt", b"\x80"), "refused"), (written("x.pkl", b"."), "refused"),
        (lambda folder: "absent", "no such file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["predict", "merge"])
def test_an_adapter_that_cannot_be_used_is_one_line_and_status_1(capsys, folder, make, words, command):
    path = make(folder)
    before = everything_below(".")
    more = ["hi"] if command == "predict" else ["--out", "out"]
    assert words in failing(capsys, 1, command, path, *more)
    assert everything_below(".") == before


def test_a_model_that_cannot_be_used_is_one_line_and_status_1(capsys, folder):
    for *command, name in (["count", "gpt5"], ["finetune", folder / "m.tsv", "./gpt5"], ["generate", folder / "m.tsv"]):
        assert "no such file; a model is 'nano' or a folder" in failing(capsys, 1, *command, "--model", name)
    save_model(load_model(folder / "tiny"), "bad")
    entries = json.loads(Path("bad/config.json").read_text())
    Path("bad/config.json").write_text(json.dumps({**entries, "emb_dim": 15}))
    for command in (["finetune", folder / "m.tsv", "--out", "out"], ["generate"]):
        assert "emb_dim 15 is not divisible by n_heads 2" in failing(capsys, 1, *command, "--model", "bad")
    Path("pickled").mkdir()
    Path("pickled/config.json").write_text((folder / "tiny" / "config.json").read_text())
    assert "no such file" in failing(capsys, 1, "generate", "--model", "pickled")  # config.json and no weights
    run(capsys, "merge", folder / "run", "--out", "merged")
    assert "is a classifier" in failing(capsys, 1, "generate", "--model", "merged")
    assert "it is no classifier" in failing(capsys, 1, "predict", folder / "tiny", "hi")
    for plain in (folder / "tiny", "merged"):
        assert "no LoRA in this model" in failing(capsys, 1, "merge", plain, "--out", "again")
    assert not Path("out").exists()


def test_a_loss_that_becomes_nan_is_one_line_and_writes_nothing(capsys, folder):
    arguments = ["--model", folder / "tiny", "--lr", "1e30", "--out", "out", "--rank", 4]
    assert "became NaN or infinite at step" in failing(capsys, 1, "finetune", folder / "m.tsv", *arguments)
    assert not Path("out").exists()


def test_a_device_that_is_not_there_is_one_line_and_status_1(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "device 'cuda' needs CuPy: pip install" in failing(capsys, 1, "count", "--device", "cuda")


@pytest.mark.filterwarnings("default")
def test_a_rank_above_the_smaller_side_is_a_line_of_warning(capsys, folder):
    arguments = ["--model", folder / "tiny", "--epochs", 1, "--rank", 17, "--out", "out"]
    status, _, error = run(capsys, "finetune", folder / "m.tsv", *arguments)
    assert status == 0
    assert error == "tinylora: warning: rank 17 is more than a 16 x 16 matrix can use\n" + error.split("\n", 1)[1]
    assert all(line.startswith("tinylora: warning: rank 17") for line in error.splitlines())


def test_a_vocabulary_that_lacks_a_token_is_one_line_and_status_1(capsys, folder):
    save_model(GPTModel({**TINY, "vocab_size": 256}), "bytes")
    for command in (["finetune", folder / "m.tsv", "--out", "out"], ["generate"]):
        assert "outside the vocabulary 0..255" in failing(capsys, 1, *command, "--model", "bytes")
    assert not Path("out").exists()


# ------------------------------------------------------------------------------- the demo, and processes
def test_the_main_job(capsys, folder, monkeypatch, tmp_path):
    """With 60 of the messages: all of them take half a minute."""
    monkeypatch.setattr(demo, "MESSAGES", folder / "m.tsv")
    demo.run(out=tmp_path / "demo")
    out = capsys.readouterr().out
    counts = [line.split()[-1] for line in out.splitlines() if line.startswith(("as built", "frozen", "LoRA on every"))]
    assert counts == ["124,441,346", "0", "2,666,528"]
    assert "one block of 12: TransformerBlock" in out and "W_query: LinearWithLoRA" in out
    assert "before" in out and "parameters moved" in out and "the model: 6,719,280 bytes" in out
    assert [line.split(":")[0].strip() for line in out.splitlines() if line.startswith("  ok  ")] == [
        "ok  loaded into a fresh model", "ok  merged", "ok  unmerged",
    ]  # fmt: skip
    assert {p.name for p in (tmp_path / "demo").iterdir()} == RUN
    assert "\x1b" not in out  # nobody watches a terminal


def test_the_main_job_says_at_once_where_it_cannot_write(capsys):
    Path("runs").write_text("mine")
    assert "runs" in failing(capsys, 2) and Path("runs").read_text() == "mine"


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "tinylora", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}, **options,
    )  # fmt: skip


def test_as_a_process(folder):
    found = process("count")
    assert (found.returncode, found.stderr) == (0, "") and "2,666,528" in found.stdout
    found = process("finetune", "absent.tsv")
    assert (found.returncode, found.stdout) == (1, "") and found.stderr.startswith("tinylora: error: ")
    assert found.stderr.count("\n") == 1 and "absent.tsv" in found.stderr
    found = process("count", "--rank", "0")
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    found = process("predict", folder / "run", input="see you soon, ä\nwin now\n")
    texts = [line.split("\t")[2] for line in found.stdout.splitlines()]
    assert found.returncode == 0 and texts == ["see you soon, ä", "win now"]
