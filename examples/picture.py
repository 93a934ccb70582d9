"""Draw the picture in the README: run the main job and write what it printed as an SVG.

python examples/picture.py docs/demo.svg
"""

import argparse
from pathlib import Path

from rich.console import Console

from tinylora.app import demo, terminal

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("svg", type=Path)
args = parser.parse_args()
terminal.console = Console(record=True, width=108, highlight=False, soft_wrap=True)
demo.run()
args.svg.write_text(terminal.console.export_svg(title="tinylora"), encoding="utf-8")
