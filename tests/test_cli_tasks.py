"""Each task from the command line: guessed, trained, asked, measured, gone on from."""

import json
from pathlib import Path

import pytest
from commands import failing, run

pytestmark = pytest.mark.usefixtures("own_folder")
SMALL = ("--rank", 2, "--epochs", 1, "--batch-size", 4, "--max-length", 48)
SENTENCES = "Ada\tB-person\nsees\tO\nNew\tB-place\nYork\tI-place\n\nthe\tO\ncat\tO\n\n" * 6


def test_tags(capsys):
    Path("a.conll").write_text(SENTENCES)
    status, out, error = run(capsys, "finetune", "a.conll", *SMALL, "--once")
    assert (status, error) == (0, "") and "entity F1" in out and "person" in out
    assert json.loads(Path("runs/a/config.json").read_text())["task"]["twice"] is False
    status, out, _ = run(capsys, "predict", "runs/a", "Ada sees it.")
    assert status == 0 and [line.split("\t")[0] for line in out.splitlines() if line] == ["Ada", "sees", "it", "."]
    status, out, _ = run(capsys, "evaluate", "runs/a", "a.conll")
    assert status == 0 and out.startswith("12 examples") and "recall" in out


def test_text_and_going_on_from_an_adapter(capsys):
    Path("a.txt").write_text("Once upon a time there was a cat.\n" * 20)
    status, out, error = run(capsys, "finetune", "a.txt", *SMALL)
    assert (status, error) == (0, "") and "perplexity" in out
    assert run(capsys, "predict", "runs/a", "Once upon")[0] == 0
    status, out, _ = run(capsys, "evaluate", "runs/a", "a.txt")
    after = float(out.split("perplexity ")[1].split()[0])
    status, out, _ = run(capsys, "evaluate", "nano", "a.txt", "--task", "text")
    assert status == 0 and float(out.split("perplexity ")[1].split()[0]) > after
    assert run(capsys, "finetune", "a.txt", *SMALL, "--adapter", "runs/a", "--out", "b")[0] == 0
    assert run(capsys, "finetune", "a.txt", *SMALL, "--bits", 8, "--out", "c")[0] == 0
    assert run(capsys, "evaluate", "c", "a.txt")[0] == 0


def test_classes_with_weights_smoothing_packing_and_the_end_kept(capsys):
    lines = [f"{'yes' if i % 3 else 'no'}\tnumber {i} is {'good' if i % 3 else 'bad'} {'x' * (i % 7)}" for i in range(60)]
    Path("a.tsv").write_text("\n".join(lines))
    options = ("--class-weights", "--label-smoothing", 0.1, "--pack", "--truncate", "beginning", "--accumulate", 2)
    status, out, error = run(capsys, "finetune", "a.tsv", *SMALL[:-1], 18, *options)
    assert (status, error) == (0, "") and "examples are longer than 18 tokens: the end is kept" in out
    assert "for comparison: always 'yes' 66.67%, word counts (naive Bayes) 100.00%" in out
    about = json.loads(Path("runs/a/config.json").read_text())["task"]
    assert about["class_weights"] == pytest.approx([1.5, 0.75]) and about["truncate"] == "beginning"
    assert "labels" in failing(capsys, 2, "finetune", "a.tsv", "--adapter", "runs/a", "--task", "text", "--out", "b")


def test_how_data_is_read_is_shown(capsys):
    Path("a.conll").write_text(SENTENCES)
    status, out, _ = run(capsys, "inspect", "a.conll", "--task", "tag")
    assert status == 0 and "12 examples" in out and "-> B-person" in out
    Path("a.txt").write_text("ab\n")
    status, out, _ = run(capsys, "inspect", "a.txt", "--task", "text")
    assert status == 0 and "<end>[ab<0A><end>]" in out


@pytest.mark.parametrize("options", [("--twice",), ("--once",), ("--bits", "3"), ("--truncate", "middle")])
def test_options_of_other_tasks_and_values_are_refused(capsys, options):
    Path("a.txt").write_text("Once upon a time\n" * 20)
    failing(capsys, 2, "finetune", "a.txt", *options)
