"""What is said to the user while a cluster or an image is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def say(text: str) -> None:
    """Tell the user, on stderr."""
    print(f"aiinfra: {text}", file=sys.stderr, flush=True)


def listed(names: Sequence[str]) -> str:
    """The names as a part of a sentence."""
    return ", ".join(names)
