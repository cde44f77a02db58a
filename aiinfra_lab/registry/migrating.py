"""The child that migrates an empty database and writes the SQL of the result.

``python -m aiinfra_lab.registry.migrating aiinfra_lab/registry/schema.sql`` renews what is shipped.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import warnings
from contextlib import closing
from importlib.metadata import version as installed
from pathlib import Path

from aiinfra_lab.files import write_text
from aiinfra_lab.telemetry import silence_telemetry


def dump() -> str:
    """The SQL of a database after all migrations, without any experiment in it."""
    silence_telemetry()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        # The tables' definitions are known only when the stores were imported.
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
        from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

        path = Path(folder) / "new.db"
        engine = create_sqlalchemy_engine(f"sqlite:///{path}")  # type: ignore[no-untyped-call]
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
        engine.dispose()
        with closing(sqlite3.connect(path)) as connection:
            lines = "\n".join(
                line.rstrip() for s in connection.iterdump() for line in s.split("\n")
            )
    return f"-- mlflow-skinny {installed('mlflow-skinny')}\n{lines}\n"


if __name__ == "__main__":
    write_text(sys.argv[1], dump())
