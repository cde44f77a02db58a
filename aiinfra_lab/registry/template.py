"""A database that MLflow need not migrate any more.

A new MLflow database runs through some sixty migrations, which takes 7 to 11 s. Their result is
shipped as ``schema.sql``, for the version of MLflow that the lock names; a test makes it anew and
compares. With another version the migrations run once, in a child process, and the result is kept
in the cache under the versions of what took part. Either way the database is complete when it
appears under its name.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from importlib.metadata import version as installed
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_text

SHIPPED = "schema.sql"
MIGRATE_S = 300.0  # seconds that the migrations may take on a machine under load
_PARTS = ("mlflow-skinny", "sqlalchemy", "alembic")


def make_database(path: Path) -> None:
    """Make an empty MLflow database at ``path``; one that is there is left alone.

    Several processes may ask at once: one database wins.

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    if path.exists():
        return
    script = schema()
    try:
        with _part(path) as part:
            with closing(sqlite3.connect(part)) as connection:
                connection.executescript(script)
            try:
                os.link(part, path)  # unlike a rename, it never replaces another's database
            except FileExistsError:
                return
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            f"{path} cannot be made: {error}",
            fix="Set AIINFRA_HOME to a folder that you may write to.",
        ) from None


def schema() -> str:
    """The SQL that makes the database which the installed MLflow expects."""
    text = resources.files(__package__).joinpath(SHIPPED).read_text("utf-8")
    if text.partition("\n")[0] == f"-- mlflow-skinny {installed('mlflow-skinny')}":
        return text
    from aiinfra_lab.settings import settings

    kept = settings().cache / "registry" / f"schema-{_key()}.sql"
    try:
        return kept.read_text("utf-8")
    except FileNotFoundError:
        pass
    text = migrated()
    write_text(kept, text)
    return text


def migrated() -> str:
    """The same by running every migration, in a child process."""
    from aiinfra_lab.processes import Child

    with tempfile.TemporaryDirectory(prefix="aiinfra-registry-") as name:
        folder = Path(name)
        words: list[str | Path] = [
            sys.executable,
            "-m",
            "aiinfra_lab.registry.migrating",
            folder / "new.sql",
        ]
        with Child(words, name="MLflow's migrations", log=folder / "log") as child:
            child.wait(MIGRATE_S, check=True)
        return (folder / "new.sql").read_text("utf-8")


def _key() -> str:
    return "-".join(installed(name) for name in _PARTS)


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
