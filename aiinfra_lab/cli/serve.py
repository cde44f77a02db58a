"""``serve``: one model over HTTP until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_DIGITS = "digits"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)


def serve(
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, or digits: the course's own models.")
    ] = _DIGITS,
    version: Annotated[
        str | None, typer.Option(help="Of the digits: 1, or 2, which is better. By default 1.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    faults: Annotated[
        bool, typer.Option("--faults", help="Offer PUT /faults: latency, errors, resets and more.")
    ] = False,
    models: Annotated[
        Path | None, typer.Option(help="Offer PUT /model for bundles below this folder.")
    ] = None,
    access_log: Annotated[
        Path | None, typer.Option(help="Write a line of JSON for each request to this file.")
    ] = None,
) -> None:
    """Serve a model; its URL is the one line on stdout. Ctrl-C ends it.

    Example: aiinfra serve digits --version 2 --port 8000 --faults
    """
    from aiinfra_lab.serving import ModelServer

    server = ModelServer(
        _folder(bundle, version),
        port=port,
        faults=faults,
        models=models,
        access_log=access_log is not None,
        log=access_log,
    )
    # In a child: the training libraries stay out of it, and the terminal's Ctrl-C comes here.
    with server:
        print(server.url, flush=True)
        server.wait()


def _folder(bundle: str, version: str | None) -> Path:
    from aiinfra_lab.errors import InputError
    from aiinfra_lab.serving import read_bundle

    if bundle != _DIGITS:
        if version is not None:
            raise InputError("--version belongs to digits: a bundle has the version in it")
        read_bundle(bundle)  # what is wrong with it is said here, not in the log of a child
        return Path(bundle)
    from aiinfra_lab.serving.digits_models import digits_bundle, is_trained

    version = version or "1"
    if not is_trained(version):
        print(f"aiinfra: training version {version} of the digits, some seconds", file=sys.stderr)
    return digits_bundle(version)
