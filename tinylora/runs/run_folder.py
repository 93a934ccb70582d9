"""The folder of a fine-tuning run: written by `finetune` or by PEFT, read by `predict`, `generate` and `merge`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tinylora.adapters import LoRAConfig, load_adapter, merge_and_unload, read_adapter, save_adapter
from tinylora.adapters.peft.load import is_peft, read_peft
from tinylora.adapters.variants import Int8Linear, NF4Linear, QuantizedLinear, quantize
from tinylora.formats import LoadError, MissingFileError, safetensors, shards, strict_json
from tinylora.lora import lora_modules
from tinylora.models.decoder import Decoder
from tinylora.models.source import ModelSource
from tinylora.runs.lock import FolderError, Lock, in_use

ADAPTER, CONFIG, METRICS = RUN_FILES = ("adapter.safetensors", "config.json", "metrics.jsonl")
BITS: dict[int, type[QuantizedLinear]] = {8: Int8Linear, 4: NF4Linear}  # how a base is quantised
CHECKPOINTS, LOCK = "checkpoints", "lock"  # while a run goes on, or can


def check_output(folder: Path) -> None:
    """Raise FolderError unless `folder` is writable and empty, or does not exist."""
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file: give the name of a folder")
    if unfinished(folder):
        raise FolderError(
            f"{folder} is not empty: it holds a run that is not finished; {to_resume(folder)} goes on with it, "
            "or give another folder"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderError(f"{folder} is not empty: it may hold another run; give another folder")
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise FolderError(f"{folder} cannot be written: {existing} is not a folder with permission to write")


def unfinished(folder: Path) -> str:
    """Whether a run in `folder` has begun and not ended: its status in config.json; else ""."""
    try:
        status = strict_json.read_optional(folder / CONFIG).get("status", "finished")
    except LoadError:
        return ""
    over = status == "finished" or (status == "failed" and (is_peft(folder) or (folder / ADAPTER).is_file()))
    return "" if over else str(status)


def to_resume(folder: str | Path) -> str:
    """The command that goes on with a run."""
    return f"`tinylora resume {shlex.quote(str(folder))}`"


def remove_run(folder: Path) -> None:
    """Remove the files of a run, finished or not, from a folder. Raises FolderError if it is in use."""
    if not (folder / LOCK).exists() and not (folder / CONFIG).exists():
        return
    lock = Lock(folder / LOCK)
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    lock.release()


def save_result(folder: Path, source: ModelSource, model: Decoder, config: LoRAConfig, bits: int | None) -> None:
    """Write the adapter of `model`, opened from `source`; in its metadata the base's name and `bits`, and the labels."""
    path = folder if source.adapter_format == "peft" else folder / ADAPTER
    noted = {"model": source.name, "labels": list(model.cfg.labels), **({"bits": bits} if bits else {})}
    save_adapter(model, path, config, format=source.adapter_format, **noted)


def adapter_file(path: str | Path) -> Path:
    """The adapter in a run's folder or file; the folder itself, if it is in PEFT's format.

    Raises LoadError for a run that is not finished.
    """
    if status := unfinished(Path(path)):
        if in_use(Path(path) / LOCK):
            raise LoadError(f"{path}: this run is still going on")
        how = "interrupted" if status == "interrupted" else "not finished"
        raise LoadError(f"{path}: this run is {how}: {to_resume(path)} goes on with it")
    path = Path(path)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".conll"):
        raise LoadError(f"{path}: not an adapter: give a run's folder, or a .safetensors file")
    if path.is_dir() and not is_peft(path):
        if whole := next((name for name in (shards.SINGLE, shards.INDEX) if (path / name).is_file()), None):
            raise LoadError(f"{path}: a whole model, in {whole}, and no adapter")
        return path / ADAPTER
    return path


def read_about(adapter: Path) -> dict[str, Any]:
    """An adapter's metadata: "model" and "labels" if tinylora wrote it, "classes" if PEFT stored a head in it."""
    if not is_peft(adapter):
        return read_adapter(adapter)[2]
    found = read_peft(adapter)
    scores = found.arrays.get("score.weight")
    return found.about if scores is None else {"classes": len(scores), **found.about}


def _base_of(adapter: Path, about: dict[str, Any], given: str | None) -> ModelSource:
    """The base model of an adapter: the given one, else the one that its metadata names."""
    if given:
        return ModelSource.open(given)
    name = about.get("model")
    if not isinstance(name, str):
        raise LoadError(f"{adapter}: this adapter does not say what its base model is: give it with --model")
    try:
        return ModelSource.open(name)
    except FileNotFoundError as error:
        raise MissingFileError(f"{adapter}: its base model is not found: say with --model where it is ({error})") from None
    except OSError as error:
        raise OSError(f"{adapter}: its base model is not found: say with --model where it is ({error})") from None


class Finetuned(NamedTuple):
    """A fine-tuned model, and the source of its base, which has the tokenizer."""

    model: Decoder
    source: ModelSource
    lora: LoRAConfig | None = None  # None for a merged model

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; empty for a language model."""
        return self.model.cfg.labels


def load_finetuned(path: str | Path, base: str | None = None) -> Finetuned:
    """The model of a run's folder, an adapter file or folder, or a merged model's folder.

    `base` overrides the base model's location. A base that is not a classifier gets the adapter's head.
    """
    if any((Path(path) / name).is_file() for name in (shards.SINGLE, shards.INDEX)):
        source = ModelSource.open(path)
        return Finetuned(source.model(), source)
    file = adapter_file(path)
    about = read_about(file)
    labels = about.get("labels") or ()
    if not isinstance(labels, list | tuple):
        raise LoadError(f"{file}: labels must be a list of two different names or more, not {str(labels)[:60]}")
    source = _base_of(file, about, base)
    model, classes = source.model(), tuple(labels) or source.config.labels or about.get("classes")
    if classes and classes != source.config.labels:
        try:
            model.set_classes(classes, bias=source.head_bias)
        except ValueError as error:
            raise LoadError(f"{file}: {error}") from None
    if bits := about.get("bits"):
        if bits not in BITS:
            raise LoadError(f"{file}: bits must be 8 or 4, not {str(bits)[:60]}")
        quantize(model, BITS[bits])
    return Finetuned(model, source, load_adapter(model.eval(), file))


def load_language_model(name: str | None, adapter: str | None = None, default: str = "nano") -> Finetuned:
    """A language model, by its name or from a run's folder, with an adapter applied.

    Without a name it is the adapter's base, else the default. A classifier's head in the adapter is left out. Raises
    LoadError for a model that does not score tokens.
    """
    if name and not adapter and (is_peft(name) or (Path(name) / ADAPTER).is_file() or unfinished(Path(name))):
        name, adapter = None, name
    about = read_about(adapter_file(adapter)) if adapter else {}
    source = _base_of(Path(adapter), about, name) if adapter else ModelSource.open(name or default)
    model = source.model()
    if model.classifies:
        raise LoadError(f"{source.name} is a classifier: it has no scores for tokens")
    if adapter:
        load_adapter(model, adapter_file(adapter), lora_only=not {"labels", "classes"}.isdisjoint(about))
    return Finetuned(model.eval(), source)


def save_merged(path: str | Path, out: Path, base: str | None = None) -> None:
    """Merge the adapter that `load_finetuned` finds into its base, and write it as a plain model in the base's format."""
    model, source, _ = load_finetuned(path, base)
    if not any(lora_modules(model)):
        raise ValueError(f"{path}: there is no LoRA in this model, or it is merged already")
    merge_and_unload(model)
    with _all_or_nothing(out) as folder:
        source.save_merged(model, folder)


@contextlib.contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes the new or empty folder `out` if the block succeeds."""
    made = [path for path in out.absolute().parents if not path.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    name = f".{out.name}."
    folder = out if out.is_dir() else Path(tempfile.mkdtemp(dir=out.parent, prefix=name, suffix=safetensors.TEMPORARY))
    try:
        yield folder
        if folder is not out:
            folder.chmod(0o755)
            folder.rename(out)
            safetensors.sync_folder(out.parent)
    except BaseException as error:
        for file in folder.iterdir():
            file.unlink()
        for path in [folder, *made] if folder is not out else []:
            path.rmdir()
        if isinstance(error, OSError) and error.errno and Path(error.filename or "").parent == folder:
            raise OSError(error.errno, error.strerror, str(out / Path(error.filename).name)) from None
        raise
