"""Draw the picture in the README: run the main job and write what it printed as an SVG.

python examples/picture.py docs/demo.svg
"""

import sys
from pathlib import Path

from rich.console import Console

from tinylora.app import demo, terminal

terminal.console = Console(record=True, width=108, highlight=False, soft_wrap=True)
demo.run()
Path(sys.argv[1]).write_text(terminal.console.export_svg(title="tinylora"), encoding="utf-8")
