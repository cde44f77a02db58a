"""``lab``: JupyterLab, open on the first chapter, in the right folder and kernel."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("lab")(open_lab)


def open_lab(
    notebook: Annotated[
        Path | None, typer.Argument(help="What to open; chapter 00 by default.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default 8888 or the next free one.")
    ] = None,
    ip: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on the course. Ctrl-C stops it and every kernel.

    Example: aiinfra lab --no-browser --port 9000
    """
    from aiinfra_lab import needs
    from aiinfra_lab.course.layout import FIRST_CHAPTER, Course
    from aiinfra_lab.errors import InputError

    needs.require("jupyterlab")
    course = Course.find()
    target = (notebook or course.chapters / FIRST_CHAPTER).resolve()
    if not target.is_file():
        raise InputError(f"there is no file {target}")
    if not target.is_relative_to(course.root.resolve()):
        raise InputError(f"{target} lies outside the course", fix=f"Copy it into {course.work}.")
    if port is not None:
        _refuse_taken(ip, port)
    course.work.mkdir(exist_ok=True)
    os.environ |= _environment()
    sys.stdout.flush()
    # The server takes this process's place: signals reach it, and nothing stands between.
    os.execv(sys.executable, _command(course.root.resolve(), target, ip, port, browser))


def _command(root: Path, target: Path, ip: str, port: int | None, browser: bool) -> list[str]:
    opened = target.relative_to(root).as_posix()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{opened}",
        f"--ServerApp.ip={ip}",
        # Ctrl-C ends it without a question.
        "--ServerApp.answer_yes=True",
        "--log-level=ERROR",
        "--LabApp.log_level=ERROR",
        # The extension manager, too, looks for nothing outside.
        "--LabApp.extension_manager=readonly",
        # What runs between server and kernel is not for this machine's other users.
        "--KernelManager.transport_encryption=auto",
    ]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    if not sys.stdout.isatty():
        # As in a container: the terminals would be login shells, which set PATH anew.
        settings = {"shell_command": [os.environ.get("SHELL") or "sh"]}
        command.append(f"--ServerApp.terminado_settings={settings}")
    return command


def _environment() -> dict[str, str]:
    """What the server, its kernels and its terminals find before the user's own."""
    before = {
        # `aiinfra check 00` in a terminal of the desk, though no environment was activated.
        "PATH": str(Path(sys.executable).parent),
        # Page settings that switch off the plugin of news and updates: the server's own options
        # for that leave a question about news on the page.
        "JUPYTER_CONFIG_PATH": str(Path(__file__).parent / "jupyter"),
    }
    return {
        name: os.pathsep.join(filter(None, [first, os.environ.get(name)]))
        for name, first in before.items()
    }


def _refuse_taken(ip: str, port: int) -> None:
    from aiinfra_lab.errors import InputError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            raise InputError(
                f"port {port} on {ip} cannot be used: {error.strerror}",
                fix="Name another with --port, or none: then a free one is taken.",
            ) from None
