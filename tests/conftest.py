"""Hypothesis settings for the whole suite, and the table of differences that tests/test_gpu.py measured."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("quick", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("quick"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

DIFFERENCES = pytest.StashKey[dict[tuple[str, str], float]]()


def pytest_configure(config):
    config.stash[DIFFERENCES] = {}


@pytest.fixture
def differences(request):
    """(what, dtype) -> the largest relative difference between CPU and GPU so far."""
    return request.config.stash[DIFFERENCES]


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash[DIFFERENCES]
    if found:
        terminalreporter.section("largest relative difference, CPU against GPU")
        for what in sorted({name for name, _ in found}):
            cells = [f"{dtype} {found[what, dtype]:.2e}" for dtype in ("float32", "float64") if (what, dtype) in found]
            terminalreporter.write_line(f"{what:24} {'   '.join(cells)}")
