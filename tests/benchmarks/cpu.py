"""tinylora against what a user would pick instead, on the CPU, side by side in one run.

    pip install -e '.[bench]'
    python tests/benchmarks/cpu.py                              # everything; a quarter of an hour on two cores
    python tests/benchmarks/cpu.py --only lora-8x128 --json one.json
    python tests/benchmarks/cpu.py --scaling                    # how cost grows with batch, length, rank and layers
    python tests/benchmarks/cpu.py --profile                    # where tinylora's time goes
    python tests/benchmarks/cpu.py --show one.json two.json --markdown

Each contender is a process of its own and they take turns, one working while the others are stopped. A time is the
median of at least seven whole steps after warm-up: zero, forward, loss, backward, AdamW. All have the same sizes, tokens
and threads, float32, random weights and no dropout. Peak memory is what the system says of that process. The row
"agreement" puts the same weights into all of them and compares losses and gradients.

Rows and bars: rows.py. Who competes: ours.py, peers.py. Processes: workers.py.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import report
from rows import ROWS, Plan, SkippedError, scaling
from workers import in_fresh_process

from tinylora.app import terminal

TINY = {"layers": 2, "width": 32, "heads": 2, "vocabulary": 100}  # everything runs, and no number means anything


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="tinylora against PyTorch and Hugging Face on the CPU")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--scaling", action="store_true", help="how the step's cost grows, instead of the rows")
    parser.add_argument("--profile", action="store_true", help="where tinylora's time goes, instead of the rows")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print JSON files; nothing is measured")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each contender (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contender (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that everything runs")
    return parser.parse_args()


def main() -> None:
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("terminated")
    )  # an exception, so that no stopped worker is left behind
    chosen = options()
    if chosen.show:
        files = [json.loads(path.read_text(encoding="utf-8")) for path in chosen.show]
        rows = [report.Row.of(row) for file in files for row in file["rows"].values()]
        show = report.show_scaling if files[0]["scaling"] else report.show
        return show(rows, files[0]["machine"], chosen.markdown)
    plan = Plan(steps=chosen.steps, threads=chosen.threads, model=TINY if chosen.tiny else {})
    if chosen.profile:
        return report.show_profile(in_fresh_process("breakdown", plan.model, plan.threads), chosen.markdown)
    if chosen.scaling:
        found = scaling(plan)
    else:
        found = {}
        for name in chosen.only:
            terminal.say(f"measuring {name} ..")
            try:
                found[name] = ROWS[name](plan)
            except SkippedError as reason:
                terminal.say(f"{name} is skipped: {reason}")
    about = report.machine(plan.threads)
    if chosen.json:
        saved = {
            "machine": about,
            "steps": plan.steps,
            "scaling": chosen.scaling,
            "tiny": chosen.tiny,
            "rows": report.saved(found),
        }
        chosen.json.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    show = report.show_scaling if chosen.scaling else report.show
    return show(list(found.values()), about, chosen.markdown)


if __name__ == "__main__":
    main()
