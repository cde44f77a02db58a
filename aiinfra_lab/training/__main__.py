"""One rank of a training, started by torchrun, by ``aiinfra train``, or alone.

torchrun --standalone --nproc-per-node 2 -m aiinfra_lab.training --epochs 1 --seed 6 --json
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.settings import settings
from aiinfra_lab.telemetry import silence_telemetry
from aiinfra_lab.training.config import TrainingConfig
from aiinfra_lab.training.options import with_config


def rank(
    config: TrainingConfig,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; goes on with one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Rank 0 prints the result.")] = False,
) -> None:
    """Train as one rank: of torchrun's if its environment is there, else as the only one.

    Example: torchrun --standalone --nproc-per-node 2 -m aiinfra_lab.training --epochs 1
    """
    from aiinfra_lab.training.recipe import train

    # torchrun's id is the same for all ranks and after a restart.
    name = os.environ.get("TORCHELASTIC_RUN_ID") or uuid.uuid4().hex
    result = train(config, out or settings().home / "training" / name)
    if os.environ.get("RANK", "0") == "0":
        if as_json:
            print(json.dumps(asdict(result), indent=1))
        else:
            print(f"{result.out}: test accuracy {result.test_accuracy:.3f}")


def main() -> int:
    """Run one rank; its exit code is the design's."""
    silence_telemetry()
    command = typer.main.get_command(_app())
    try:
        command(prog_name="python -m aiinfra_lab.training", standalone_mode=False)
    except click.ClickException as error:
        return _fail(InputError(error.format_message()))
    except AIInfraLabError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        return _fail(AIInfraLabError(f"{type(error).__name__}: {error}"))
    return 0


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(with_config(rank))
    return app


def _fail(error: AIInfraLabError) -> int:
    """Say it, and write it where the agent looks; what all ranks found, rank 0 says."""
    number = os.environ.get("RANK", "0")
    if number == "0" or not isinstance(error, InputError):
        print(f"aiinfra: {error}", file=sys.stderr, flush=True)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        now = str(int(time.time()))
        document: dict[str, Any] = {
            "message": {"message": str(error), "extraInfo": {"timestamp": now, "py_callstack": ""}},
            "rank": int(number),
            "code": error.exit_code,
            "lost": type(error).__name__ == "RankLost",
        }
        Path(file).write_text(json.dumps(document), "utf-8")
    return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads may abort a process whose work is done and written (3 of 18 ends, torch 2.15).
    os._exit(code)
