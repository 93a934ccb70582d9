"""Reads and writes files of named arrays and JSON; knows nothing of models. Invalid files raise LoadError."""


class LoadError(ValueError):
    """A file or folder that is invalid or not supported. The message names it, in one line or with a list of faults."""


class MissingFileError(LoadError, FileNotFoundError):
    """A file that does not exist."""

    def __str__(self) -> str:  # OSError's own __str__ shows errno and file name
        return str(self.args[0])
