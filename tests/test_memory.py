"""The memory that training is said to take is about what it takes, and what cannot fit is refused before it starts."""

import tracemalloc
from pathlib import Path

import pytest
from commands import failing

import tinylora
from tinylora import backend
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.models import save_model
from tinylora.models.gpt import GPTModel
from tinylora.models.llama import LlamaModel
from tinylora.tasks import Classify, Text
from tinylora.tasks.messages import Message
from tinylora.text.tokenizer import BYTES
from tinylora.training import memory
from tinylora.training.loop import TrainConfig, Trainer
from tinylora.training.memory import free_memory, training_need, weights_need
from tinylora.training.recompute import checkpoint_modules

SIZES = {"vocab_size": 257, "context_length": 512, "emb_dim": 64, "n_heads": 4, "n_layers": 4}
GPT = GPTModel, {**SIZES, "drop_rate": 0.0, "qkv_bias": True}
LLAMA = LlamaModel, {**SIZES, "n_kv_heads": 2, "hidden_dim": 176}
CPU = backend.device("cpu")
FACTOR = 1.4  # what is said and what is taken are apart by less


def trainer(kind, changes, text=False, length=64, rows=8, recomputed=False):
    build, sizes = kind
    tinylora.manual_seed(0)
    model = build({**sizes, **changes})
    task = Text(BYTES, length) if text else Classify(BYTES, length, ("a", "b"))
    task.head(model)
    apply_lora(model, LoRAConfig(rank=8, alpha=8, train=task.whole))
    if recomputed:
        checkpoint_modules(model.trf_blocks)
    line = "x" * (length - 1)
    examples = [line if text else Message("ab"[i % 2], line) for i in range(rows)]
    return Trainer(model, task, examples, examples, TrainConfig(batch_size=rows))


@pytest.mark.parametrize("kind", [GPT, LLAMA], ids=["gpt", "llama"])
@pytest.mark.parametrize(
    "changes, options",
    [
        ({}, {}), ({"n_layers": 8}, {}), ({"emb_dim": 128}, {}), ({"n_heads": 8, "n_kv_heads": 8}, {}),
        ({}, {"length": 192}), ({}, {"length": 448, "rows": 2}), ({}, {"rows": 24}), ({}, {"text": True}),
        ({"vocab_size": 3000}, {"text": True}), ({"n_layers": 8}, {"recomputed": True}),
        ({"vocab_size": 3000}, {"text": True, "recomputed": True}),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_takes_about_what_was_said(kind, changes, options):
    changes = {name: value for name, value in changes.items() if kind is LLAMA or name != "n_kv_heads"}
    found = trainer(kind, changes, **options)
    model, recomputed = found.model.train(), options.get("recomputed", False)
    said = found.plan(recomputed).memory
    parts = found._steps_of(1)[0]
    tracemalloc.start()  # m, v and the gradients are made in this step; the best values so far were made before
    try:
        found.step(parts)
        taken = tracemalloc.get_traced_memory()[1] + sum(p.array.nbytes for p in model.parameters() if p.requires_grad)
    finally:
        tracemalloc.stop()
    assert 1 / FACTOR < said / taken < FACTOR, f"said {said / 1e6:.1f} MB, taken {taken / 1e6:.1f} MB"


def test_the_weights_of_a_model_are_counted_without_making_them():
    for build, sizes in (GPT, LLAMA):
        model = build(sizes)
        assert weights_need(build, model.cfg) == sum(p.array.nbytes for p in model.parameters())
    assert weights_need(GPTModel, GPTModel.config.of(GPTModel.presets["gpt2-xl"])) > 6e9


def test_free_memory_is_a_number_that_falls_when_memory_is_taken():
    before = free_memory(CPU)
    if before is None:
        pytest.skip("this system does not say how much memory is free")
    assert before > 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_limits_what_is_free(tmp_path, monkeypatch, version):
    """As in a container: its own limit, and that of the group above it."""
    limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    base = tmp_path / "memory" if version == 1 else tmp_path
    for folder, numbers in ((base / "job", (5_000, 1_000)), (base, (4_500, 2_000))):
        folder.mkdir(parents=True, exist_ok=True)
        for name, number in zip((limit, used), numbers, strict=True):
            (folder / name).write_text(f"{number}\n")
        (folder / "memory.stat").write_text("anon 7\ninactive_file 500\n")
    (tmp_path / "groups").write_text("4:memory:/job\n3:cpu:/job\n" if version == 1 else "0::/job\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "groups")
    assert sorted(memory._cgroups()) == [3_000, 4_500]
    (base / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert min(memory._cgroups()) == 4_500


@pytest.mark.usefixtures("own_folder")
def test_what_does_not_fit_is_refused_before_training_with_what_to_change(capsys, monkeypatch):
    Path("m.tsv").write_text("label\ttext\n" + "".join(f"{'ab'[i % 2]}\tmessage {i}\n" for i in range(60)))
    save_model(GPTModel(GPT[1]), "tiny")
    command = ["finetune", "m.tsv", "--model", "tiny", "--rank", 4, "--out", "out"]
    monkeypatch.setattr(memory, "free_memory", lambda where: 3_000_000)
    line = failing(capsys, 1, *command)
    assert "this training would take about" in line and "and 3 MB are free" in line
    assert "smaller batch_size" in line and "accumulate" in line and "checkpoint" in line
    monkeypatch.setattr(memory, "free_memory", lambda where: 500_000)
    assert "tiny in float32 would take about 1 MB of memory, and 0 MB are free" in failing(capsys, 1, *command)
    assert not Path("out").exists()


def test_a_need_is_the_sum_of_its_parts():
    model = trainer(GPT, {}).model
    need = training_need(model, memory.Batch(8, 64, 8))
    more = training_need(model, memory.Batch(16, 64, 16))
    assert need.total == need.trained + need.activations and more.activations == 2 * need.activations
    assert more.trained == need.trained == 5 * sum(p.array.nbytes for p in model.parameters() if p.requires_grad)
