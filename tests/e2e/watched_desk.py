"""What the browser tests handle: a copy of the course, the running desk, a page that is watched."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psutil

from aiinfra_lab.processes import Child

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

MARK = "AIINFRA_E2E"  # the variable by which every process of a test module is found
AIINFRA = (sys.executable, "-m", "aiinfra_lab.cli.main")
URL = r"http://127\.0\.0\.1:\d+/\S*token=\S+"
START_S = 120.0


@dataclass(frozen=True)
class Course:
    """A copy of the course, and the environment of a user who has nothing else."""

    root: Path
    env: dict[str, str]

    def aiinfra(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the product's command in the course's folder, as a user does."""
        return subprocess.run(
            [*AIINFRA, *words],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )

    def marked(self, mark: str | None = None) -> list[psutil.Process]:
        """The living processes that carry this environment's mark, or ``mark``."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = process.environ().get(MARK) == (mark or self.env[MARK])
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kernels(self, mark: str | None = None) -> list[str]:
        """The programs that run the kernels among them."""
        found = []
        for process in self.marked(mark):
            with suppress(psutil.Error):
                program, *words = process.cmdline()
                if "ipykernel_launcher" in words:
                    found.append(program)
        return found

    def left(self, mark: str | None = None, within: float = 15.0) -> list[psutil.Process]:
        """What of ``marked`` still lives after at most ``within`` seconds."""
        last = time.monotonic() + within
        while (found := self.marked(mark)) and time.monotonic() < last:
            psutil.wait_procs(found, timeout=0.2)
        return found

    def kill(self, mark: str | None = None) -> None:
        """End what is still there, so that a failed test leaves nothing."""
        for process in self.marked(mark):
            with suppress(psutil.Error):
                process.kill()


@dataclass(frozen=True)
class Desk:
    """A running ``aiinfra lab``: ``url`` is the address that it told its user."""

    course: Course
    child: Child
    url: str

    def address(self, notebook: str) -> str:
        """Where a notebook opens, in a workspace without what was open before."""
        parts = urlsplit(self.url)
        token = parse_qs(parts.query)["token"][0]
        return f"{parts.scheme}://{parts.netloc}/lab/tree/{notebook}?token={token}&reset"


@dataclass
class Visit:
    """A page, what the browser reported about it, and what it asked of whom."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def note_console(self, message: ConsoleMessage) -> None:
        """Keep errors; warnings are JupyterLab's own."""
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def note_request(self, request: Request) -> None:
        """Keep every address."""
        self.requests.append(request.url)

    def outside(self, desk: Desk) -> list[str]:
        """The requests that did not go to the desk."""
        own = ("data:", "blob:", f"http://{urlsplit(desk.url).netloc}/")
        return [url for url in self.requests if not url.startswith(own)]
