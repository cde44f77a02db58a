"""The steps of ``build.sh``, each a supervised process with a log, and what its failures mean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiinfra_lab.errors import AIInfraLabError, MissingNeed, ProcessError
from aiinfra_lab.files import write_text
from aiinfra_lab.kube.kind.node_image.checks import free_space_hint, search_path
from aiinfra_lab.processes import Child
from aiinfra_lab.processes.tail import follow, read_tail

_LOOK_S = 0.1
_GRACE_S = 10.0  # for the script to remove a container that it runs
_LIMIT_S = 3600.0  # a step takes a minute; a slow network and a busy disk far longer
_LONGEST = 300  # characters of a reason
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.I)
_NO_DAEMON = re.compile(r"cannot connect to the docker daemon|error during connect", re.I)
_NO_DEBIAN = re.compile(
    r"couldn't download|failed getting release|invalid release file|unable to connect"
    r"|unable to resolve|could not resolve|temporary failure|failed to fetch",
    re.I,
)
# What debootstrap asks with would try for hours where nobody answers.
_WGET = "timeout = 30\ntries = 3\n"


@dataclass
class Script:
    """The script with one folder of work.

    Parameters
    ----------
    path : Path
        The script.
    work : Path
        Its folder, which stays until the image is whole: a step that is done is not done again.
    words : str
        What is made.
    env : mapping
        What the script is told, beside ``WORK``.
    """

    path: Path
    work: Path
    words: str
    env: Mapping[str, str] = field(default_factory=dict)

    def see_to(self, step: str, *before: str) -> None:
        """Have a step done whose result is not there, and those ``before`` whose results it used.

        The node takes the images of the step before it out of Docker, and removes them.
        """
        if self.is_done(step):
            for name in (step, *before):
                self.forget(name)

    def is_done(self, step: str) -> bool:
        """Whether an earlier call has done the step."""
        return (self.work / f"{step}.done").exists()

    def forget(self, step: str) -> None:
        """Have the step done again."""
        (self.work / f"{step}.done").unlink(missing_ok=True)

    def run(self, step: str, tick: Callable[[], None], shown: Callable[[str], None]) -> None:
        """Do one step, with a ``tick`` now and then; ``shown`` gets what it says it does.

        Raises
        ------
        MissingNeed
            The disk is full, or Debian's packages or the Docker daemon cannot be reached.
        ProcessError
            It failed otherwise, or does not end.
        """
        log = self.work / "logs" / f"{step}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        last, lines = time.monotonic() + _LIMIT_S, follow(log)
        command = [*_own_mounts(), self.path, step]
        with Child(
            command, name=f"{self.path.name} {step}", log=log, env=self._environment(),
            cwd=self.work, grace=_GRACE_S,
        ) as child:  # fmt: skip
            while True:
                status = child.returncode  # before the last look at its log
                for line in lines:
                    if line is None:
                        break
                    if line.startswith("step: "):
                        shown(line.removeprefix("step: ").strip())
                if status is not None:
                    break
                if time.monotonic() > last:
                    raise ProcessError(
                        f"the step {step} of {self.words} did not end within {_LIMIT_S:g} s",
                        fix=f"All it said: {log}",
                    )
                tick()
                time.sleep(_LOOK_S)
        if status != 0:
            raise explained(self.words, step, status, log)

    def _environment(self) -> dict[str, str]:
        made = os.environ | self.env | {"WORK": str(self.work), "LC_ALL": "C"}
        made["PATH"] = search_path()
        if "WGETRC" not in made and not Path.home().joinpath(".wgetrc").exists():
            write_text(self.work / "wgetrc", _WGET)
            made["WGETRC"] = str(self.work / "wgetrc")
        return made


def explained(words: str, step: str, status: int, log: Path) -> AIInfraLabError:
    """The error for a step that failed, out of its log."""
    lines = log.read_text("utf-8", "replace").splitlines()
    if full_disk := next((line for line in lines if _FULL.search(line)), None):
        return no_space(words, full_disk)
    if any(_NO_DAEMON.search(line) for line in lines):
        return MissingNeed(
            f"{words} was not made: the Docker daemon does not answer any more",
            fix="Start it, and run the command again: it goes on from there.",
        )
    if lost := [line for line in lines if _NO_DEBIAN.search(line)]:
        return MissingNeed(
            f"{words} was not made: Debian's packages cannot be fetched",
            found=lost[-1].strip()[:_LONGEST],
            needed="a network, or a mirror in DEBIAN_MIRROR",
        )
    said = read_tail(log, 1, 0.0) or "it said nothing"
    return ProcessError(
        f"{words} was not made: its step {step} failed (exit {status}): {said[:_LONGEST]}",
        fix=f"All it said: {log}",
    )


def is_no_space(text: str) -> bool:
    """Whether some output says that a disk is full."""
    return _FULL.search(text) is not None


def no_space(words: str, said: str) -> MissingNeed:
    """The error for a disk that has become full; ``said`` by whom it matters not."""
    return MissingNeed(
        f"{words} was not made: the disk is full ({said.strip()[:_LONGEST]})",
        fix=f"{free_space_hint()}. Then run the command again: it goes on from there.",
    )


def _own_mounts() -> list[str | Path]:
    """The words before a command whose mounts are to end with it, where the system allows them.

    debootstrap mounts ``/proc`` below its folder, and would leave that when it is killed.
    """
    words: list[str | Path] = ["unshare", "--mount"]
    if shutil.which("unshare") is None:
        return []
    probe = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if probe.returncode == 0 else []
