"""The programs out of the tools manifest by ``go build``, with their versions stamped in.

The compiler runs as a ``Child`` of low priority: an interrupt ends it, and Go's own cache keeps
what was compiled. Without the stamp the API server would call itself v0.0.0, and kubectl
refuses that.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiinfra_lab.errors import MissingNeed, ProcessError
from aiinfra_lab.files import atomic_writer
from aiinfra_lab.kube.manifest import Manifest, Tool
from aiinfra_lab.kube.stalled import Watch, signs_of
from aiinfra_lab.needs import go_program
from aiinfra_lab.processes import Child
from aiinfra_lab.processes.tail import follow

_STAMP = "k8s.io/component-base/version"
_LOOK_S = 0.2
_SILENT_S = 180.0
_NO_NETWORK = re.compile(
    r"dial tcp|no such host|i/o timeout|connection refused|network is unreachable"
    r"|disabled by GOPROXY|proxyconnect|TLS handshake timeout"
)
_OLD_GO = re.compile(r"go\.mod requires go >= (\S+) \(running go ([^\s;)]+)")


def build(
    tool: Tool, manifest: Manifest, target: Path, report: Callable[[int], None] = lambda done: None
) -> None:
    """Compile ``tool`` and leave it at ``target``.

    Parameters
    ----------
    tool : Tool
        One of ``manifest.tools``.
    manifest : Manifest
        Read only: a build never changes a pin.
    target : Path
        Appears only when the build has succeeded.
    report : callable
        Called with the number of packages compiled so far; those in Go's cache do not count.

    Raises
    ------
    MissingNeed
        There is no Go, it is too old, or it cannot fetch the sources.
    ProcessError
        The build failed; its last lines say why.
    """
    go = go_program()
    if go is None:
        raise MissingNeed(
            f"{tool.name} cannot be built here",
            needed="Go",
            fix="Install it as go.dev/doc/install shows.",
        )
    with tempfile.TemporaryDirectory(prefix="aiinfra-go-") as folder:
        made, log = Path(folder) / tool.name, Path(folder) / "build.log"
        words = ["nice", "-n", "10", str(go), "build", *_flags(tool), "-o", str(made), tool.package]
        with Child(
            words, name=f"go build {tool.name}", log=log, cwd=manifest.folder, env=_environment()
        ) as child:
            lines, compiled = follow(log), 0
            watch = Watch(partial(signs_of, child.pid or 0, log), _SILENT_S)
            while child.returncode is None:
                for line in lines:
                    if line is None:
                        break
                    compiled += "/" in line and " " not in line
                report(compiled)
                if watch.stalled():
                    raise MissingNeed(
                        f"Go waits for an answer while it builds {tool.name}, for {_SILENT_S:g} s",
                        needed="a network that answers, or another module proxy in GOPROXY",
                    )
                time.sleep(_LOOK_S)
            status = child.wait()
            if status != 0:
                raise _explained(tool, status, child.tail(12))
        with atomic_writer(target, mode=0o755) as out, made.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)


def _flags(tool: Tool) -> list[str]:
    linked = "-s -w"
    if tool.package.startswith("k8s.io/kubernetes/"):
        major, minor = tool.version.lstrip("v").split(".")[:2]
        linked += (
            f" -X {_STAMP}.gitVersion={tool.version} -X {_STAMP}.gitMajor={major}"
            f" -X {_STAMP}.gitMinor={minor} -X {_STAMP}.gitTreeState=clean"
        )
    # As many compilers as cores that we may use; each takes up to 1 GB.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plain = ["-v", "-mod=readonly", "-buildvcs=false", "-trimpath"]
    return ["-p", str(cores or 1), *plain, "-ldflags", linked]


def _environment() -> dict[str, str]:
    # For this machine, whatever the user cross-compiles for, and with this go.mod alone.
    other = {"GOOS", "GOARCH", "GOFLAGS"}
    own = {name: value for name, value in os.environ.items() if name not in other}
    return own | {"CGO_ENABLED": "0", "GOWORK": "off", "LC_ALL": "C"}


def _explained(tool: Tool, status: int, tail: str) -> Exception:
    if old := _OLD_GO.search(tail):
        return MissingNeed(
            f"{tool.name} cannot be built by this Go", needed=f"Go {old[1]}", found=f"Go {old[2]}"
        )
    if _NO_NETWORK.search(tail):
        return MissingNeed(
            f"Go cannot fetch the sources of {tool.name}",
            needed="a network, or a module proxy in GOPROXY",
        )
    return ProcessError(f"go build {tool.name} failed", returncode=status, tail=tail)
