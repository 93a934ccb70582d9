"""Datasets, samplers and the DataLoader: batches are PyTorch's where no random numbers are drawn, and repeat with a seed."""

import itertools

import numpy as np
import pytest

import tinylora
import tinylora.utils.data
from tinylora import Generator
from tinylora.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)  # fmt: skip


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return tinylora.tensor([i, i * i]), i


class Words(IterableDataset):
    def __iter__(self):
        return iter(["a", "b", "c"])


def numbers(loader):
    return [batch[1].tolist() for batch in loader]


def test_batches_in_order_and_what_is_left():
    loader = DataLoader(Squares(7), batch_size=3)
    assert numbers(loader) == [[0, 1, 2], [3, 4, 5], [6]] and len(loader) == 3
    assert next(iter(loader))[0].tolist() == [[0, 0], [1, 1], [2, 4]]
    loader = DataLoader(Squares(7), batch_size=3, drop_last=True)
    assert numbers(loader) == [[0, 1, 2], [3, 4, 5]] and len(loader) == 2
    assert [i for _, i in DataLoader(Squares(3), batch_size=None)] == [0, 1, 2]
    assert numbers(DataLoader(Squares(4), batch_sampler=[[3, 1], [2]])) == [[3, 1], [2]]
    assert numbers(DataLoader(Squares(9), sampler=[8, 2, 4], batch_size=2)) == [[8, 2], [4]]
    assert numbers(DataLoader(Squares(2), num_workers=4, pin_memory=True, persistent_workers=True)) == [[0], [1]]


def test_a_seed_repeats_the_order_and_each_pass_has_another():
    def passes(seed):
        tinylora.manual_seed(seed)
        loader = DataLoader(Squares(20), batch_size=6, shuffle=True)
        return [list(itertools.chain(*numbers(loader))) for _ in range(3)]

    first, again, other = passes(1), passes(1), passes(2)
    assert first == again != other
    assert first[0] != first[1] and all(sorted(order) == list(range(20)) for order in first)


def test_a_generator_is_independent_of_the_seed():
    def order(seed):
        tinylora.manual_seed(seed)
        return numbers(DataLoader(Squares(20), batch_size=20, shuffle=True, generator=Generator().manual_seed(7)))

    assert order(0) == order(1)


def test_samplers():
    data = Squares(10)
    assert list(SequentialSampler(data)) == list(range(10))
    assert list(BatchSampler(SequentialSampler(data), 4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(list(RandomSampler(data, num_samples=25))) == 25
    drawn = list(RandomSampler(data, replacement=True, num_samples=1000))
    assert set(drawn) == set(range(10)) and max(np.bincount(drawn)) < 150
    assert sorted(SubsetRandomSampler([5, 7, 9])) == [5, 7, 9]
    weighed = list(WeightedRandomSampler([0.0, 3.0, 1.0], 4000))
    assert 0 not in weighed and abs(weighed.count(1) / 4000 - 0.75) < 0.05


def test_parts_of_datasets():
    both = Squares(3) + Squares(2)
    assert isinstance(both, ConcatDataset) and [both[i][1] for i in range(5)] == [0, 1, 2, 0, 1] and both[-1][1] == 1
    with pytest.raises(IndexError, match="index 5 is out of range: there are 5 examples"):
        both[5]
    assert Subset(Squares(9), [4, 2])[1][1] == 2
    a, b = random_split(Squares(10), [7, 3], generator=Generator().manual_seed(0))
    assert sorted(i for part in (a, b) for _, i in part_of(part)) == list(range(10)) and (len(a), len(b)) == (7, 3)
    assert [len(part) for part in random_split(Squares(10), [0.5, 0.25, 0.25])] == [6, 2, 2]
    with pytest.raises(ValueError, match="do not add up to 10"):
        random_split(Squares(10), [5, 3])


def part_of(subset):
    return [subset[i] for i in range(len(subset))]


def test_datasets_without_numbers():
    assert list(DataLoader(Words(), batch_size=2)) == [["a", "b"], ["c"]]
    with pytest.raises(ValueError, match="order of its own"):
        DataLoader(Words(), shuffle=True)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="either a sampler or shuffle"):
        DataLoader(Squares(3), sampler=[0], shuffle=True)
    with pytest.raises(ValueError, match="excludes batch_size"):
        DataLoader(Squares(3), batch_sampler=[[0]], batch_size=2)
    with pytest.raises(ValueError, match="batch_size is an integer of at least 1, not 0"):
        DataLoader(Squares(3), batch_size=0)
    with pytest.raises(ValueError, match="different numbers of rows"):
        TensorDataset(tinylora.zeros(3), tinylora.zeros(4))
    with pytest.raises(RuntimeError, match="different lengths"):
        default_collate([[1, 2], [3]])


EXAMPLES = [
    [1, 2, 3], [1.5, 2.5], [True, False], ["a", "b"], [(1, "x", 2.0), (2, "y", 3.0)], [[1, 2], [3, 4]],
    [{"a": 1, "b": [1.0]}, {"a": 2, "b": [2.0]}], [np.ones(2), np.zeros(2)], [np.float32(1), np.float32(2)],
    [(1, {"k": (2, 3)}), (4, {"k": (5, 6)})],
]  # fmt: skip


def plain(x):
    """Nested values with tensors as (dtype, numbers)."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, tuple | list):
        return [plain(v) for v in x]
    return (str(x.dtype).removeprefix("torch."), x.tolist()) if hasattr(x, "dtype") else x


@pytest.mark.parametrize("batch", EXAMPLES, ids=str)
def test_examples_are_joined_as_by_pytorch(batch):
    torch = pytest.importorskip("torch")
    assert plain(default_collate(batch)) == plain(torch.utils.data.default_collate(batch))
