"""What exists inside a sandbox: an interpreter, its packages, the system's libraries, no more."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiinfra_lab.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
HOME = "/tmp"

# Read-only and without a user's data: programs, libraries, and what the dynamic linker, time
# zones and fonts need. Neither /etc/passwd nor /etc/hosts: both are written anew.
_SYSTEM = (
    "/usr",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/mime.types",
)
_MAY_BE_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

_FILES = {
    "passwd": "nobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
    "group": "nogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

_STUB = """raise ImportError({text!r}, name=__name__)\n"""

# One thread each: a submission is one of many, and threads do not survive a fork.
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """The read-only world of a sandbox, and its environment.

    Parameters
    ----------
    answers : sequence of str
        Modules of this package that must not be there; importing one says that it is the answer.
    variables : mapping
        Further environment variables.
    """

    answers: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.answers:
            self.place_of(name)

    @property
    def python(self) -> str:
        """The interpreter, inside as outside."""
        return sys.executable

    def folders(self) -> list[Path]:
        """What is bound at its own place: the interpreter, its environment and this package."""
        program = Path(sys.executable).resolve()
        wanted = [Path(sys.base_prefix), program.parents[1], Path(sys.prefix), PACKAGE]
        kept: list[Path] = []
        # Outer folders first, so that one inside another is not bound twice.
        for folder in sorted(dict.fromkeys(wanted), key=lambda path: len(path.parts)):
            if not any(folder.is_relative_to(other) for other in [Path("/usr"), *kept]):
                kept.append(folder)
        return kept

    def place_of(self, module: str) -> Path:
        """The folder or file of ``module``.

        Raises
        ------
        InputError
            It is no module of this package: an answer elsewhere would stay readable.
        """
        first, *rest = module.split(".")
        place = PACKAGE.joinpath(*rest)
        if first == PACKAGE.name and rest and all(rest):
            if place.is_dir():
                return place
            if place.with_suffix(".py").is_file():
                return place.with_suffix(".py")
        raise InputError(f"{module!r} is no module of {PACKAGE.name} and cannot be hidden")

    def environment(self, home: str = HOME) -> dict[str, str]:
        """The whole environment inside, built from nothing, with ``home`` to write in."""
        return {
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            # However it was installed: what else makes the package importable is not there.
            "PYTHONPATH": str(PACKAGE.parent),
            "HOME": home,
            "TMPDIR": home,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": f"{home}/.matplotlib",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONUNBUFFERED": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "AIINFRA_PROGRESS": "off",
            "AIINFRA_HOME": f"{home}/aiinfra",
            "AIINFRA_CACHE": f"{home}/aiinfra-cache",
            **dict.fromkeys(_THREADS, "1"),
            **self.variables,
        }

    def write_files(self, folder: Path) -> None:
        """Write what is made for the inside, in the form that ``mounts`` expects it."""
        for name, text in _FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "empty").mkdir()
        for number, name in enumerate(self.answers):
            stub = folder / f"answer{number}"
            text = _STUB.format(text=f"{name} is the answer of this lab: write it yourself")
            if self.place_of(name).suffix:
                stub.write_text(text, encoding="utf-8")
            else:
                stub.mkdir()
                (stub / "__init__.py").write_text(text, encoding="utf-8")

    def system(self) -> Iterator[tuple[str, str, str]]:
        """bubblewrap's words for the system's part."""
        for name in _MAY_BE_LINKS:
            path = Path(name)
            if path.is_symlink():
                yield ("--symlink", str(path.readlink()), name)
            elif path.is_dir():
                yield ("--ro-bind", name, name)
        for name in _SYSTEM:
            # Resolved: /etc/localtime may lead through a chain of links into /usr.
            if Path(name).exists():
                yield ("--ro-bind", str(Path(name).resolve()), name)

    def mounts(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """Sources outside and places inside, in the order of binding; ``folder`` as written."""
        for path in self.folders():
            yield path, str(path)
        for name in _FILES:
            yield folder / name, f"/etc/{name}"
        for number, name in enumerate(self.answers):
            place = self.place_of(name)
            yield folder / f"answer{number}", str(place)
            if place.suffix:
                # Its compiled form lies beside those of its neighbours, which do without. The
                # folder is made where it is not: somebody may compile while the sandbox stands.
                compiled = place.parent / "__pycache__"
                with contextlib.suppress(OSError):
                    compiled.mkdir(exist_ok=True)
                if compiled.is_dir():
                    yield folder / "empty", str(compiled)
