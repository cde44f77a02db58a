"""The set-up's promises, with a fake uv that records how it was called.

Nothing here needs a network, a real uv or more than a second.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import environment  # noqa: E402
import pins  # noqa: E402
import uvtool  # noqa: E402

FAKE_UV = r"""#!/bin/sh
[ "$1" = --version ] && { echo "uv ${FAKE_VERSION:-0.13.9}"; exit "${FAKE_SHIM:-0}"; }
echo "$*" >> "$FAKE/calls"
env > "$FAKE/env"
case "$*" in
  *--dry-run*) step=plan;; *--editable*) step=editable;; *--torch-backend*) step=torch;;
  *) step="$1 $2";;
esac
[ "$step" = "$FAKE_FAILS" ] && { echo "error: it broke
  cause: ${FAKE_WORDS:-Connection refused}" >&2; exit "${FAKE_CODE:-1}"; }
if [ "$step" = "$FAKE_HANGS" ]; then echo $$ > "$FAKE/pid"; exec sleep 30; fi
case "$step" in
  venv*) for last; do :; done; mkdir -p "$last/bin"; ln -s "$FAKE_PYTHON" "$last/bin/python"
         echo "version_info = ${FAKE_PYTHON_VERSION:-3.11.9}" > "$last/pyvenv.cfg";;
  plan) printf 'Would download 2 packages\nWould install 3 packages\n' >&2;;
  editable) for last; do :; done; touch "$last/.venv/bin/aiinfra";;
  "pip compile") for last; do :; done; cp "$FAKE/resolved" "$last";;
esac
exit 0
"""

LOCK = """\
# Made for the test.
attrs==26.1.0 ; python_full_version < '3.13' and sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
nvidia-cublas==13.0.1 ; sys_platform == 'linux' \\
    --hash=sha256:cc
torch==2.15.0 \\
    --hash=sha256:dd
torch-geometric==2.0 \\
    --hash=sha256:d0
torchvision==0.29.2 \\
    --hash=sha256:ee
triton==3.9.0 ; sys_platform == 'linux' \\
    --hash=sha256:ff
"""


class Project:
    """A small project with the real scripts, an empty home, and the fake uv on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.fake = folder / "fake"
        self.home = folder / "home"
        for made in (self.root / "scripts", self.fake / "bin", self.home):
            made.mkdir(parents=True)
        for script in (ROOT / "scripts").glob("*.py"):
            shutil.copy(script, self.root / "scripts")
        (self.root / "requirements.lock").write_text(LOCK)
        (self.root / "requirements-start.lock").write_text(LOCK[: LOCK.index("nvidia")])
        (self.root / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.ruff]\n')
        executable(self.fake / "bin/uv", FAKE_UV)

    def calls(self) -> list[str]:
        """Return uv's command lines so far, and forget them."""
        record = self.fake / "calls"
        found = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return found

    def uv_environment(self) -> dict[str, str]:
        lines = (self.fake / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def stamp(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.root / ".venv/aiinfra-stamp.json").read_text())
        return found

    def env(self, *arguments: str) -> int:
        """Run the ``env`` command in this process."""
        return environment.main(["env", *arguments], self.root)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the ``env`` command as a process of its own, as make does."""
        command = [sys.executable, str(self.root / "scripts/environment.py"), "env", *arguments]
        env = {**os.environ, **variables}

        def hear_interrupts() -> None:  # a suite in the background would pass on a deaf ear
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        return subprocess.Popen(
            command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
        )


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Tell whether a process is gone, or waits only for being reaped."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    for name in [n for n in os.environ if n.startswith(("UV_", "PIP_", "FAKE_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name in ("SSL_CERT_FILE", "ALL_PROXY", "HTTPS_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{made.fake / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("FAKE", str(made.fake))
    monkeypatch.setenv("FAKE_PYTHON", sys.executable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return made


@pytest.fixture
def quick(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Do not ask the real pip for its settings: it takes half a second."""
    monkeypatch.setattr(uvtool, "pip_settings", lambda _: {})
    return project


# --- what is installed, and when nothing is -------------------------------------------------------


def test_a_cold_start_installs_by_hash_and_says_the_cost_first(
    quick: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("UV_CONSTRAINT", "/nowhere")
    assert quick.env() == 0
    venv, plan, sync, editable = quick.calls()
    assert venv.startswith("venv --no-project --python ")
    assert "--dry-run" in plan
    for flag in ("--require-hashes", "--compile-bytecode", f"{quick.root}/requirements.lock"):
        assert flag in sync
    for flag in ("--offline", "--no-deps", "--no-build-isolation", f"--editable {quick.root}"):
        assert flag in editable
    assert quick.uv_environment().keys().isdisjoint({"PYTHONDONTWRITEBYTECODE", "UV_CONSTRAINT"})
    said = capsys.readouterr().err
    assert re.search(r"whole course .* 10 GB on disk, 1 to 2 minutes .* 2 packages", said)
    assert "Environment ready: the whole course, Python 3.11.9" in said


def test_the_second_run_starts_no_process_and_says_nothing(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick.env() == 0
    capsys.readouterr()

    def no_process(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert quick.env() == 0
    assert capsys.readouterr().err == ""


def change(path: str, old: str, new: str) -> Callable[[Project], None]:
    def act(project: Project) -> None:
        file = project.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return act


@pytest.mark.parametrize(
    ("edit", "installs"),
    [
        (change("requirements.lock", "sha256:aa", "sha256:a0"), True),
        (change("pyproject.toml", '"x"', '"y"'), True),
        (change("pyproject.toml", "[tool.ruff]", "[tool.mypy]"), False),
        (change("requirements-start.lock", "sha256:aa", "sha256:a0"), False),
        (change(".venv/pyvenv.cfg", "3.11.9", "3.11.10"), True),
        (change(".venv/aiinfra-stamp.json", "{", "half"), True),
        (lambda project: (project.root / ".venv/bin/aiinfra").unlink(), True),
        (lambda project: (project.root / ".venv/bin/python").unlink(), True),
    ],
    ids=[
        "lock",
        "project",
        "tool",
        "other-lock",
        "python",
        "torn-stamp",
        "no-command",
        "no-python",
    ],
)
def test_what_makes_it_install_again(
    quick: Project, edit: Callable[[Project], None], installs: bool
) -> None:
    assert quick.env() == 0
    quick.calls()
    edit(quick)
    assert quick.env() == 0
    assert any("--compile-bytecode" in call for call in quick.calls()) is installs
    assert quick.env() == 0
    assert quick.calls() == []


def test_a_moved_folder_is_made_anew(quick: Project) -> None:
    assert quick.env() == 0
    (quick.root / ".venv/stale").touch()
    quick.root = quick.root.rename(quick.root.with_name("moved"))
    assert quick.env() == 0
    assert not (quick.root / ".venv/stale").exists()
    assert not (quick.root / ".venv-old").exists()
    assert quick.stamp()["root"] == str(quick.root)


def test_sets_come_and_go_only_when_asked(quick: Project) -> None:
    def installed() -> list[str]:
        syncs = [c for c in quick.calls() if "--compile-bytecode" in c]
        return [Path(c.split()[-1]).name for c in syncs]

    assert quick.env("--set", "start") == 0
    assert installed() == ["requirements-start.lock"]
    assert quick.env("--set", "") == 0, "make's unset variable"
    assert installed() == []
    assert quick.env("--set", "all") == 0
    assert installed() == ["requirements.lock"]
    assert quick.env("--set", "start") == 0, "the whole course contains the start set"
    assert installed() == []
    change("requirements.lock", "sha256:aa", "sha256:a0")(quick)
    assert quick.env("--set", "start") == 0, "an outdated whole course stays whole"
    assert installed() == ["requirements.lock"]


@pytest.mark.parametrize("step", ["pip sync", "editable"])
@pytest.mark.parametrize(("code", "exits"), [("1", 3), ("130", 130)])
def test_an_unfinished_installation_is_never_taken_for_one(
    quick: Project, monkeypatch: pytest.MonkeyPatch, step: str, code: str, exits: int
) -> None:
    monkeypatch.setenv("FAKE_FAILS", step)
    monkeypatch.setenv("FAKE_CODE", code)
    assert quick.env("--set", "start") == exits
    assert quick.stamp()["key"] == ""
    (quick.root / ".venv/half-a-package").touch()
    quick.calls()
    monkeypatch.delenv("FAKE_FAILS")
    assert quick.env() == 0
    calls = quick.calls()
    assert [c.split()[0] for c in calls].count("venv") == 1
    assert calls[-2].endswith("requirements-start.lock"), "it goes on with what was asked"
    assert not (quick.root / ".venv/half-a-package").exists()
    assert quick.env() == 0
    assert quick.calls() == []


def test_nothing_is_removed_before_the_index_has_answered(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick.env() == 0
    before = quick.stamp()
    (quick.root / ".venv/kept").touch()
    monkeypatch.setenv("FAKE_FAILS", "plan")
    capsys.readouterr()
    assert quick.env("--again") == 3
    said = capsys.readouterr().err
    assert re.fullmatch(r"environment: uv could not find .*broke; Connection refused\).*\n", said)
    assert (quick.root / ".venv/kept").exists()
    assert quick.stamp() == before
    monkeypatch.delenv("FAKE_FAILS")
    assert quick.env("--again") == 0
    assert not (quick.root / ".venv/kept").exists()


def test_torch_cpu_takes_only_torch_from_its_own_index(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("FAKE_FAILS", "torch")
    assert quick.env("--torch", "cpu") == 3, "its index cannot be reached"
    assert capsys.readouterr().err.count("environment: uv could not install the CPU build") == 1
    quick.calls()
    monkeypatch.delenv("FAKE_FAILS")
    assert quick.env() == 0, "cpu is remembered"
    *_, sync, torch, _ = quick.calls()
    lock = Path(sync.split()[-1]).read_text()
    assert [pin.name for pin in pins.read_pins(lock)] == ["attrs", "torch-geometric"]
    assert "--require-hashes" in sync
    assert lock.count("sha256") == 3
    assert "--torch-backend cpu --no-deps" in torch
    assert torch.endswith("torch==2.15.0 torchvision==0.29.2")
    assert quick.env("--torch", "default") == 0
    assert not any("--torch-backend" in call for call in quick.calls())


def test_the_start_set_has_no_torch_to_choose(quick: Project) -> None:
    assert quick.env("--set", "start", "--torch", "cpu") == 0
    assert not any("--torch-backend" in call for call in quick.calls())
    assert quick.stamp()["torch"] == "cpu"


# --- interruptions and rivals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "exits"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_uv_too_and_the_next_run_repairs(
    quick: Project, sent: signal.Signals, exits: int
) -> None:
    run = quick.start(FAKE_HANGS="pip sync")
    until((quick.fake / "pid").exists, "uv at work")
    until(lambda: (quick.fake / "pid").read_text() != "", "its process id")
    uv = int((quick.fake / "pid").read_text())
    run.send_signal(sent)
    _, said = run.communicate(timeout=20)
    assert run.returncode == exits
    assert "Traceback" not in said
    until(lambda: has_ended(uv), "the end of uv")
    assert quick.stamp()["key"] == ""
    assert quick.env() == 0


def test_the_lock_outlives_a_killed_script_while_uv_works(quick: Project) -> None:
    run = quick.start(FAKE_HANGS="pip sync")
    until((quick.fake / "pid").exists, "uv at work")
    until(lambda: (quick.fake / "pid").read_text() != "", "its process id")
    uv = int((quick.fake / "pid").read_text())
    run.kill()
    run.wait(timeout=20)
    assert run.stderr is not None
    run.stderr.close()
    with (quick.root / ".venv.lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: it must be held exclusively
        os.kill(uv, signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)


def test_the_second_of_two_waits_and_finds_the_work_done(quick: Project) -> None:
    assert quick.env() == 0
    quick.calls()
    finished = quick.stamp()
    environment.Stamp("all", "default", "", str(quick.root)).write(quick.root)
    with (quick.root / ".venv.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = quick.start()
        assert second.stderr is not None
        assert second.stderr.readline().startswith("Another set-up is running in this folder")
        environment.Stamp(**finished).write(quick.root)
    _, said = second.communicate(timeout=20)
    assert (second.returncode, said) == (0, "")
    assert quick.calls() == []


# --- what the user did or has ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["env", "--set", "half"], "SET=half is not known: use start or all"),
        (["env", "--torch", "gpu"], "TORCH=gpu is not known: use default or cpu"),
        (["nosuch"], "invalid choice: 'nosuch'"),
        (["env", "--nosuch"], "unrecognized arguments: --nosuch"),
        ([], "required: env | lock | conda"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    before = sorted(project.root.rglob("*"))
    assert environment.main(arguments, project.root) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert sorted(project.root.rglob("*")) == before


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 13, 0)])
def test_another_python_is_refused(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: tuple[int, ...],
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert project.env() == 3
    assert f"3.11 or 3.12 and this is cpython 3.{version[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["environment", "pins", "uvtool"])
def test_older_pythons_get_far_enough_to_say_so(name: str) -> None:
    source = (ROOT / "scripts" / f"{name}.py").read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    assert top <= sys.stdlib_module_names
    assert "tomllib" not in top


def test_a_venv_of_another_python_is_refused_and_left_alone(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PYTHON_VERSION", "3.13.0")
    subprocess.run([quick.fake / "bin/uv", "venv", quick.root / ".venv"], check=True)
    quick.calls()
    assert quick.env() == 3
    assert "holds Python 3.13.0 and the course needs 3.11 or 3.12" in capsys.readouterr().err
    assert quick.calls() == []


def test_a_disk_too_small_is_refused_before_the_download(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(quick.root)._replace(free=5 * uvtool.GIGABYTE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert quick.env() == 3
    assert "5.0 GB free and the whole course needs 12.0 GB more" in capsys.readouterr().err
    assert not any("--compile-bytecode" in call for call in quick.calls())
    assert quick.env("--set", "start") == 0
    monkeypatch.setattr(uvtool, "disk_use", lambda *_: 8 * uvtool.GIGABYTE)
    assert quick.env("--set", "all") == 0, "what is downloaded already counts"


def test_a_disk_that_fills_up_is_not_called_a_matter_of_the_network(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "plan")
    monkeypatch.setenv("FAKE_WORDS", "No space left on device (os error 28)")
    assert quick.env() == 3
    assert "(os error 28)): free some space, then run" in capsys.readouterr().err


def test_disk_use_counts_a_file_once_and_only_on_its_own_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(100_000))
    os.link(tmp_path / "a", tmp_path / "b")
    device = tmp_path.stat().st_dev
    assert 100_000 <= uvtool.disk_use([tmp_path, tmp_path], device) < 200_000
    assert uvtool.disk_use([tmp_path], device + 1) == 0, "a cache elsewhere cannot be linked to"


def test_a_folder_that_cannot_be_written_is_one_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / ".venv.lock").mkdir()  # refused to root too, unlike a read-only folder
    assert project.env() == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_read_only_home_is_no_obstacle(quick: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.devnull)  # nothing can be made below it, even by root
    assert quick.env() == 0
    assert quick.uv_environment()["UV_CACHE_DIR"] == str(quick.root / ".venv-uv/uv")
    monkeypatch.setenv("UV_CACHE_DIR", str(quick.home / "mine"))
    assert quick.env("--again") == 0
    assert quick.uv_environment()["UV_CACHE_DIR"] == str(quick.home / "mine")


def test_pip_settings_are_asked_of_the_first_python_with_a_pip(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = executable(project.fake / "without", "#!/bin/sh\nexit 1\n")
    listing = "global.index-url='a'\nglobal.cert='c'\ninstall.index-url='b'\nfreeze.index-url='f'\n"
    listing += ":env:.proxy='stale'\nglobal.find-links='/one\\n/two'\nnonsense\n"
    asked = executable(project.fake / "with", f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
    expected = {"index-url": "b", "cert": "c", "find-links": "/one\n/two"}
    assert uvtool.pip_settings([without, asked]) == expected
    monkeypatch.setenv("PIP_INDEX_URL", "from-the-environment")
    expected["index-url"] = "from-the-environment"
    assert uvtool.pip_settings([asked]) == expected
    assert uvtool.pip_settings([without]) == {"index-url": "from-the-environment"}


def test_the_real_pip_s_configuration_reaches_uv(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run(
        [uvtool.base_python(), "-m", "pip", "--version"], capture_output=True
    ).returncode:
        pytest.skip("this Python has no pip")
    config = project.home / "pip.conf"
    config.write_text(
        f"[global]\nindex-url = https://mirror.invalid/s\nfind-links = {project.home}\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert project.env() == 0
    found = project.uv_environment()
    assert found["UV_DEFAULT_INDEX"] == "https://mirror.invalid/s"
    assert found["UV_FIND_LINKS"] == str(project.home)
    assert not any("mirror.invalid" in call for call in project.calls()), "it may hold a password"


def test_pip_s_settings_become_uv_s(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "index-url": "https://mirror.invalid/simple",
        "extra-index-url": "https://a.invalid\nhttps://b.invalid",
        "find-links": f"{project.home} /not/there https://c.invalid/wheels",
        "no-index": "false",
        "cert": "/ca.pem",
        "timeout": "60",
        "default-timeout": "30",
    }
    found = uvtool.uv_environment(settings, Path("/cache"))
    assert found["UV_DEFAULT_INDEX"] == "https://mirror.invalid/simple"
    assert found["UV_INDEX"] == "https://a.invalid https://b.invalid"
    assert found["UV_FIND_LINKS"] == f"{project.home},https://c.invalid/wheels"
    assert found["SSL_CERT_FILE"] == "/ca.pem"
    assert found["UV_HTTP_TIMEOUT"] == "60"
    assert "UV_NO_INDEX" not in found
    monkeypatch.setenv("UV_INDEX_URL", "https://uv.invalid")
    monkeypatch.setenv("SSL_CERT_FILE", "/uv.pem")
    found = uvtool.uv_environment({**settings, "no-index": "1"}, Path("/cache"))
    assert "UV_DEFAULT_INDEX" not in found
    assert found["UV_INDEX_URL"] == "https://uv.invalid"
    assert found["SSL_CERT_FILE"] == "/uv.pem"
    assert found["UV_NO_INDEX"] == "1"


# --- where uv comes from --------------------------------------------------------------------------

FAKE_BASE = r"""#!/bin/sh
case "$*" in
  *"import venv, ensurepip"*) exit "${FAKE_NO_VENV:-0}";;
  *"pip config list"*) exit 1;;
  *"-Im venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python";;
  *"pip install"*) echo "pip $*" >> "$FAKE/calls"
    [ -n "$FAKE_NO_INDEX" ] && { echo "ERROR: No matching distribution found for uv" >&2; exit 1; }
    cp "$FAKE/uv" "$(dirname "$0")/uv";;
esac
"""


@pytest.fixture
def without_uv(quick: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A machine with a Python and no uv."""
    (quick.fake / "bin/uv").rename(quick.fake / "uv")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    base = executable(quick.fake / "python", FAKE_BASE)
    monkeypatch.setattr(uvtool, "base_python", lambda: base)
    return quick


def test_uv_is_installed_once_by_pip_into_the_user_s_cache(without_uv: Project) -> None:
    assert without_uv.env("--set", "start") == 0
    pip, *_ = without_uv.calls()
    assert pip.startswith("pip -Im pip install")
    assert pip.endswith(f"--only-binary=:all: {uvtool.UV_PIN}")
    folder = without_uv.home / ".cache/aiinfra"
    assert [found.name for found in folder.iterdir()] == ["uv-0.13.9"]
    assert without_uv.env("--set", "all") == 0
    assert not any(call.startswith("pip -Im") for call in without_uv.calls())


def test_a_helper_that_does_not_run_is_replaced(without_uv: Project) -> None:
    broken = without_uv.home / ".cache/aiinfra/uv-0.13.9/bin"
    broken.mkdir(parents=True)
    executable(broken / "uv", "#!/nowhere\n")
    assert without_uv.env() == 0


def test_a_python_without_venv_gets_the_command_that_brings_it(
    without_uv: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_NO_VENV", "1")
    assert without_uv.env() == 3
    said = capsys.readouterr().err
    assert "apt install python{}.{}-venv".format(*sys.version_info) in said
    assert said.count("\n") == 1
    assert not (without_uv.root / ".venv").exists()


def test_no_index_for_uv_is_one_sentence_and_leaves_nothing(
    without_uv: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_NO_INDEX", "1")
    assert without_uv.env() == 3
    said = capsys.readouterr().err
    assert "could not be installed by pip (No matching distribution found for uv): check" in said
    assert list((without_uv.home / ".cache/aiinfra").iterdir()) == []
    assert not (without_uv.root / ".venv").exists()


@pytest.mark.parametrize(("variable", "value"), [("FAKE_VERSION", "0.7.22"), ("FAKE_SHIM", "127")])
def test_an_old_or_broken_uv_on_the_path_is_passed_over(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    installed: list[Path] = []
    monkeypatch.setattr(uvtool, "install_uv", lambda _, helper: installed.append(helper))
    helper = project.home / "helper"
    assert uvtool.find_uv(Path(sys.executable), helper) == project.fake / "bin/uv"
    monkeypatch.setenv(variable, value)
    assert uvtool.find_uv(Path(sys.executable), helper) == helper / "bin/uv"
    assert installed == [helper]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "error: Request failed\n  cause: Failed\n  cause: refused (os error 111)\n",
            "Request failed; refused (os error 111)",
        ),
        ("\x1b[1merror\x1b[0m: only one.\n", "only one"),
        (
            "  × No solution found:\n  ╰─▶ Because x{python < '3.13'}==1 is not there\n",
            "No solution found; Because x==1 is not there",
        ),
        ("plain words\nlast words\n", "last words"),
        ("", "it gave no reason"),
    ],
)
def test_the_reason_is_short(output: str, expected: str) -> None:
    assert uvtool.reason(output) == expected


# --- the files that pin the course ----------------------------------------------------------------


def committed_pins(name: str) -> dict[tuple[str, str], pins.Pin]:
    found = pins.read_pins((ROOT / name).read_text("utf-8"))
    return {(pin.name, pin.version): pin for pin in found}


def test_read_pins_takes_every_entry_whole() -> None:
    found = pins.read_pins(LOCK)
    assert [pin.name for pin in found][:3] == ["attrs", "nvidia-cublas", "torch"]
    assert found[0].marker == "python_full_version < '3.13' and sys_platform == 'linux'"
    assert found[2].marker == ""
    assert "".join(pin.text for pin in found) == LOCK.split("\n", 1)[1]


@pytest.mark.parametrize("name", pins.LOCKS.values())
def test_every_pin_has_hashes(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    found = committed_pins(name)
    assert len(found) == sum("==" in line[:80] for line in text.splitlines() if line[0] not in " #")
    assert all("--hash=sha256:" in pin.text for pin in found.values())


def test_the_start_lock_is_a_strict_subset() -> None:
    whole, start = (
        committed_pins(name) for name in ("requirements.lock", "requirements-start.lock")
    )
    assert start.keys() < whole.keys()
    for key, pin in start.items():
        hashes = [set(re.findall(r"sha256:\w+", found.text)) for found in (pin, whole[key])]
        assert hashes[0] == hashes[1], key


@pytest.mark.parametrize("extra", ["all", "start"])
def test_the_locks_hold_what_pyproject_asks_for(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked, open_extras = list(project["dependencies"]), [extra]
    while open_extras:
        for line in project["optional-dependencies"][open_extras.pop()]:
            requirement = Requirement(line)
            if requirement.name == project["name"]:
                open_extras += requirement.extras
            else:
                asked.append(line)
    locked = committed_pins(pins.LOCKS[extra])
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        versions = [version for found, version in locked if found == name]
        assert versions, f"{name} is not in the lock: run make lock"
        assert all(requirement.specifier.contains(v, prereleases=True) for v in versions), name


def test_environment_yml_carries_the_lock_s_pins() -> None:
    text = (ROOT / "environment.yml").read_text("utf-8")
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert text == pins.conda_environment(lock), "run: python scripts/environment.py conda"
    conda = yaml.safe_load(text)
    assert conda["name"] == "aiinfra-lab"
    assert conda["dependencies"][0] == "python=3.11"
    listed = [Requirement(line) for line in conda["dependencies"][-1]["pip"][:-1]]

    def selected(found: list[tuple[str, str, Marker | None]], **where: str) -> set[tuple[str, str]]:
        return {(name, version) for name, version, m in found if not m or m.evaluate({**where})}

    ours = [(r.name, str(r.specifier)[2:], r.marker) for r in listed]
    theirs = [
        (p.name, p.version, Marker(p.marker) if p.marker else None) for p in pins.read_pins(lock)
    ]
    for full in ("3.11.2", "3.11.9"):
        for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")):
            where: dict[str, Any] = {"python_full_version": full, "python_version": "3.11"}
            where |= {"sys_platform": system, "platform_machine": machine}
            where |= {"platform_python_implementation": "CPython", "implementation_name": "cpython"}
            assert selected(ours, **where) == selected(theirs, **where)


def test_no_committed_file_names_an_index() -> None:
    files = [ROOT / name for name in (*pins.LOCKS.values(), "environment.yml")]
    for pinned in files:
        text = pinned.read_text("utf-8")
        assert "://" not in text, pinned
        assert not re.search(r"^\s*(-\s+)?--?(i|f|index|extra|find|trusted)\b", text, re.M), pinned
    files += [ROOT / name for name in ("Makefile", "pyproject.toml", ".dockerignore")]
    for folder in ("scripts", "docker", ".devcontainer", ".github"):
        files += [f for f in (ROOT / folder).rglob("*") if f.is_file() and f.suffix != ".pyc"]
    for file in files:
        assert not re.search(r"pypi\.|pythonhosted|/simple\b", file.read_text("utf-8")), file


def test_make_lock_resolves_all_three_or_none(
    quick: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (quick.fake / "resolved").write_text("attrs==27.0 \\\n    --hash=sha256:11\n")
    before = {n: (quick.root / n).read_text() for n in pins.LOCKS.values()}
    monkeypatch.setenv("FAKE_FAILS", "pip compile")
    assert environment.main(["lock"], quick.root) == 3
    assert {n: (quick.root / n).read_text() for n in pins.LOCKS.values()} == before
    assert not list(quick.root.glob(".lock-*"))
    quick.calls()
    monkeypatch.delenv("FAKE_FAILS")
    assert environment.main(["lock", "--upgrade"], quick.root) == 0
    whole, start = quick.calls()
    for call in (whole, start):
        for flag in ("--universal", "--generate-hashes", "--no-emit-index-url", "--upgrade"):
            assert flag in call
    assert "--extra all" in whole
    assert "--extra start --constraints" in start
    assert "attrs==27.0" in (quick.root / "requirements-start.lock").read_text()
    assert '"attrs==27.0"' in (quick.root / "environment.yml").read_text()


# --- make -----------------------------------------------------------------------------------------


@pytest.fixture
def make(project: Project) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run make in the project, with a PATH that holds nothing but a few fake Pythons."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", project.root)
    for tool in ("sh", "awk", "rm", "make"):
        found = shutil.which(tool)
        assert found, tool
        (project.fake / "bin" / tool).symlink_to(found)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(project.fake / "bin"), "HOME": str(project.home)}
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=project.root, env=env, capture_output=True, text=True)

    return run


Make = Callable[..., subprocess.CompletedProcess[str]]


def test_make_passes_over_a_python_that_does_not_run(project: Project, make: Make) -> None:
    executable(
        project.fake / "bin/python3.11", "#!/bin/sh\necho 'pyenv: not found' >&2; exit 127\n"
    )
    good = '#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "ran $*"\n'
    executable(project.fake / "bin/python3.12", good)
    run = make("env", "SET=start", "TORCH=cpu")
    assert run.stdout == "ran scripts/environment.py env --set start --torch cpu\n"
    assert run.stderr == ""
    run = make("env", f"PYTHON={project.fake / 'bin/python3.11'}")
    assert run.returncode != 0, "a chosen Python is not passed over"


def test_make_without_a_fit_python_says_what_to_install(project: Project, make: Make) -> None:
    executable(project.fake / "bin/python3", "#!/bin/sh\nexit 1\n")
    run = make("env")
    assert run.returncode != 0
    sentence, outcome = run.stderr.splitlines()
    assert sentence.startswith("make: no Python 3.11 or 3.12 runs here: install one")
    assert outcome.endswith("Error 3")


def test_make_alone_lists_the_targets(make: Make) -> None:
    run = make()
    assert run.returncode == 0
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony
    assert re.findall(r"^make (\w+)", run.stdout, re.M) == phony[1].split()


def test_make_lab_and_test_hand_over_their_variables(project: Project, make: Make) -> None:
    good = (
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\n[ "$1" = scripts/environment.py ] || echo "ran $*"\n'
    )
    (project.root / ".venv/bin").mkdir(parents=True)
    executable(project.root / ".venv/bin/python", good)
    executable(project.root / ".venv/bin/aiinfra", '#!/bin/sh\necho "aiinfra $*"\n')
    assert make("lab").stdout == "aiinfra lab\n"
    assert make("lab", "PORT=9999").stdout == "aiinfra lab --port 9999\n"
    without = make("test")
    assert without.returncode == 2
    assert without.stderr.startswith("A release has no tests")
    (project.root / "tests").mkdir(exist_ok=True)
    (project.root / "tests/run.py").touch()
    assert make("test", "ARGS=-k one").stdout == "ran tests/run.py -k one\n"
