"""Text files to batches: read labelled messages, split them, turn them into bytes, and put like lengths together."""

from __future__ import annotations

END = 256  # the one token that is no byte: before, between and after texts
