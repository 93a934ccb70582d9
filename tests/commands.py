"""Commands run in this process, and messages for them."""

from tinylora.app import cli, demo
from tinylora.tasks.messages import read_messages


def some_messages(count=60):
    """The first of the boxed messages, half of each class, as TSV."""
    found = read_messages(demo.MESSAGES)
    chosen = [m for label in ("ham", "spam") for m in [m for m in found if m.label == label][: count // 2]]
    return "label\ttext\n" + "".join(f"{m.label}\t{m.text}\n" for m in chosen)


def run(capsys, *arguments):
    """(exit status, standard output, standard error) of a command."""
    capsys.readouterr()
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def failing(capsys, status, *arguments):
    """The one line that a command leaves on standard error when it fails with `status`."""
    found, _, error = run(capsys, *arguments)
    assert found == status, error
    assert error.endswith("\n") and error.count("\n") == 1, error
    assert error.startswith("tinylora") and ": error: " in error
    return error
