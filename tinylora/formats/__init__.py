"""Weights and configurations on disk: names and arrays, nothing of models. Whatever cannot be used raises LoadError."""


class LoadError(ValueError):
    """A file or folder that is not what it should be. The message names it, in one line or a list of faults."""


class MissingFileError(LoadError, FileNotFoundError):
    """A file that is not there."""

    def __str__(self) -> str:  # OSError would show its own arguments
        return str(self.args[0])
