"""Contenders in processes of their own, that work on command and one at a time.

A process that waits is stopped (SIGSTOP), with all its threads: no library's idle threads can spin on a core while another
contender is timed, and no library's own settings had to be touched for it. `Worker` is the parent's end; run as a program,
this file is the child's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

DISTURBED, TRIES = 0.05, 3  # a call during which other programs took more of the processor is timed again, so often at most
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """This process's variables, with the number of threads for every library that reads one."""
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


class Sample(NamedTuple):
    """One timed call: its seconds, the most bytes that the process has ever held, and others' share of the processor."""

    seconds: float
    peak: int
    others: float = 0.0


class Worker:
    """A process that has called `module.job(**options)` and holds what came back, to be timed by `run`."""

    def __init__(self, module: str, job: str, options: dict[str, Any], threads: int) -> None:
        self.name = f"{module}.{job}({options})"
        order = json.dumps({"module": module, "job": job, "options": options, "threads": threads})
        self.process = subprocess.Popen(
            [sys.executable, __file__, order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads),
            start_new_session=True,  # a group of its own: its helpers are stopped with it
        )
        self._answer()

    def run(self) -> Sample:
        """Wake the process, let it work once, and stop it."""
        before = others_seconds(self.process.pid)
        os.killpg(self.process.pid, signal.SIGCONT)
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        sample = self._answer()
        others = others_seconds(self.process.pid) - before
        return sample._replace(others=max(0.0, others / sample.seconds / (os.cpu_count() or 1)))

    def run_undisturbed(self, tries: int = TRIES) -> Sample:
        """Run until no other program disturbs, `tries` times at most: the run that was disturbed least."""
        best = self.run()
        for _ in range(tries - 1):
            if best.others <= DISTURBED:
                break
            best = min(best, self.run(), key=lambda sample: sample.others)
        return best

    def _answer(self) -> Sample:
        line = self.process.stdout.readline()
        if not line:
            self.__exit__()
            raise RuntimeError(f"{self.name} died: its error stands above")
        os.killpg(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # until it has stopped
        return Sample(**json.loads(line))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Another program that keeps one core busy, always the same one where the system can say so."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()


def alternate(workers: dict[str, Worker], steps: int, warm_up: int, tries: int = TRIES) -> dict[str, dict[str, Any]]:
    """Let the workers take turns, `steps` rounds after `warm_up` calls of each: per name the times, median and peak memory.

    Each round begins with another worker, so that none always follows the same one. A disturbed call is timed again, `tries`
    times at most.
    """
    names = list(workers)
    for name in names:
        for _ in range(warm_up):
            workers[name].run()
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for i in range(steps):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            samples[name].append(workers[name].run_undisturbed(tries))
    return {name: summary(*zip(*found, strict=True)) for name, found in samples.items()}


def summary(times: Sequence[float], peaks: Sequence[int] = (0,), others: Sequence[float] = (0.0,)) -> dict[str, Any]:
    """The record of one contender, as it stands in the JSON file: seconds, bytes, share of the processor."""
    return {"median": median(times), "times": times, "peak": max(peaks), "others": median(others)}


def others_seconds(process: int) -> float:
    """Seconds of processor time that the machine has spent on anything but `process`; 0 where /proc does not say."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    own = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (user + nice + system + sum(interrupts) - sum(map(int, own))) / os.sysconf("SC_CLK_TCK")


def in_fresh_process(module: str, options: dict[str, Any], threads: int) -> Any:
    """What `module.measure(**options)` returns in a process of its own."""
    code = f"import json, sys, {module}; print(json.dumps({module}.measure(**json.loads(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(options)],
        env={**environment(threads), "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------ in the child
def peak_memory() -> int:
    """The most bytes this process ever held in memory, by the system's accounting."""
    if (status := Path("/proc/self/status")).exists():  # of this program alone; ru_maxrss counts what was before exec, too
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(module: str, job: str, options: dict[str, Any], threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    contender = importlib.import_module(module)
    if hasattr(contender, "torch"):
        contender.torch.set_num_threads(threads)
    call = getattr(contender, job)(**options)
    print(json.dumps(Sample(0.0, peak_memory())._asdict()), file=answers, flush=True)
    for _ in sys.stdin:
        started = perf_counter()
        call()
        seconds = perf_counter() - started
        print(json.dumps(Sample(seconds, peak_memory())._asdict()), file=answers, flush=True)


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
