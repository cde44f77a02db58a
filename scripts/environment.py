"""Make the course's environment in ``.venv``, and the files that pin it.

Standard library only, because nothing is installed yet when this runs; uv does the work. The one
promise is the stamp: ``.venv`` counts as ready only if its stamp names exactly what is wanted, the
stamp is emptied before the first change and filled after the last, and an environment with an
empty stamp is made anew from uv's cache. So an interruption at any moment costs time, never trust.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from pins import LOCKS, read_pins, write_conda, write_locks
from uvtool import RefusalError, Uv, base_python, check_disk, say

ROOT = Path(__file__).resolve().parents[1]
# torch and what only its CUDA build needs.
TORCH_FAMILY = re.compile(r"(torch|torchvision|triton|(nvidia|cuda)-.*)$")
EXAMPLES = """\
examples:
  python3 scripts/environment.py env --set start   a quick look: chapters 00 and 03
  python3 scripts/environment.py env --torch cpu   the whole course without 4 GB of CUDA
  python3 scripts/environment.py lock --upgrade    newer pins, all three files
"""


class PackageSet(NamedTuple):
    """What one of the two locks costs, measured on 2 cores with a fast network."""

    title: str
    gigabytes: float  # on disk when it is installed
    free: float  # gigabytes to have free: those, and what uv unpacks on the way
    wait: str


SETS = {
    "start": PackageSet("the start set", 1.1, 1.5, "half a minute"),
    "all": PackageSet("the whole course", 10, 12, "1 to 2 minutes"),
}


class Choice(NamedTuple):
    """Which packages: a name of ``SETS``, and ``default`` or ``cpu`` for torch; None is unsaid."""

    set: str | None
    torch: str | None


class Stamp(NamedTuple):
    """What ``.venv`` holds; an empty ``key`` means that an installation has not ended."""

    set: str = ""
    torch: str = ""
    key: str = ""
    root: str = ""

    @classmethod
    def read(cls, root: Path) -> Stamp:
        """Return the stamp of ``.venv``, the empty one if there is none that can be read."""
        try:
            return cls(**json.loads((root / ".venv/aiinfra-stamp.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, root: Path) -> None:
        """Put the stamp in its place in one step."""
        fresh = root / ".venv/aiinfra-stamp.new"
        fresh.write_text(json.dumps(self._asdict()) + "\n", "utf-8")
        fresh.replace(root / ".venv/aiinfra-stamp.json")


def chosen(wanted: Choice, stamp: Stamp) -> tuple[str, str]:
    """Fill what is unsaid from what is installed, so that no gigabytes come or go unasked."""
    name = wanted.set
    if name == "start" and stamp.set == "all" and stamp.key:
        name = "all"  # the whole course contains the start set
    return name or stamp.set or "all", wanted.torch or stamp.torch or "default"


def python_version(root: Path) -> str:
    """Return the version of the Python in ``.venv``, "" if there is none that can run."""
    try:
        text = (root / ".venv/pyvenv.cfg").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"^version(?:_info)? *= *(\S+)", text, re.M)
    return found[1] if found and (root / ".venv/bin/python").exists() else ""


def key_of(root: Path, choice: tuple[str, str]) -> str:
    """Return the digest of everything that decides what ``.venv`` must contain."""
    import tomllib  # Python 3.11, of which run() has made sure

    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RefusalError(f"pyproject.toml is not valid TOML: {error}.", code=2) from None
    parts = [
        project.get("project"),
        project.get("build-system"),
        project.get("tool", {}).get("hatch"),
    ]
    machine = [sys.platform, os.uname().machine, python_version(root)]
    digest = hashlib.sha256(json.dumps([choice, parts, machine], sort_keys=True).encode())
    digest.update((root / LOCKS[choice[0]]).read_bytes())
    return digest.hexdigest()


def is_ready(root: Path, choice: tuple[str, str], stamp: Stamp) -> bool:
    """Tell whether ``.venv`` is what is wanted, without starting any process."""
    return (
        stamp.root == str(root)  # the scripts in bin/ hold absolute paths
        and (root / ".venv/bin/aiinfra").exists()
        and stamp.key == key_of(root, choice)
    )


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[int]:
    """Hold the lock of the set-up in this folder; yield its handle."""
    import fcntl  # not on Windows, which run() has refused

    try:
        handle = os.open(root / ".venv.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RefusalError(
            f"{root} cannot be written ({error.strerror}): copy the course to a folder of yours."
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is running in this folder: waiting for it to end.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def make_venv(root: Path, uv: Uv, *, anew: bool) -> None:
    """Make ``.venv`` if there is none that runs, or if its contents cannot be trusted."""
    venv, old = root / ".venv", root / ".venv-old"
    version = python_version(root)
    if version and not version.startswith(("3.11.", "3.12.")):
        raise RefusalError(
            f"{venv} holds Python {version} and the course needs 3.11 or 3.12: rename or remove "
            "that folder, then run the same command again."
        )
    if version and not anew:
        return
    if old.exists():
        shutil.rmtree(old)
    if os.path.lexists(venv):
        venv.rename(old)  # in one step: a half-removed environment must never be taken for one
    uv.ask("make .venv", "venv", "--no-project", "--python", str(base_python()), str(venv))
    shutil.rmtree(old, ignore_errors=True)


def install(root: Path, choice: tuple[str, str], stamp: Stamp, held: int, *, again: bool) -> None:
    """Bring ``.venv`` to the lock, then install the project itself; the full stamp is last."""
    start = time.monotonic()
    wanted = SETS[choice[0]]
    uv = Uv.get(root, held)
    lock = root / LOCKS[choice[0]]
    python = ["--python", str(root / ".venv/bin/python")]
    # Any of the user's indexes may serve a file: its hash decides whether it is the one.
    sync = ["pip", "sync", *python, "--require-hashes", "--index-strategy", "unsafe-best-match"]

    make_venv(root, uv, anew=False)
    if again or (stamp.set and (not stamp.key or stamp.root != str(root))):
        uv.ask("find the packages", *sync, "--dry-run", str(lock))  # before anything is removed
        say("Making .venv anew; what was downloaded is kept.")
        make_venv(root, uv, anew=True)

    pins = read_pins(lock.read_text("utf-8"))
    torch = [pin for pin in pins if TORCH_FAMILY.match(pin.name)]
    cpu = bool(torch) and choice[1] == "cpu" and sys.platform != "darwin"  # macOS has no CUDA build
    if cpu:  # the CPU wheels have other hashes: all but torch's family is installed by hash
        lock = root / ".venv/without-torch.lock"
        lock.write_text("".join(pin.text for pin in pins if pin not in torch), "utf-8")
    plan = uv.ask("find the packages", *sync, "--dry-run", str(lock))
    if "Would install" in plan:
        size = wanted.gigabytes - (4 if cpu else 0)
        download = re.search(r"Would download (\d+)", plan)
        say(
            f"Installing {wanted.title} into .venv: about {size:g} GB on disk, {wanted.wait} on a "
            f"fast network; {download[1] if download else 'no'} packages to download."
        )
        instead = ", or take the start set (make lab SET=start)" if choice[0] == "all" else ""
        free = wanted.free - (4 if cpu else 0)
        check_disk(root / ".venv", uv.cache, wanted.title, free, instead)
    Stamp(*choice, "", str(root)).write(root)
    uv.do("install the packages", *sync, "--compile-bytecode", str(lock))
    if cpu:
        exact = [f"{pin.name}=={pin.version}" for pin in torch if pin.name.startswith("torch")]
        backend = ["--torch-backend", "cpu", "--no-deps", "--compile-bytecode"]
        uv.do("install the CPU build of torch", "pip", "install", *python, *backend, *exact)
    editable = ["--offline", "--no-deps", "--no-build-isolation", "--editable", str(root)]
    uv.do("install the course itself", "pip", "install", *python, "--quiet", *editable)
    Stamp(*choice, key_of(root, choice), str(root)).write(root)
    took = time.monotonic() - start
    say(f"Environment ready: {wanted.title}, Python {python_version(root)}, in {took:.0f} s.")


def ensure(root: Path, wanted: Choice, *, again: bool) -> None:
    """Make the environment unless it is there already."""
    stamp = Stamp.read(root)
    if not again and is_ready(root, chosen(wanted, stamp), stamp):
        return
    with only_one(root) as held:
        stamp = Stamp.read(root)  # the set-up that we waited for may have done the work
        choice = chosen(wanted, stamp)
        if again or not is_ready(root, choice, stamp):
            install(root, choice, stamp, held, again=again)


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake answered by one sentence instead of the usage."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise RefusalError(f"{message} (see: {self.prog} --help).", code=2)


def one_of(name: str, value: str | None, known: Sequence[str]) -> str | None:
    """Refuse a value that is not known; the empty string, make's unset variable, is unsaid."""
    if value and value not in known:
        raise RefusalError(f"{name}={value} is not known: use {' or '.join(known)}.", code=2)
    return value or None


def command_line() -> Parser:
    """Return the parser of the three commands."""
    parser = Parser(
        prog="environment.py",
        description="Set up the course.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="env | lock | conda", required=True)
    env = commands.add_parser("env", help="make .venv, or find that it is ready")
    env.add_argument("--set", help="start or all; unsaid: what is installed, else all")
    env.add_argument("--torch", help="default (the lock's) or cpu; unsaid: what is installed")
    env.add_argument("--again", action="store_true", help="make .venv anew from uv's cache")
    lock = commands.add_parser("lock", help="resolve pyproject.toml into the three pin files")
    lock.add_argument("--upgrade", action="store_true", help="take newer versions")
    commands.add_parser("conda", help="write environment.yml from requirements.lock")
    return parser


def run(arguments: Sequence[str], root: Path) -> None:
    """Carry out one command."""
    if sys.platform == "win32":
        raise RefusalError("The course runs on Linux and macOS: on Windows, use it inside WSL 2.")
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise RefusalError(
            "The course needs CPython 3.11 or 3.12 and this is {} {}.{}: install one of them, "
            "then run the same command again.".format(sys.implementation.name, *sys.version_info)
        )
    options = command_line().parse_args(arguments)
    if options.command == "env":
        name = one_of("SET", options.set, [*SETS])
        torch = one_of("TORCH", options.torch, ["default", "cpu"])
        ensure(root, Choice(name, torch), again=options.again)
    elif options.command == "lock":
        with only_one(root) as held:
            write_locks(root, held, upgrade=options.upgrade)
        say(f"Wrote {', '.join(LOCKS.values())} and environment.yml.")
    else:
        write_conda(root)


def stop(*_: object) -> NoReturn:
    """End as SIGTERM asks, by an exception: unlike the default, that ends uv too."""
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line and return the exit code: 0, 2 bad input, 3 a need, 130 interrupted."""
    try:
        run(sys.argv[1:] if arguments is None else arguments, root)
    except RefusalError as refusal:
        say(f"environment: {refusal}")
        return refusal.code
    except KeyboardInterrupt:
        say("environment: interrupted; the same command goes on from here.")
        return 130
    except OSError as error:
        say(f"environment: {error.filename or root}: {error.strerror}; mend that and run it again.")
        return 3
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
