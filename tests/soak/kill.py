"""Kills runs at random moments with SIGKILL, lets them go on, and compares the results with those of undisturbed runs.

    python tests/soak/kill.py [COUNT]

Of COUNT runs (100) each is killed once or more, while it trains, validates, or writes. Dropout and accumulation are on, and
packing in every other run. Prints `100 of 100` if all ended with the bytes of the run that nobody killed; takes minutes.
"""

import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import kills  # noqa: E402

KINDS = {"padded": kills.OPTIONS, "packed": {**kills.OPTIONS, "pack": True, "save_every": "0.05s"}}
SAME = ("adapter.safetensors", "metrics.jsonl")


def bytes_of(folder):
    return [(folder / name).read_bytes() for name in SAME]


def trial(at, number, kind, rng):
    """Kill a run, until a kill has struck; let it go on. The number of kills."""
    out, struck = at / f"run{number}", 0
    while struck == 0 or rng.random() < 0.3:
        rows = rng.randrange(kills.STEPS + 3)
        if not kills.kill(kills.begin(at, out.name, KINDS[kind]), out, rows, rng.random() * 0.03):
            if struck:
                break  # it was finished
            for file in out.iterdir():
                file.unlink()
            continue
        struck += 1
    kills.finish(kills.begin(at, out.name, KINDS[kind]))
    return struck


def main(count=100, seed=0):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        kills.prepare(at)
        for kind, options in KINDS.items():
            kills.finish(kills.begin(at, kind, options))
        good = struck = 0
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            struck += trial(at, number, kind, rng)
            same = bytes_of(at / f"run{number}") == bytes_of(at / kind)
            good += same
            if not same or number % 10 == 9:
                print(f"run {number + 1}, {kind}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
        print(f"{good} of {count}  ({struck} kills)")
    return good != count


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
