"""``train``: the training of chapter 06 on some ranks of this host, or of several hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aiinfra_lab.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from aiinfra_lab.training import TrainingConfig


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    from aiinfra_lab.training.options import with_config

    app.command()(with_config(train))


def train(
    config: TrainingConfig,
    *,
    nproc: Annotated[int, typer.Option("--nproc", help="Ranks on this host.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The run's folder; goes on with one."),
    ] = None,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", help="Times that all ranks are started again.")
    ] = 0,
    time_limit: Annotated[
        float, typer.Option("--time-limit", help="Seconds until the ranks are ended.")
    ] = 86_400.0,
    hosts: Annotated[
        int, typer.Option("--hosts", help="Hosts in all; each runs this command.")
    ] = 1,
    host_index: Annotated[
        int, typer.Option("--host-index", help="Which of them this is, from 0.")
    ] = 0,
    rendezvous: Annotated[
        str, typer.Option("--rendezvous", metavar="HOST:PORT", help="Of host 0.")
    ] = "",
    run_id: Annotated[
        str, typer.Option("--run-id", help="The same word on all hosts of a run.")
    ] = "training",
    address: Annotated[
        str, typer.Option("--address", help="What the other hosts reach this one by.")
    ] = "",
    interface: Annotated[
        str, typer.Option("--interface", help="The network interface of that address.")
    ] = "",
    meet_limit: Annotated[
        float, typer.Option("--meet-limit", help="Seconds that hosts wait for each other.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Train on some ranks and print the result; logs by rank lie in DIR/ranks.

    Example: aiinfra train --nproc 2 --epochs 1 --seed 6 --out run --max-restarts 1
    """
    import time
    import uuid
    from dataclasses import asdict

    from aiinfra_lab.settings import settings
    from aiinfra_lab.training.launch import Hosts, train_on_ranks

    name = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
    result = train_on_ranks(
        config,
        out or settings().home / "training" / name,
        nproc=nproc,
        max_restarts=max_restarts,
        hosts=Hosts(hosts, host_index, rendezvous, run_id, address, interface, meet_limit)
        if hosts > 1
        else None,
        limit_s=time_limit,
    )
    if result is None:
        print("aiinfra: rank 0 has the result, on another host", file=sys.stderr)
    elif as_json:
        print_json(asdict(result))
    else:
        print_table(
            ["model", "steps", "ranks", "train loss", "test accuracy", "weights", "folder"],
            [
                [
                    result.model,
                    str(result.steps),
                    str(result.world),
                    f"{result.train_loss:.4f}",
                    f"{result.test_accuracy:.3f}",
                    result.model_sha256[:12],
                    result.out,
                ]
            ],
        )
