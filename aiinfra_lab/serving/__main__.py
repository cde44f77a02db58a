"""``python -m aiinfra_lab.serving``: one model, served until a signal.

One line on stderr names the URL when the server is ready. SIGHUP reads the bundle's folder
again; SIGTERM and SIGINT end the server in order. Exit status: 0; 1 where requests were cut
off at the end; 2 for what cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiinfra_lab.errors import AIInfraLabError, InputError

if TYPE_CHECKING:
    from aiinfra_lab.serving.engine import Engine


def main() -> int:
    """Serve; gives the exit status."""
    options = _parser().parse_args()
    try:
        return serve(options)
    except AIInfraLabError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:  # before the server has taken over the signals
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiinfra_lab.serving",
        description="Serve one model over HTTP.",
        epilog="example: python -m aiinfra_lab.serving --model bundles/digits --port 8000",
    )
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="the bundle's folder")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=_port, default=0, help="0: any free port (%(default)s)")
    add("--threads", type=_count, default=2, help="predictions at work at once (%(default)s)")
    add("--max-queue", type=_count, default=64, help="predictions that may wait (%(default)s)")
    add("--max-batch", type=_count, default=256, help="instances of a request (%(default)s)")
    add("--max-body", type=_count, default=4 << 20, help="bytes of a body (%(default)s)")
    add("--grace", type=_seconds, default=10.0, help="for requests in flight at the end, s")
    add("--drain", type=_seconds, default=0.0, help="not ready before the port closes, s")
    add("--admin", action="store_true", help="offer PUT /model")
    add("--models", type=Path, metavar="DIR", help="root of the bundles that PUT /model may name")
    add("--faults", action="store_true", help="offer PUT /faults")
    add("--access-log", action="store_true", help="a line of JSON on stderr for each request")
    return parser


def _port(text: str) -> int:
    if (number := _count(text)) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0..65535")
    return number


def _count(text: str) -> int:
    if not (text.isdecimal() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 86400")
    return number


def serve(options: argparse.Namespace) -> int:
    """Serve as ``options`` say; gives the exit status."""
    _check(options)
    from aiinfra_lab.observability import logs
    from aiinfra_lab.serving.application import Limits, create_app
    from aiinfra_lab.serving.engine import Engine
    from aiinfra_lab.serving.listener import Server, listen

    logs.configure("INFO" if options.access_log else "WARNING", json=options.access_log or None)
    engine = Engine(options.model, threads=options.threads, max_queue=options.max_queue)
    faults = None
    if options.faults:
        from aiinfra_lab.serving.faults import Faults

        faults = Faults()
    app, traffic = create_app(
        engine,
        limits=Limits(max_body=options.max_body, max_batch=options.max_batch),
        models=options.models if options.admin else None,
        faults=faults,
    )
    tasks = set()

    def ready() -> None:
        manifest = engine.session.manifest
        _say(f"{manifest.name} {manifest.version} ready at {server.url}")

    def end() -> None:
        engine.draining = True
        if faults is not None:
            faults.clear()

    def hangup() -> None:
        tasks.add(task := asyncio.ensure_future(asyncio.to_thread(_reload, engine)))
        task.add_done_callback(tasks.discard)

    server = Server(
        app,
        listen(options.host, options.port),
        grace=options.grace,
        drain=options.drain,
        on_ready=ready,
        on_end=end,
        on_hangup=hangup,
    )
    if faults is not None:
        faults.listener = server
    server.run()
    engine.close()
    return 1 if traffic.cut else 0


def _reload(engine: Engine) -> None:
    try:
        engine.reload()
    except InputError as error:
        _say(f"the model stays as it is: {error}")
        return
    manifest = engine.session.manifest
    _say(f"{manifest.name} {manifest.version} serves from now on")


def _check(options: argparse.Namespace) -> None:
    if options.admin and options.models is None:
        raise InputError("--admin needs --models: the folder below which bundles may lie")
    if (options.admin or options.faults) and not _loopback(options.host):
        raise InputError(
            "--admin and --faults ask nobody who they are, so they are for this machine alone",
            found=f"--host {options.host}",
            needed="a loopback address such as 127.0.0.1",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(sentence: str) -> None:
    print(f"aiinfra_lab.serving: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
