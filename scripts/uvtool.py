"""Find uv or get it, and run it with the user's own settings for pip.

The course asks for Python and make alone, so uv comes from pip, into a helper venv in the user's
cache folder. A mirror, a folder of wheels or a certificate that somebody set up for pip must hold
for uv too: their settings are read from pip and handed over in uv's words, by environment, so that
no address is ever written to a file or shown in a list of processes.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

UV_PIN = "uv==0.13.9"  # what is installed where the PATH has no uv
UV_OLDEST = (0, 8)  # the oldest that is known to work
GIGABYTE = 10**9

# pip's settings and uv's names for them; the first name is the one that is set, and any of them
# that the user has set wins over pip's.
PIP_TO_UV: dict[str, tuple[str, ...]] = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "no-index": ("UV_NO_INDEX",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("ALL_PROXY", "HTTPS_PROXY", "all_proxy", "https_proxy"),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "timeout": ("UV_HTTP_TIMEOUT",),
}
# What would change which packages are installed, or where, does not come from the user's shell.
NOT_INHERITED = {
    *("UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TORCH_BACKEND", "UV_REQUIRE_HASHES", "UV_OVERRIDE"),
    *("UV_NO_VERIFY_HASHES", "UV_CONSTRAINT", "UV_EXCLUDE_NEWER", "UV_PRERELEASE"),
    *("UV_RESOLUTION", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"),
}


class RefusalError(Exception):
    """Something that the user can mend; ``code`` is 2 for bad input, 3 for a missing need."""

    def __init__(self, sentence: str, code: int = 3) -> None:
        super().__init__(sentence)
        self.code = code


def say(sentence: str) -> None:
    """Print one line for people; stdout stays free for results."""
    print(sentence, file=sys.stderr, flush=True)


def base_python() -> Path:
    """Return the Python below any venv, by the name that an upgrade of the system leaves true."""
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    versioned = base.with_name("python{}.{}".format(*sys.version_info))
    return versioned if versioned.exists() else base


def usable(folder: Path) -> bool:
    """Tell whether files can be made in ``folder``, by making one: permission bits can lie."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def cache_folder(root: Path, name: str) -> Path:
    """Return the user's cache folder for ``name``, or one in the project if home is read-only."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / name
    return home if home.is_absolute() and usable(home) else root / ".venv-uv" / name


def pip_settings(pythons: Sequence[Path]) -> dict[str, str]:
    """Return the settings that pip would use, asked of the first Python that has a pip."""
    found: dict[str, dict[str, str]] = {}
    for python in pythons:
        command = [str(python), "-m", "pip", "config", "list"]
        listing = subprocess.run(command, capture_output=True, text=True)
        if listing.returncode:
            continue
        lines = re.findall(r"^(global|install)\.([\w-]+)=(.+)$", listing.stdout, re.M)
        for section, name, value in lines:
            with contextlib.suppress(ValueError, SyntaxError):
                found.setdefault(section, {})[name] = str(ast.literal_eval(value))
        break
    # The environment is read here, so that it counts even where no Python has a pip.
    by_name = {n: os.environ.get("PIP_" + n.upper().replace("-", "_")) for n in PIP_TO_UV}
    environment = {n: v for n, v in by_name.items() if v}
    return {**found.get("global", {}), **found.get("install", {}), **environment}


def uv_environment(settings: dict[str, str], cache: Path) -> dict[str, str]:
    """Return the environment for uv: the user's, with pip's settings in uv's words."""
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    for name, variables in PIP_TO_UV.items():
        words = settings.get(name, "").split()
        if name == "find-links":  # pip passes over a folder that is not there, uv fails on it
            words = [w for w in words if "://" in w or Path(w).expanduser().exists()]
        if name == "no-index" and words and words[0].lower() in ("0", "false", "no", "off"):
            words = []
        if words and not any(os.environ.get(v) for v in variables):
            env[variables[0]] = ("," if name == "find-links" else " ").join(words)
    env.setdefault("UV_CACHE_DIR", str(cache))
    env["UV_PYTHON_DOWNLOADS"] = "never"
    if os.environ.get("AIINFRA_PROGRESS") == "off":
        env["UV_NO_PROGRESS"] = "1"
    return env


def uv_version(uv: Path) -> tuple[int, ...]:
    """Return uv's version, or () if the file does not run (a shim may exist and fail)."""
    try:
        run = subprocess.run([str(uv), "--version"], capture_output=True, text=True)
    except OSError:
        return ()
    found = re.match(r"uv (\d+)\.(\d+)", run.stdout) if run.returncode == 0 else None
    return tuple(map(int, found.groups())) if found else ()


def find_uv(base: Path, helper: Path) -> Path:
    """Return a uv that runs: the one on the PATH if it is recent, else pip's in ``helper``."""
    on_path = shutil.which("uv")
    if on_path and uv_version(Path(on_path)) >= UV_OLDEST:
        return Path(on_path)
    if not uv_version(helper / "bin/uv"):
        install_uv(base, helper)
    return helper / "bin/uv"


def install_uv(base: Path, helper: Path) -> None:
    """Make the helper venv beside its place and move it there whole."""
    probe = [str(base), "-Ic", "import venv, ensurepip"]
    if subprocess.run(probe, capture_output=True).returncode:
        raise RefusalError(
            f"{base} has no venv module with pip: install it (Debian and Ubuntu: apt install "
            "python{}.{}-venv), then run the same command again.".format(*sys.version_info)
        )
    say(f"Getting {UV_PIN}, which installs the rest.")
    helper.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="uv-", dir=helper.parent))
    pip = [str(fresh / "bin/python"), "-Im", "pip", "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check", "--only-binary=:all:", UV_PIN]
    env = {**os.environ, "PIP_USER": "0"}  # a `user = true` in pip's settings fails in a venv
    try:
        for command in ([str(base), "-Im", "venv", str(fresh)], pip):
            run = subprocess.run(command, capture_output=True, text=True, env=env)
            if run.returncode:
                raise RefusalError(
                    f"uv could not be installed by pip ({reason(run.stderr or run.stdout)}): "
                    "check the network and the index that pip is set to (pip config list), then "
                    "run the same command again."
                )
        if not uv_version(helper / "bin/uv"):  # else another project was faster, and uses it
            shutil.rmtree(helper, ignore_errors=True)
            with contextlib.suppress(OSError):
                fresh.rename(helper)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def reason(output: str) -> str:
    """Return the first and the last cause that pip or uv gave, short enough for a sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\{[^}]*\}", "", output)  # colours, and uv's long markers
    marks = r"^\W*(?:error|cause|caused by): *(.+?)[.:]?$|^ *[×╰├][─▶ ]*(.+?)[.:]?$"
    told = [a or b for a, b in re.findall(marks, plain, re.M | re.I)]
    told = told or plain.strip().splitlines()[-1:] or ["it gave no reason"]
    return "; ".join(word[:160] for word in dict.fromkeys([told[0], told[-1]]))


class Uv(NamedTuple):
    """A uv that runs, its environment, and the handle of the set-up's lock, which it inherits."""

    path: Path
    env: dict[str, str]
    cache: Path
    held: int

    @classmethod
    def get(cls, root: Path, held: int) -> Uv:
        """Find uv or install it, and read pip's settings for it."""
        base = base_python()
        helper = cache_folder(root, "aiinfra") / UV_PIN.replace("==", "-")
        path = find_uv(base, helper)
        cache = Path(os.environ.get("UV_CACHE_DIR") or cache_folder(root, "uv"))
        pythons = [base, *(p for p in [helper / "bin/python"] if p.exists())]
        return cls(path, uv_environment(pip_settings(pythons), cache), cache, held)

    def ask(self, doing: str, *arguments: str) -> str:
        """Run uv quietly and return what it said; its failure becomes one sentence."""
        command = [str(self.path), *arguments]
        run = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if run.returncode in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if run.returncode:
            advice = "check the network and the index that pip or uv is set to (pip config list)"
            if "No space left" in run.stderr:
                advice = "free some space"
            raise RefusalError(
                f"uv could not {doing} ({reason(run.stderr)}): {advice}, then run the same "
                "command again."
            )
        return run.stderr + run.stdout

    def do(self, doing: str, *arguments: str) -> None:
        """Run uv with its own progress and words on the terminal."""
        # Whoever is killed, uv or this script, the lock stays until both are gone.
        command = [str(self.path), *arguments]
        run = subprocess.run(command, env=self.env, pass_fds=[self.held])
        if run.returncode in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if run.returncode:
            raise RefusalError(
                f"uv could not {doing}: mend what it says above (the network, a full disk), then "
                "run the same command again; what was downloaded is kept."
            )


def disk_use(folders: Sequence[Path], device: int) -> int:
    """Return the bytes of one disk under the folders, a file with several names counted once."""
    seen: dict[int, int] = {}
    for folder in folders:
        for here, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    found = (Path(here) / name).lstat()
                    if found.st_dev == device:
                        seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def check_disk(venv: Path, cache: Path, title: str, gigabytes: float, instead: str) -> None:
    """Refuse before the first download if it cannot fit; what is already there counts."""
    for folder in (cache, venv):
        if not folder.exists():  # uv was told to keep no cache
            continue
        need = gigabytes * GIGABYTE
        free = shutil.disk_usage(folder).free
        if free < need:  # only now is the walk worth its seconds
            need -= disk_use([venv, cache], folder.stat().st_dev)
        if free < need:
            raise RefusalError(
                f"{folder} has {free / GIGABYTE:.1f} GB free and {title} needs "
                f"{need / GIGABYTE:.1f} GB more: free some space{instead}."
            )
