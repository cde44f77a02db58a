"""How results are printed: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]

COLOURS = {
    "passed": "green",
    "ok": "green",
    "ready": "green",
    "not yet": "red",
    "failed": "red",
    "missing": "red",
    "not started": "yellow",
    "planned": "dim",
}


def print_json(document: Any) -> None:
    """Print the document, and nothing else, on stdout."""
    print(json.dumps(document, indent=1, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, status: str = "status"
) -> None:
    """Print a table on stdout; the column called ``status`` is coloured by its word."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in ("id", status), overflow="fold")
    for row in rows:
        table.add_row(
            *(
                Text(text, style=COLOURS.get(text, "") if column == status else "")
                for column, text in zip(columns, row, strict=True)
            )
        )
    console = Console()
    # Into a pipe goes every word: rich would cut the table to 80 columns there.
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
