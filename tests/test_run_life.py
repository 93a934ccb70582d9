"""A run's folder: locked while it is in use, honest about its state, and usable again after whatever went wrong."""

import errno
import json
import os
import resource as limits
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import kills
import numpy as np
import pytest
from commands import failing, run
from kills import OPTIONS
from life import RUN, At, files, interrupted_at, same, send, start, status

from tinylora.app import terminal
from tinylora.formats import LoadError, safetensors
from tinylora.runs import finetune as finetuning
from tinylora.runs import open_run
from tinylora.runs.finetune import finetune, resume
from tinylora.runs.lock import FolderError, Lock, in_use
from tinylora.runs.recipe import interval
from tinylora.runs.run import Run
from tinylora.runs.signals import InterruptedRunError
from tinylora.tasks import Classify
from tinylora.tasks.metrics import Metrics
from tinylora.training.loop import Trainer

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """m.tsv and tiny/; whole/ is a run that nobody disturbed."""
    at = tmp_path_factory.mktemp("life")
    kills.prepare(at)
    finetune(at / "tiny", at / "m.tsv", out=at / "whole", **OPTIONS)
    return at


def arguments(folder, *more):
    """The command line of `start`."""
    options = [f"--{name.replace('_', '-')}={OPTIONS[name]}" for name in ("rank", "epochs", "lr", "save_every")]
    return ["finetune", folder / "m.tsv", "--model", folder / "tiny", "--out", "out", "--batch-size", 6, *options, *more]


def about(out="out"):
    return json.loads((Path(out) / "config.json").read_text())


# ------------------------------------------------------------------------------------------ one at a time
def test_a_second_run_into_a_folder_is_refused_at_once_and_the_first_goes_on(folder):
    refused = []

    def again():
        for more in ({}, {"resume": True}):
            with pytest.raises(FolderError, match=f"out is in use by another run \\(process {os.getpid()}\\)"):
                start(folder, **more)
            refused.append(more)
        with pytest.raises(LoadError, match="out: this run is still going on"):
            Run.load("out")

    start(folder, reporter=At(5, again))
    same("out", folder / "whole")
    assert len(refused) == 2


def test_the_lock_of_a_dead_process_locks_nobody_out(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tinylora.runs.lock import Lock; held = Lock(Path('lock')); "
        "print(flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    holder.stdout.readline()
    assert in_use(Path("lock"))
    with pytest.raises(FolderError, match=f"process {holder.pid}"):
        Lock(Path("lock"))
    holder.kill()
    holder.communicate()
    assert Path("lock").exists() and not in_use(Path("lock"))
    Lock(Path("lock")).release()
    assert not Path("lock").exists()


def test_a_lock_that_was_removed_while_another_waited_for_it_excludes_nobody(monkeypatch):
    first = Lock(Path("lock"))
    held = threading.Event()

    def second():
        while True:
            try:
                found.append(Lock(Path("lock")))
            except FolderError:
                continue
            held.set()
            return

    found = []
    thread = threading.Thread(target=second)
    thread.start()
    first.release()
    assert held.wait(10) and in_use(Path("lock"))
    thread.join()
    found[0].release()


# ------------------------------------------------------------------------------------------ its state
def test_config_json_says_at_every_moment_how_the_run_stands(folder):
    seen = []
    with pytest.raises(InterruptedRunError):
        start(folder, reporter=At(3, lambda: (seen.append(about()), send(signal.SIGINT)())))
    (during,) = seen
    assert during["status"] == "running" and during["recipe"]["rank"] == 4 and during["task"]["labels"] == ["ham", "spam"]
    assert set(during["versions"]) == {"tinylora", "numpy", "python"} and len(during["files"]["data"]["sha256"]) == 64
    assert about()["status"] == "interrupted" and "SIGINT" in about()["reason"]
    resume("out")
    assert about()["status"] == "finished" and "reason" not in about() and files("out") == RUN


def test_an_unfinished_run_is_no_model(capsys, folder):
    interrupted_at(folder, 10)
    for load in (lambda: Run.load("out"), lambda: Run.load(Path("out"))):
        with pytest.raises(LoadError, match="out: this run is interrupted: `tinylora resume out` goes on with it"):
            load()
    for command in (
        ["generate", "--model", "out"],
        ["generate", "--adapter", "out"],
        ["predict", "out", "hi"],
        ["merge", "out", "--out", "m"],
        ["inspect", "out"],
    ):
        assert "tinylora resume out" in failing(capsys, 1, *command)
    line = failing(capsys, 2, *arguments(folder))
    assert "out is not empty" in line and "tinylora resume out" in line
    assert not Path("m").exists()


def test_a_finished_run_is_not_run_again(capsys, folder):
    start(folder)
    before = {name: (Path("out") / name).read_bytes() for name in RUN}
    code, out, error = run(capsys, "resume", "out")
    assert (code, error) == (0, "") and "out is finished" in out
    note = At()
    assert start(folder, reporter=note, resume=True).predict(["win now"]) == Run.load("out").predict(["win now"])
    assert note.steps == [] and "out is finished" in note.notes[0]
    assert {name: (Path("out") / name).read_bytes() for name in RUN} == before
    with pytest.raises(FolderError, match="not empty"):
        start(folder)


def test_resume_starts_the_run_where_there_is_none_yet_and_nothing_else(capsys, folder):
    start(folder, resume=True)
    same("out", folder / "whole")
    assert "config.json: no such file" in failing(capsys, 1, "resume", "absent")
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    assert "no run that could go on" in failing(capsys, 2, *arguments(folder, "--resume", "--out", "other"))
    assert files("other") == {"notes.txt"} and not Path("absent").exists()


def test_a_run_can_go_on_from_another_folder(folder, tmp_path, monkeypatch):
    kills.prepare(tmp_path)
    with pytest.raises(InterruptedRunError):
        finetune("tiny", "m.tsv", out="out", reporter=At(5, send(signal.SIGINT)), **OPTIONS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume("../out")
    assert status("../out") == "finished"


# ------------------------------------------------------------------------------------------ other arguments
def test_each_difference_is_named_and_nothing_is_trained(capsys, folder, monkeypatch, tmp_path):
    interrupted_at(folder, 5)
    before = about()
    monkeypatch.setattr(finetuning, "Trainer", None)
    with pytest.raises(FolderError) as found:
        start(folder, resume=True, rank=8, lr=1e-3, targets=("W_query",), patience=2)
    for words in ("rank was 4, is now 8", "lr was 0.01, is now 0.001", "targets was all-linear, is now W_query",
                  "patience was not given, is now 2"):  # fmt: skip
        assert words in str(found.value)
    assert "epochs" not in str(found.value)
    other = tmp_path / "m.tsv"
    other.write_text((folder / "m.tsv").read_text() + "ham\tone more\n")
    with pytest.raises(FolderError, match=f"the content of {other} is another one"):
        finetune(folder / "tiny", other, out="out", resume=True, **OPTIONS)
    line = failing(capsys, 2, *arguments(folder, "--resume", "--seed", 7))
    assert "seed was 0, is now 7" in line and "batch_size was 2, is now 6" in line
    assert about() == before


def test_the_same_data_under_another_name_is_the_same_data(folder, tmp_path):
    interrupted_at(folder, 5)
    (tmp_path / "copy.tsv").write_bytes((folder / "m.tsv").read_bytes())
    finetune(folder / "tiny", "copy.tsv", out="out", resume=True, **OPTIONS)
    assert (Path("out") / "adapter.safetensors").read_bytes() == (folder / "whole" / "adapter.safetensors").read_bytes()


def test_a_base_that_changed_is_refused(folder, tmp_path):
    kills.prepare(tmp_path)
    with pytest.raises(InterruptedRunError):
        finetune("tiny", "m.tsv", out="out", reporter=At(5, send(signal.SIGINT)), **OPTIONS)
    arrays, metadata = safetensors.load("tiny/model.safetensors")
    arrays["tok_emb.weight"] += 1
    safetensors.save("tiny/model.safetensors", arrays, metadata)
    with pytest.raises(FolderError, match="tiny has changed since"):
        resume("out")


@pytest.mark.parametrize("every", ["0", "-1", "1.5", "s", "nans", "-2s", "infs", "soon", ""])
def test_save_every_is_a_number_of_steps_or_seconds(capsys, folder, every):
    with pytest.raises(ValueError, match="save_every is a number of steps"):
        interval(every)
    assert "save_every is a number of steps" in failing(capsys, 2, *arguments(folder, f"--save-every={every}"))


# ------------------------------------------------------------------------------------------ damage
def damage_cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def damage_flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, Path.unlink, lambda f: f.write_bytes(b"")])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(folder, damage):
    interrupted_at(folder, 7)
    *_, newest = sorted(Path("out/checkpoints").glob("*.safetensors"))
    assert len(list(Path("out/checkpoints").iterdir())) == 4  # two, each with its marker
    damage(newest)
    there = At()
    resume("out", there)
    assert f"{newest} is damaged" in there.notes[0] and there.steps[0] == 7
    same("out", folder / "whole")


def test_without_a_complete_checkpoint_the_run_begins_anew(folder):
    interrupted_at(folder, 7)
    for file in Path("out/checkpoints").glob("*.safetensors"):
        damage_flip(file)
    there = At()
    resume("out", there)
    assert "no checkpoint is complete: the run begins anew" in there.notes and there.steps[0] == 1
    same("out", folder / "whole")


def test_a_payload_without_its_marker_is_no_checkpoint(folder):
    """A process was killed between the two."""
    interrupted_at(folder, 7)
    max(Path("out/checkpoints").glob("*.json")).unlink()
    Path("out/checkpoints/.x.tinylora-part").write_text("half")
    Path("out/.config.json.x.tinylora-part").write_text("half")
    there = At()
    resume("out", there)
    assert there.steps[0] == 7
    same("out", folder / "whole")


# ------------------------------------------------------------------------------------------ signals
@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_step_and_the_exit_status_says_which(capsys, folder, monkeypatch, name, code):
    handlers = [signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM", "SIGHUP")]
    stepped = terminal.Training.stepped

    def at_the_third(self, step):
        stepped(self, step)
        if step.step == 3:
            os.kill(os.getpid(), getattr(signal, name))

    with monkeypatch.context() as patch:
        patch.setattr(terminal.Training, "stepped", at_the_third)
        found, _, error = run(capsys, *arguments(folder))
    assert (found, error) == (code, "tinylora: interrupted: `tinylora resume out` goes on\n")
    assert handlers == [signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM", "SIGHUP")]
    assert status() == "interrupted" and "adapter.safetensors" not in files("out")
    assert (Path("out") / "metrics.jsonl").read_bytes().count(b"\n") == 3
    code, out, error = run(capsys, "resume", "out")
    assert (code, error) == (0, "") and "going on after step 3 of" in out


def test_a_second_signal_does_not_wait_and_loses_no_checkpoint(folder, monkeypatch):
    step = Trainer.step

    def twice(self, parts):
        done = step(self, parts)
        if done.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal has not come")
        return done

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        patch.setattr(Trainer, "step", twice)
        start(folder)
    assert status() == "interrupted"
    there = At()
    resume("out", there)
    assert there.steps[0] == 7  # the checkpoint of step 6
    same("out", folder / "whole")


def test_a_signal_before_training_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(Classify, "head", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedRunError, match="interrupted: nothing was written"):
        start(folder, "deep/out")
    assert not Path("deep").exists()


def test_in_another_thread_no_handler_is_installed(folder):
    done = []

    def there():
        start(folder, reporter=At(2, lambda: done.append(signal.getsignal(signal.SIGTERM))))

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert done == [signal.SIG_DFL]
    same("out", folder / "whole")


def test_signals_that_the_program_ignores_or_handles_stay_its_own(folder):
    mine = lambda *_: None
    before = [signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, mine)]
    try:
        start(folder, reporter=At(2, send(signal.SIGHUP)))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGHUP, before[0]), signal.signal(signal.SIGTERM, before[1])
    same("out", folder / "whole")


# ------------------------------------------------------------------------------------------ failures
def spoiled_at(number, monkeypatch):
    """The loss of that step, and of all that follow, is NaN."""
    step = Trainer.step

    def spoiled(self, parts):
        if self.state.step == number - 1:
            for p in self.state.trained.values():
                p.array = p.array * float("nan")
        return step(self, parts)

    monkeypatch.setattr(Trainer, "step", spoiled)


def test_a_loss_that_becomes_nan_after_good_epochs_leaves_the_best_one(capsys, folder, monkeypatch):
    spoiled_at(10, monkeypatch)
    with pytest.raises(FloatingPointError) as found:
        start(folder)
    error = str(found.value)
    assert "NaN or infinite at step 10" in error and "the best state before, of epoch 1, is kept, in out" in error
    assert files("out") == RUN and status() == "failed" and "step 10" in about()["reason"]
    assert about()["best"] == {"epoch": 1, "step": 7}
    assert len(Run.load("out").predict(["win now", "see you"])) == 2
    assert "out has failed: the loss became NaN" in failing(capsys, 2, "resume", "out")


def test_a_loss_that_is_nan_before_any_good_epoch_leaves_nothing_to_mistake_for_a_result(folder, monkeypatch):
    spoiled_at(3, monkeypatch)
    with pytest.raises(FloatingPointError, match="NaN or infinite at step 3"):
        start(folder, save_every=None)
    assert not Path("out").exists()


def test_a_pissa_run_is_saved_as_the_lora_that_it_is(folder):
    found = start(folder, variant="pissa", dropout=0.0)
    texts = ["win a prize now", "see you at home"]
    again = Run.load("out")
    assert again.task.probabilities(again.model, texts) == pytest.approx(
        found.task.probabilities(found.model, texts), abs=1e-5
    )


@pytest.mark.parametrize(
    "file, code",
    [
        ("000002.safetensors", errno.ENOSPC), ("000002.json", errno.EDQUOT), ("adapter.safetensors", errno.EFBIG),
        ("config.json", errno.ENOSPC),
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line_and_trying_again_works(capsys, folder, monkeypatch, code, file):
    atomic, written = safetensors.atomic, []

    def full(path):
        written.append(Path(path).name)
        if written[-1] == file and written.count(file) > (2 if file == "config.json" else 0):
            raise OSError(code, os.strerror(code), str(path))
        return atomic(path)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "atomic", full)
        with pytest.raises(OSError, match=f"{os.strerror(code)}.*{file}"):
            start(folder)
    assert status() in ("failed", "running") and "lock" not in files("out")
    resume("out")
    same("out", folder / "whole")


@pytest.mark.parametrize("size, name", [(500, "metrics.jsonl"), (4_000, "checkpoints/000001.safetensors")])
def test_a_file_that_may_not_grow_is_named(folder, size, name):
    """RLIMIT_FSIZE, as `ulimit -f` sets it, from the first step on."""
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    save_every = 14 if name == "metrics.jsonl" else 2
    with pytest.raises(OSError, match=f"File too large: 'out/{name}'"):
        try:
            start(folder, reporter=At(1, lambda: limits.setrlimit(limits.RLIMIT_FSIZE, (size, hard))), save_every=save_every)
        finally:
            limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    start(folder, resume=True)
    same("out", folder / "whole")


def test_a_full_disk_before_the_first_checkpoint_does_not_block_the_same_command(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(open_run.Checkpoints, "save", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        start(folder)
    start(folder)
    same("out", folder / "whole")


def test_a_closed_pipe_does_not_end_training(folder, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    process = kills.process(["-m", "tinylora", *arguments(folder)], cwd=tmp_path, stdout=writer)
    os.close(writer)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "") and status() == "finished"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_an_output_that_cannot_be_written_does_not_end_training(folder, redirect):
    words = " ".join(shlex.quote(str(word)) for word in [sys.executable, "-m", "tinylora", *arguments(folder)])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run(["sh", "-c", f"{words} {redirect}"], capture_output=True, text=True, env=environment, check=False)
    assert (found.returncode, found.stderr) == (0, "") and status() == "finished"


def test_merge_leaves_nothing_half_written(capsys, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "write", lambda path, content: (_ for _ in ()).throw(OSError(28, "full", str(path))))
        assert "config.json" in failing(capsys, 1, "merge", folder / "whole", "--out", "deep/merged")
    assert not Path("deep").exists()
    assert run(capsys, "merge", folder / "whole", "--out", "deep/merged")[0] == 0
    assert len(Run.load("deep/merged").predict(["win now"])) == 1


def test_the_kept_epoch_is_named(folder, monkeypatch):
    found = iter([Metrics(("ham", "spam"), np.array([[right, 10 - right], [0, 0]]), 0.5) for right in (9, 8)])
    monkeypatch.setattr(Classify, "validate", lambda self, model, examples: next(found))
    there = At()
    start(folder, reporter=there)
    assert any("kept: the state after epoch 1, step 7" in text for text in there.notes)
    assert about()["best"] == {"epoch": 1, "step": 7}
    assert about()["trained"] == {"epochs": 2, "steps": 14, "planned_steps": 14}
