"""Runs the programs of this folder in one library, from given initial weights and with given random numbers.

`run.py FOLDER OUT PROGRAM ..` builds each program's model, takes its weights from FOLDER, or writes them there if there are
none, trains, and writes the losses of all steps to OUT as JSON. It is itself a program for PyTorch.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils import data


def seeded(seed):
    """Replace the random functions that choose data, since two libraries draw different numbers from one seed."""
    rng = np.random.RandomState(seed)

    def randint(low, high=None, size=None, **kwargs):
        low, high, size = (0, low, high) if size is None else (low, high, size)
        return torch.from_numpy(rng.randint(low, high, tuple(size)).astype(np.int64))

    def order(sampler):
        n = len(sampler.data_source)
        chosen = rng.randint(0, n, sampler.num_samples) if sampler.replacement else rng.permutation(n)
        return iter(chosen.tolist())

    def split(dataset, lengths, generator=None):
        numbers = rng.permutation(len(dataset)).tolist()
        ends = np.cumsum(lengths).tolist()
        return [data.Subset(dataset, numbers[end - n : end]) for n, end in zip(lengths, ends)]

    torch.randint = randint
    data.RandomSampler.__iter__ = order
    data.random_split = split


def run(path, folder):
    seeded(0)
    program = runpy.run_path(str(path), run_name="program")
    model = program["build"]()
    parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else model
    file = folder / (path.stem + ".npz")
    if file.exists():
        with np.load(file) as saved, torch.no_grad():
            for i, p in enumerate(parameters):
                p.copy_(torch.from_numpy(saved[str(i)]))
    else:
        np.savez(file, **{str(i): p.detach().numpy() for i, p in enumerate(parameters)})
    return program["train"](model)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    found = {}
    for name in names:
        path = Path(os.path.dirname(os.path.abspath(__file__))) / (name + ".py")
        found[name] = run(path, folder)
        out.write_text(json.dumps(found))
