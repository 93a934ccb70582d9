"""Datasets, samplers and the DataLoader, with PyTorch's names and arguments.

Random orders come from the seed of `manual_seed`, or from `generator`, so that a seed gives the same batches each time (not
the same as PyTorch's, whose random numbers differ). Batches are made in this process: `num_workers` is accepted.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinylora.backend import Generator, default_generator
from tinylora.tensor import Tensor
from tinylora.torch_api.promote import tensor
from tinylora.torch_api.shaping import stack


# ------------------------------------------------------------------------------------------------ datasets
class Dataset:
    """Examples by number. A subclass defines `__getitem__(i)` and `__len__()`."""

    def __class_getitem__(cls, kind: Any) -> type:  # Dataset[int], in annotations and base classes
        return cls

    def __getitem__(self, i: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """Examples one after the other. A subclass defines `__iter__()`."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")


class TensorDataset(Dataset):
    """Example i is (a[i], b[i], ..) of tensors with one number of rows.

    >>> import tinylora
    >>> pairs = TensorDataset(tinylora.arange(3), tinylora.tensor([0.0, 0.5, 1.0]))
    >>> len(pairs), pairs[2]
    (3, (tensor(2), tensor(1.)))
    """

    def __init__(self, *tensors: Tensor) -> None:
        if len({len(t) for t in tensors}) > 1:
            raise ValueError(f"the tensors have different numbers of rows: {', '.join(str(t.shape) for t in tensors)}")
        self.tensors = tensors

    def __getitem__(self, i: Any) -> tuple[Tensor, ...]:
        return tuple(t[i] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset):
    """The examples of a dataset at the given numbers."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, list):
            return self.dataset[[self.indices[k] for k in i]]
        return self.dataset[self.indices[i]]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset):
    """The examples of several datasets, one dataset after the other."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: no datasets were given")
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range: there are {len(self)} examples")
        i %= len(self)
        which = bisect.bisect_right(self.cumulative_sizes, i)
        return self.datasets[which][i - (self.cumulative_sizes[which - 1] if which else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


def random_split(dataset: Any, lengths: Sequence[float], generator: Generator | None = None) -> list[Subset]:
    """Cut a dataset into parts, at random. Lengths add up to that of the dataset, or are fractions that add up to 1.

    What fractions leave over is dealt out one by one, from the first part on.
    """
    sizes = [int(n) for n in lengths]
    if math.isclose(sum(lengths), 1.0) and sum(lengths) <= 1.0 + 1e-9 and sizes != list(lengths):
        sizes = [math.floor(len(dataset) * part) for part in lengths]
        for i in range(len(dataset) - sum(sizes)):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != len(dataset):
        raise ValueError(f"lengths {list(lengths)} do not add up to {len(dataset)}, the number of examples")
    order, ends = _permutation(len(dataset), generator), list(itertools.accumulate(sizes))
    return [Subset(dataset, order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _permutation(n: int, generator: Generator | None) -> list[int]:
    return (generator or default_generator).numbers.permutation(n).tolist()


# ------------------------------------------------------------------------------------------------ samplers
class Sampler:
    """The numbers of examples in an order. A subclass defines `__iter__()`, and `__len__()` if it is known."""

    def __class_getitem__(cls, kind: Any) -> type:
        return cls

    def __init__(self, data_source: Any = None) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")


class SequentialSampler(Sampler):
    """0, 1, 2, .."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """A new permutation each time, or with `replacement` independent numbers; `num_samples` of them."""

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(data_source)
        if num_samples is not None and num_samples <= 0:
            raise ValueError(f"num_samples is at least 1, not {num_samples}")
        self.replacement, self.generator, self._num_samples = replacement, generator, num_samples

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n = len(self.data_source)
        if self.replacement:
            numbers = (self.generator or default_generator).numbers
            return iter(numbers.integers(0, n, self.num_samples).tolist())
        rounds = itertools.chain.from_iterable(_permutation(n, self.generator) for _ in itertools.count())
        return itertools.islice(rounds, self.num_samples if n else 0)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """The given numbers in a new random order each time."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices, self.generator = indices, generator

    def __iter__(self) -> Iterator[int]:
        return iter([self.indices[i] for i in _permutation(len(self.indices), self.generator)])

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """`num_samples` numbers, each i with a probability in proportion to weights[i]."""

    def __init__(
        self, weights: Sequence[float], num_samples: int, replacement: bool = True, generator: Generator | None = None
    ) -> None:
        self.weights = np.asarray(weights.tolist() if isinstance(weights, Tensor) else weights, np.float64)
        self.num_samples, self.replacement, self.generator = num_samples, replacement, generator

    def __iter__(self) -> Iterator[int]:
        numbers, chances = (self.generator or default_generator).numbers, self.weights / self.weights.sum()
        return iter(numbers.choice(len(chances), self.num_samples, self.replacement, chances).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """Lists of `batch_size` numbers of a sampler; the last may be shorter, or is dropped."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"batch_size is an integer of at least 1, not {batch_size!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self.sampler)
        while batch := list(itertools.islice(numbers, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


# --------------------------------------------------------------------------------------------------- batches
def default_collate(batch: Sequence[Any]) -> Any:
    """Examples as one batch: tensors and arrays are stacked, numbers become a tensor, tuples and dicts are gone into.

    Texts stay a list.

    >>> default_collate([(1, "a"), (2, "b")])
    [tensor([1, 2]), ('a', 'b')]
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, np.ndarray | np.generic):
        return tensor(np.stack([np.asarray(x) for x in batch]))
    if isinstance(first, float):
        return tensor(np.array(batch, np.float64))
    if isinstance(first, bool | int):
        return tensor(list(batch))
    if isinstance(first, str | bytes):
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([x[key] for x in batch]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(parts) for parts in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if len({len(x) for x in batch}) > 1:
            raise RuntimeError("examples of a batch have different lengths: pass a collate_fn that pads them")
        columns = list(zip(*batch, strict=True))
        if isinstance(first, tuple):
            return [c if isinstance(c[0], str | bytes) else default_collate(c) for c in columns]
        return [default_collate(c) for c in columns]
    raise TypeError(f"a batch is made of tensors, arrays, numbers, dicts or lists, not {type(first).__name__}")


class DataLoader:
    """Batches of a dataset, in order or shuffled anew for each pass.

    >>> import tinylora
    >>> loader = DataLoader(TensorDataset(tinylora.arange(5)), batch_size=2)
    >>> [x for (x,) in loader]
    [tensor([0, 1]), tensor([2, 3]), tensor([4])]

    `num_workers`, `pin_memory`, `prefetch_factor` and `persistent_workers` are accepted and have no effect.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers is at least 0, not {num_workers}")
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError("an IterableDataset has an order of its own: neither shuffle nor a sampler applies")
        if sampler is not None and shuffle:
            raise ValueError("give either a sampler or shuffle")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("a batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if batch_size is None and drop_last:
            raise ValueError("drop_last needs a batch_size")
        self.dataset, self.num_workers, self.drop_last, self.generator = dataset, num_workers, drop_last, generator
        self.pin_memory = pin_memory
        if sampler is None and not self._iterable:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.sampler: Any = sampler
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler if sampler is not None else (), batch_size, drop_last)
        self.batch_size = batch_size if isinstance(batch_sampler, BatchSampler) else None
        self.batch_sampler: Any = batch_sampler
        self.collate_fn = collate_fn or (default_collate if batch_sampler is not None else lambda example: example)

    def __iter__(self) -> Iterator[Any]:
        if self._iterable:
            examples = iter(self.dataset)
            if self.batch_size is None:
                return map(self.collate_fn, examples)
            return map(self.collate_fn, BatchSampler(examples, self.batch_size, self.drop_last))
        if self.batch_sampler is None:
            return (self.collate_fn(self.dataset[i]) for i in self.sampler)
        return (self.collate_fn([self.dataset[i] for i in batch]) for batch in self.batch_sampler)

    def __len__(self) -> int:
        if self._iterable:
            n = len(self.dataset)
            return n if self.batch_size is None else n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)


def get_worker_info() -> None:
    """None: batches are made in the main process."""
