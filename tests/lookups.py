"""A plugin: after new packages are installed, `--new-packages` runs again only the tests whose outcome they can change.

A test cannot know of a package without importing or finding it. So each run notes, per test that passed, the modules that
were looked for in vain, during the test itself, the import of its file, its shared fixtures, or the start of the run, and
whether it started a process, which may look for anything. `--new-packages`, right after such a run, leaves out each test
that passed, started no process, and looked for nothing that can be found now. What was skipped runs, and what failed.
"""

import importlib.util
import sys

import hypothesis.strategies  # noqa: F401, what it looks for itself is no test's concern: before the notes begin
import pytest

NOTES = "tinylora/lookups"
A_PROCESS = "a process"  # stands among the names of modules; no module is called that
STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system"}

missed = {"": set()}  # "", a file or a test -> what was looked for in vain while it was imported, set up or run
current = [""]
passed = {}  # test -> what it looked for; only in the process that reports
broken = set()


class Last:
    """The last finder of sys.meta_path: asked only for what no other finder has found, it takes note and finds nothing."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        missed.setdefault(current[-1], set()).add(name)


def notice_processes(event, _):
    if event in STARTS and len(current) > 1:  # those outside of all hooks below are pytest-xdist's
        missed.setdefault(current[-1], set()).add(A_PROCESS)


sys.meta_path.append(Last)
sys.addaudithook(notice_processes)


def attributed_to(place):
    """What is looked for during the rest of the hook belongs to `place`."""
    current.append(place)
    try:
        return (yield)
    finally:
        current.pop()


def file_of(nodeid):
    """The test's file, or "" for a folder."""
    path = nodeid.partition("::")[0]
    return path if path.endswith(".py") else ""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return (yield from attributed_to(file_of(collector.nodeid)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    return (yield from attributed_to(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """A fixture that several tests share is set up during the first of them, and counts for all."""
    places = {"function": current[-1], "session": "", "package": ""}
    return (yield from attributed_to(places.get(fixturedef.scope, file_of(request.node.nodeid))))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    report.lookups = sorted(set().union(*(missed.get(place, ()) for place in ("", file_of(item.nodeid), item.nodeid))))
    return report  # with pytest-xdist it travels to the process that reports


def pytest_runtest_logreport(report):
    passed[report.nodeid] = getattr(report, "lookups", [])  # of a process that died there are none, and the test failed
    if report.outcome != "passed":
        broken.add(report.nodeid)


def can_be_found(name):
    try:
        return name == A_PROCESS or importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # no such parent; found, but without a spec
        return name in sys.modules


def pytest_collection_modifyitems(config, items):
    if not config.option.new_packages:
        return
    last = config.cache.get(NOTES, None)
    if last is None:
        raise pytest.UsageError("--new-packages needs the notes of a run before: run the tests without it first")
    found = {name for name in set().union(*last.values()) if can_be_found(name)}
    same = [item for item in items if item.nodeid in last and found.isdisjoint(last[item.nodeid])]
    config.hook.pytest_deselected(items=same)
    left_out = set(same)
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session):
    config = session.config
    if not (config.option.new_packages or hasattr(config, "workerinput")):
        config.cache.set(NOTES, {test: names for test, names in passed.items() if test not in broken})
