"""`save` and `load`: nested dictionaries and lists of tensors, numbers and texts, in a safetensors file.

The tensors are the file's arrays, under the names of their place ("model.layer.weight"), so that other programs read a saved
state_dict as it is. What else there is stands in the file's metadata, as JSON. No pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinylora.backend import bfloat16, to_device
from tinylora.formats import LoadError, MissingFileError, safetensors
from tinylora.tensor import Tensor

TREE = "tinylora.tree"  # the key of the metadata


def save(obj: Any, f: str | Path) -> None:
    """Write tensors, in dictionaries and lists of any depth, with numbers, texts and None among them, to a file.

    >>> import tempfile, tinylora
    >>> path = tempfile.mktemp()
    >>> model = tinylora.nn.Linear(2, 1)
    >>> tinylora.save({"model": model.state_dict(), "epoch": 3}, path)
    >>> checkpoint = tinylora.load(path)
    >>> checkpoint["epoch"], model.load_state_dict(checkpoint["model"])
    (3, <All keys matched successfully>)

    Raises TypeError for other objects: of a model save `model.state_dict()`. The file is replaced atomically.
    """
    if not isinstance(f, str | Path):
        raise TypeError(f"save writes to a path, not to {type(f).__name__}")
    arrays: dict[str, np.ndarray] = {}
    tree = _described(obj, "", arrays)
    safetensors.save(f, arrays, {TREE: json.dumps(tree)})


def load(f: str | Path, map_location: Any = None, weights_only: bool = True, mmap: bool | None = None, **_: Any) -> Any:
    """What `save` wrote. Tensors are on the CPU, or on the device `map_location`.

    Any other safetensors file is a dictionary of its tensors. A pickle, which is what PyTorch's save writes, is refused.
    Raises LoadError for a damaged file, MissingFileError if there is none.
    """
    if not isinstance(f, str | Path):
        raise TypeError(f"load reads from a path, not from {type(f).__name__}")
    path = Path(f)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    _refuse_pickle_inside(path)
    file = safetensors.Mapped(path, any_name=True)
    where = "cpu" if map_location is None or callable(map_location) or isinstance(map_location, Mapping) else map_location

    def tensor(name: str) -> Tensor:
        array = file.array(name)
        if file.entries[name].dtype == "BF16" and bfloat16.name == "bfloat16":
            array = array.astype(bfloat16)
        return Tensor(to_device(array, where))

    if TREE not in file.metadata:
        return {name: tensor(name) for name in file.entries}
    try:
        return _restored(json.loads(file.metadata[TREE]), tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path}: its description of what was saved is damaged ({error!r})") from None


def _refuse_pickle_inside(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(9)  # of a safetensors file the length of its header, then {
    if (start[:2] == b"PK" or start[:1] == b"\x80") and start[8:] != b"{":
        raise LoadError(
            f"{path}: a pickle, as PyTorch's save writes it, and unpickling runs code. Convert it where PyTorch is: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
        )


def _described(obj: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """`obj` as JSON: plain values as they are, and ["kind", ..] for everything else. Its tensors are added to `arrays`."""
    if isinstance(obj, Tensor | np.ndarray):
        usual = path.isprintable() and path not in ("", "__metadata__") and not set(path) & set("/\\")
        name = path if usual else "tensor"
        while name in arrays:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        arrays[name] = to_device(obj.array, "cpu") if isinstance(obj, Tensor) else obj
        return ["tensor" if isinstance(obj, Tensor) else "array", name]
    if isinstance(obj, np.generic):
        return _described(obj.item(), path, arrays)
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    if isinstance(obj, Mapping):
        items = [(k, v, f"{path}.{k}" if path else str(k)) for k, v in obj.items()]
        if wrong := [k for k, _, _ in items if not isinstance(k, str | int) or isinstance(k, bool)]:
            raise TypeError(f"{path or 'the dictionary'}: keys are texts or integers, not {wrong[0]!r}")
        return ["dict", *([k, _described(v, place, arrays)] for k, v, place in items)]
    if isinstance(obj, list | tuple):
        kind = "list" if isinstance(obj, list) else "tuple"
        return [kind, *(_described(v, f"{path}.{i}" if path else str(i), arrays) for i, v in enumerate(obj))]
    hint = ": save its state_dict()" if hasattr(obj, "state_dict") else ""
    raise TypeError(
        f"{path or 'save'}: tensors, numbers, texts, lists and dictionaries are saved, not {type(obj).__name__}{hint}"
    )


def _restored(tree: Any, tensor: Callable[[str], Tensor]) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, *parts = tree
    if kind == "tensor":
        return tensor(*parts)
    if kind == "array":
        return tensor(*parts).array
    if kind == "dict":
        return {key: _restored(value, tensor) for key, value in parts}
    return {"list": list, "tuple": tuple}[kind](_restored(part, tensor) for part in parts)
