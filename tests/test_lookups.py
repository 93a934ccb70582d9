"""After a package is installed, `--new-packages` runs what it can change, and nothing else."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CONFTEST = """
import lookups, pytest

def pytest_addoption(parser):
    parser.addoption("--new-packages", action="store_true")

def pytest_configure(config):
    config.pluginmanager.register(lookups)
"""
ASK = """
import subprocess, sys
import pytest

def test_imports_it():
    pytest.importorskip("newcomer")

def test_compares_if_it_can():
    try:
        import newcomer
    except ImportError:
        pass

def test_runs_a_process():
    subprocess.run([sys.executable, "--version"])
"""
NEEDS = "import pytest\npytest.importorskip('newcomer')\ndef test_needs_it(): pass"
OTHERS = """
import pytest

def test_asks_for_nothing():
    pass

def test_asks_for_what_is_never_there():
    with pytest.raises(ImportError):
        import another

def test_passes_the_second_time(request):
    assert request.config.option.new_packages
"""
SHARED = """
import importlib.util
import pytest

@pytest.fixture(scope="module")
def shared():
    return importlib.util.find_spec("newcomer")

def test_first(shared):
    pass

def test_second_reads_what_the_first_set_up(shared):
    pass
"""


def run(folder, *options):
    """The names of the tests that ran and passed, and what was printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(folder)]), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:hypothesispytest", *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=240
    )
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    return set(re.findall(r"::(\w+)", "\n".join(passed))), done.stdout + done.stderr


def test_what_a_new_package_can_change_runs_again_and_nothing_else(tmp_path):
    files = {"conftest": CONFTEST, "test_ask": ASK, "test_needs": NEEDS, "test_others": OTHERS, "test_shared": SHARED}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    again = {"test_compares_if_it_can", "test_runs_a_process", "test_first", "test_second_reads_what_the_first_set_up"}
    workers = ("-n", "2") if importlib.util.find_spec("xdist") else ()
    ran, printed = run(tmp_path, *workers)
    assert ran == again | {"test_asks_for_nothing", "test_asks_for_what_is_never_there"}, printed
    (tmp_path / "newcomer.py").write_text("", encoding="utf-8")
    ran, printed = run(tmp_path, *workers, "--new-packages")
    assert ran == again | {"test_imports_it", "test_needs_it", "test_passes_the_second_time"}, printed
