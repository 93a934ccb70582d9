"""Estimates the memory that training takes, and compares it with what is free before it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tinylora import backend
from tinylora.kernels.cpu.attention import SHORT
from tinylora.models.decoder import Decoder
from tinylora.nn import Module

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
FLOAT = 4  # bytes: activations are float32, or take less


class Batch(NamedTuple):
    """The size of a batch: texts, the tokens of each with padding, and the positions where something is predicted."""

    rows: int
    length: int
    predicted: float


class Need(NamedTuple):
    """Bytes that training takes beside the model: gradients, optimizer and copies of what is trained; activations."""

    trained: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


def training_need(model: Decoder, batch: Batch, recomputed: bool = False) -> Need:
    """What a step on `batch` needs. `recomputed`: blocks are checkpointed.

    Of what is trained there are a gradient, m, v, the best values so far, and for a moment the new values. For each token a
    block keeps what its Linears return, up to SHORT positions half a number for each head and position, and what they
    read: twice its norms' output, the feed-forward's hidden values, and the residual stream. The loss takes three numbers
    for each class and predicted position: scores, probabilities and their gradient. tests/test_memory.py compares with what
    steps take.
    """
    trained = sum(p.array.nbytes for p in model.parameters() if p.requires_grad)
    tokens, classes = batch.rows * batch.length, getattr(model.out_head, "linear", model.out_head).out_features
    blocks = [_kept_by(block, model, batch.length) * tokens for block in model.trf_blocks]
    around, loss = 4 * model.cfg.emb_dim * tokens, 3 * batch.predicted * classes
    light = len(blocks) * model.cfg.emb_dim * tokens + max(
        2 * max(blocks), loss
    )  # inputs; one block, or the loss, at a time
    kept = light if recomputed else sum(blocks) + loss
    return Need(5 * trained, int(FLOAT * (kept + around)))


def _kept_by(block: Module, model: Decoder, length: int) -> float:
    """Numbers that a block keeps for each token."""
    shapes = [p.shape for name, p in block.named_parameters() if len(p.shape) == 2]
    linears = [(m.in_features, m.out_features) for m in block.modules() if hasattr(m, "in_features")]
    ranks = sum(min(shape) for shape in shapes) - sum(min(i, o) for i, o in linears)  # of LoRA's A and B, counted twice
    widest = max((i for i, _ in linears), default=0)
    attention = model.cfg.n_heads * length / 2 if length <= SHORT else 0
    return sum(o for _, o in linears) + widest + 3 * model.cfg.emb_dim + max(0, ranks) / 2 + attention


def weights_need(model: type[Decoder], config: object) -> int:
    """Bytes of a model's weights in float32, without making them."""
    with backend.device("meta"):
        return model(config).summary().bytes  # type: ignore[arg-type]


def check(need: int, where: backend.device, what: str, advice: str) -> None:
    """Raise MemoryError if `need` bytes are more than are free on a device."""
    free = free_memory(where)
    if free is not None and need > free:
        raise MemoryError(f"{what} would take about {gigabytes(need)} of memory, and {gigabytes(free)} are free: {advice}")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


# ------------------------------------------------------------------------------------------- what is free
def free_memory(where: backend.device) -> int | None:
    """Bytes that this process can still take on a device, None if that is not known (on a CPU elsewhere than on Linux)."""
    if where == "cuda":
        cupy = backend.cupy()
        return int(cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes())
    found = [*_system(), *_cgroups(), *_limits()]
    return max(0, min(found)) if found else None


def _system() -> Iterable[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        yield sum(int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree") if name in rows)


def _cgroups() -> Iterable[int]:
    """For each control group that this process is in, versions 1 and 2: its limit less what is in use and not cached."""
    with contextlib.suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            base = CGROUPS / controllers
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            for folder in (base / path.lstrip("/"), *(base / path.lstrip("/")).parents):
                if not folder.is_relative_to(base):
                    break
                with contextlib.suppress(OSError, ValueError):  # "max": no limit
                    limit, used = (int((folder / name).read_text()) for name in names)
                    rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    yield limit - used + int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))


def _limits() -> Iterable[int]:
    """The limit of this process's address space (`ulimit -v`) less what it has."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield soft - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
