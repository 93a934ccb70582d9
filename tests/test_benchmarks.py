"""The benchmark runs as its reader runs it, but on a tiny model: that it works is tested, and no time means anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
PEERS = ("torch", "transformers", "peft")


def run(*options):
    """What the command prints."""
    command = [sys.executable, "-W", "error", BENCHMARKS / "cpu.py", *map(str, options)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def peers():
    for name in PEERS:
        pytest.importorskip(name, reason=f"the benchmark compares with {name}: pip install '.[bench]'")


def test_every_contender_takes_its_steps_and_computes_the_same(peers, tmp_path):
    file = tmp_path / "found.json"
    printed = run("--tiny", "--steps", 2, "--only", "agreement", "lora-8x128", "smollm2-8x128", "--json", file)
    saved = json.loads(file.read_text())
    contenders = saved["rows"]["lora-8x128"]["contenders"]
    assert [name[:3] for name in contenders] == ["tin", "tin", "(a)", "(b)", "(c)", "(d)"]
    llama = saved["rows"]["smollm2-8x128"]["contenders"]
    assert [name[:3] for name in llama] == ["tin", "(d)"]
    for found in [*contenders.values(), *llama.values()]:
        assert len(found["times"]) == 2
        assert min(found["times"]) <= found["median"] <= max(found["times"])
        assert found["peak"] > 1e7
    assert saved["machine"]["threads"] == 2
    agreement = saved["rows"]["agreement"]["bars"]
    assert len(agreement) == 8
    for bar in agreement:
        assert bar["reached"] <= bar["bound"], bar
    markdown = run("--show", file, "--markdown")
    for title in ("LoRA step, 8 × 128", "the same work"):
        assert title in printed
        assert f"| {title} |" in markdown


def test_a_classifier_and_generation_beside_a_busy_neighbour_are_measured(peers, tmp_path):
    file, rows = tmp_path / "found.json", ("smollm2-classes-8x128", "busy-generate")
    run("--tiny", "--steps", 1, "--only", *rows, "--json", file)
    saved = json.loads(file.read_text())["rows"]
    assert [next(iter(saved[row]["contenders"])) for row in rows] == ["tinylora", "tinylora"]
    assert all(len(found["times"]) == 1 for row in rows for found in saved[row]["contenders"].values())


def test_import_and_profile_need_no_peer(tmp_path):
    file = tmp_path / "found.json"
    run("--tiny", "--steps", 1, "--only", "import", "--json", file)
    times = {name: found["median"] for name, found in json.loads(file.read_text())["rows"]["import"]["contenders"].items()}
    assert times["tinylora"] > times["numpy"] > 0
    printed = run("--tiny", "--profile")
    assert "lora_linear, d_A" in printed
    assert "all products" in printed


def test_a_waiting_contender_is_stopped(monkeypatch):
    if not Path("/proc/self/stat").exists():
        pytest.skip("reads the state of a process from /proc")
    monkeypatch.syspath_prepend(BENCHMARKS)
    from workers import Worker

    with Worker("ours", "small_network", {"width": 8, "batch": 4, "repeats": 2}, threads=1) as worker:
        stat = Path(f"/proc/{worker.process.pid}/stat")
        assert worker.run().seconds > 0
        assert stat.read_text().rpartition(")")[2].split()[0] == "T"
    assert not stat.exists()


def test_a_contender_that_fails_is_named(monkeypatch, capfd):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from workers import Worker

    with pytest.raises(RuntimeError, match=r"ours\.train_step.*died"):
        Worker("ours", "train_step", {"heads": 7}, threads=1)
    assert "emb_dim 768 is not divisible by n_heads 7" in capfd.readouterr().err
