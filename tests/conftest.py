"""Hypothesis settings for the whole suite, and tables of differences that were measured: on a GPU, from other libraries."""

import os

import lookups  # before tinylora, whose own lookups it notices
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tinylora import backend

settings.register_profile("quick", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("quick"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

DIFFERENCES = pytest.StashKey[dict[tuple[str, str], float]]()
NOTES = pytest.StashKey[list[str]]()
INTEROP = pytest.StashKey[dict[tuple[str, str], float]]()


def pytest_addoption(parser):
    parser.addoption(
        "--new-packages", action="store_true", help="only tests that packages installed since the run before can change"
    )


def pytest_configure(config):
    config.pluginmanager.register(lookups)
    config.stash[DIFFERENCES] = {}
    config.stash[INTEROP] = {}
    config.stash[NOTES] = []


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The command line in a folder of its own, on the default device."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backend.device, "default", None)
    monkeypatch.delenv("TINYLORA_DEVICE", raising=False)


@pytest.fixture
def differences(request):
    """(what, dtype) -> the largest relative difference between CPU and GPU so far."""
    return request.config.stash[DIFFERENCES]


@pytest.fixture
def note(request):
    """note(line) is shown at the end of the run."""
    return request.config.stash[NOTES].append


@pytest.fixture
def close(request):
    """close(case, quantity, found, expected): they agree to 1e-5 of the largest number; notes by how much they differ.

    `least` is what the largest number is taken for if it is smaller: for arrays that are rounding alone beside others.
    """

    def check(case, quantity, found, expected, least=0.0):
        assert found.shape == expected.shape, f"{case}, {quantity}"
        largest = np.abs(expected).max(initial=least)
        difference = float(np.abs(found - expected).max(initial=0.0) / (largest or 1.0))
        noted = request.config.stash[INTEROP]
        noted[case, quantity] = max(difference, noted.get((case, quantity), 0.0))
        assert difference <= 1e-5, f"{case}, {quantity}: {difference:.1e}"

    return check


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[NOTES]:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(config.stash[NOTES]))
    interop = config.stash[INTEROP]
    if interop:
        terminalreporter.section("largest difference from transformers and PEFT, relative to the largest number")
        quantities = list(dict.fromkeys(quantity for _, quantity in interop))
        terminalreporter.write_line(f"| case | {' | '.join(quantities)} |")
        terminalreporter.write_line("| --- " * (1 + len(quantities)) + "|")
        for case in dict.fromkeys(case for case, _ in interop):
            cells = [f"{interop[case, q]:.0e}" if (case, q) in interop else "" for q in quantities]
            terminalreporter.write_line(f"| {case} | {' | '.join(cells)} |")
    found = config.stash[DIFFERENCES]
    if found:
        terminalreporter.section("largest relative difference, CPU against GPU")
        for what in sorted({name for name, _ in found}):
            cells = [
                f"{dtype} {found[what, dtype]:.2e}" for dtype in ("float32", "float64", "bfloat16") if (what, dtype) in found
            ]
            terminalreporter.write_line(f"{what:24} {'   '.join(cells)}")
