"""How a benchmark is asked for and says what it found; the same words for all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parser(description: str | None, result: Path, *, quick: str) -> argparse.ArgumentParser:
    """The words that every benchmark takes: ``quick``, ``json`` and ``save``."""
    words = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--quick", action="store_true", help=quick)
    words.add_argument("--json", action="store_true", help="one JSON document on stdout")
    words.add_argument("--save", action="store_true", help=f"also write results/{result.name}")
    return words


def options(description: str | None, result: Path, *, quick: str) -> argparse.Namespace:
    """The command line of a benchmark that takes those words alone."""
    return parser(description, result, quick=quick).parse_args()


def publish(
    found: dict[str, Any],
    asked: argparse.Namespace,
    result: Path,
    report: Callable[[dict[str, Any]], str],
) -> None:
    """Print ``found`` as was asked for, and write it to ``result`` if it is to be saved."""
    text = json.dumps(found, indent=1)
    if asked.save:
        result.parent.mkdir(exist_ok=True)
        result.write_text(text + "\n", "utf-8")
    print(text if asked.json else report(found))
