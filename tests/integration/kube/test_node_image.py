"""Making the images of kind with stand-ins for docker, go and the course's script.

What is shown: what is done and what is not done again, that nothing half done counts, and what the
user is told. That the script makes an image that works is shown where there is a Docker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from image_machine import KUBERNETES, ImageMachine

from aiinfra_lab import needs
from aiinfra_lab.cli.main import run as aiinfra
from aiinfra_lab.errors import ProcessError
from aiinfra_lab.kube import build as building
from aiinfra_lab.kube.kind.engine import Engine
from aiinfra_lab.kube.kind.image import NODE_IMAGE, choose_image
from aiinfra_lab.kube.kind.node_image import checks, leftovers, steps
from aiinfra_lab.kube.kind.node_image.making import STEPS, make_node_image, make_python_image
from aiinfra_lab.kube.kind.node_image.programs import PROGRAMS
from aiinfra_lab.kube.kind.node_image.recipe import Recipe
from aiinfra_lab.settings import settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="images are made on Linux")
# A shell that starts the tests in its background has them ignore Ctrl-C, and their children too.
MAKE = """
import signal, sys
from aiinfra_lab.cli.main import run
from aiinfra_lab.kube.kind.node_image import checks
checks._is_root = lambda: True
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run(["cluster", "node-image", *sys.argv[1:]]))
"""
COMPILED = [f"go {name}" for name in ("./coredns", "./pause")]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageMachine]:
    """A machine without any image, on which the user is root."""
    made = ImageMachine(tmp_path / "lab machine")  # a blank: the kernel escapes it in its lists
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("DOCKER_HOST", "WGETRC", "DEBIAN_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(checks, "_is_root", lambda: True)
    monkeypatch.setattr(checks, "_SYSTEM_FOLDERS", "/nowhere")
    for module in (building, steps):
        monkeypatch.setattr(module, "_LOOK_S", 0.01)
    settings.cache_clear()
    needs.find.cache_clear()
    yield made
    settings.cache_clear()
    needs.find.cache_clear()
    assert not list(made.cache.rglob("*.part"))


@pytest.fixture
def making(machine: ImageMachine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command in a process of its own, as far as ``sign``."""
    begun: list[subprocess.Popen[str]] = []

    def start(sign: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", MAKE, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        until(lambda: (machine.folder / sign).exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def archive_name() -> str:
    """What the archive of this key is called on this machine."""
    return f"node-{Recipe.find().key}.tar.{'zst' if shutil.which('zstd') else 'gz'}"


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, true
        time.sleep(0.02)


def running(machine: ImageMachine) -> list[list[str]]:
    """What still runs of the stand-ins."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(str(machine.folder) in word for word in words):
                found.append(words)
    return found


# From nothing to an image.


def test_from_nothing_to_an_image_and_its_archive(machine, capsys):
    tag = Recipe.find().tag
    assert aiinfra(["cluster", "node-image"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tag}\n"
    assert tag.startswith(f"aiinfra/node:{KUBERNETES}-")
    assert machine.images() == {tag}
    assert "about 8 minutes the first time, 10 GB" in err
    assert "node begins" in err  # the script's own words
    assert len(machine.calls("go ")) == len(PROGRAMS)
    assert machine.calls("go ")[-2:] == COMPILED
    assert machine.calls("build ") == [f"build {step}" for step in STEPS]
    names = (machine.folder / "programs").read_text().split()
    assert sorted(names[:-1]) == sorted(PROGRAMS)
    assert names[-1] == "k8s.io/kubernetes/cmd/kubelet"  # the program itself, not a file's name
    archive = machine.cache / "kube/kind" / archive_name()
    assert archive.stat().st_mode & 0o044  # root makes it, and others make clusters of it
    # Of 10 GB stays what makes the next build fast, and the archive.
    assert machine.cached() == {"programs", archive_name()}


def test_a_second_call_asks_only_for_the_image(machine, capsys, monkeypatch):
    make_node_image()
    machine.forget_calls()
    monkeypatch.setattr(checks, "_is_root", lambda: False)
    capsys.readouterr()
    assert aiinfra(["cluster", "node-image"]) == 0
    assert capsys.readouterr() == (f"{Recipe.find().tag}\n", "")
    assert [call.split()[1] for call in machine.calls()] == ["version", "image"]


def test_the_key_alone_needs_no_docker(machine, capsys):
    machine.be("no-daemon")
    assert aiinfra(["cluster", "node-image", "--print-key"]) == 0
    assert capsys.readouterr().out == f"{Recipe.find().key}\n"
    assert machine.calls() == []


def test_the_archive_is_taken_where_the_image_has_gone(machine, monkeypatch, capsys):
    tag = make_node_image()
    machine.remove_images()
    machine.forget_calls()
    monkeypatch.setattr(checks, "_is_root", lambda: False)  # loading needs no root
    assert make_node_image() == tag
    assert machine.images() == {tag}
    assert machine.calls("go ") == machine.calls("build ") == []
    assert "loading the node image from" in capsys.readouterr().err


def test_an_archive_is_made_of_an_image_that_is_there(machine):
    tag = make_node_image(archive=False)
    assert machine.cached() == {"programs"}
    machine.forget_calls()
    assert make_node_image() == tag
    assert machine.calls("build ") == []
    assert archive_name() in machine.cached()


def test_without_zstd_the_archive_is_one_of_gzip(machine, monkeypatch):
    found = shutil.which
    absent = lambda name, **options: None if name == "zstd" else found(name, **options)  # noqa: E731
    monkeypatch.setattr("aiinfra_lab.kube.kind.node_image.archive.shutil.which", absent)
    tag = make_node_image()
    assert f"node-{Recipe.find().key}.tar.gz" in machine.cached()
    machine.remove_images()
    machine.forget_calls()
    assert make_node_image() == tag
    assert machine.calls("build ") == []


def test_an_archive_that_cannot_be_written_is_said_and_fails_nothing(machine, capsys):
    machine.be("no-save")
    tag = make_node_image()
    assert machine.images() == {tag}
    assert machine.cached() == {"programs"}
    assert "no archive of it: Error response from daemon: no" in capsys.readouterr().err


def test_again_makes_the_image_anew_of_the_programs_that_are_there(machine):
    tag = make_node_image()
    machine.forget_calls()
    assert make_node_image(again=True) == tag
    assert machine.calls("go ") == []
    assert machine.calls("build ") == [f"build {step}" for step in STEPS]


def test_again_begins_from_the_first_step_also_after_a_build_that_failed(machine):
    machine.be("images-says", "broken")
    with pytest.raises(ProcessError):
        make_node_image()
    machine.no_more("images-says")
    machine.forget_calls()
    make_node_image(again=True)
    assert machine.begun() == list(STEPS)


# What is compiled.


def test_programs_that_the_course_has_installed_are_not_compiled(machine):
    from aiinfra_lab.kube.programs import Stamp, programs_folder, write_stamp

    folder = programs_folder()
    folder.mkdir(parents=True)
    for name, version, size in [("kubectl", KUBERNETES, 3), ("etcd", "v3.6.7", 3),
                                ("kube-apiserver", KUBERNETES, 2)]:  # fmt: skip
        (folder / name).write_text("abc")
        write_stamp(folder, name, Stamp(version, size, "", "download"))
    make_node_image()
    assert machine.calls("go k8s.io/kubernetes/cmd/kubectl") == []
    assert len(machine.calls("go ")) == len(PROGRAMS) - 1  # the old and the cut off do not count
    assert (folder / "etcd").read_text() == "abc"  # whose is not ours to replace


def test_a_change_compiles_only_what_is_made_of_it(machine):
    node = machine.course / "cluster/kind/node"
    first = make_node_image()
    for file, compiled in [
        (node / "coredns/main.go", ["go ./coredns"]),
        (node / "README", []),
        (node / "go.sum", [f"go example.com/tools/{name}" for name in list(PROGRAMS)[8:-2]]
         + COMPILED),
    ]:  # fmt: skip
        machine.forget_calls()
        with file.open("a") as text:
            text.write("// more\n")
        tag = make_node_image()
        assert tag != first
        assert machine.calls("go ") == compiled
        assert machine.calls("build ") == [f"build {step}" for step in STEPS]


def test_a_compiled_program_that_was_cut_off_is_compiled_again(machine):
    make_node_image()
    (machine.cache / "kube/kind/programs/ptp").write_text("")
    machine.forget_calls()
    make_node_image(again=True)
    assert machine.calls("go ") == ["go example.com/tools/ptp"]


# What older keys leave.


def test_the_newest_other_image_and_archive_are_kept(machine, monkeypatch):
    tags, archives = [], []
    (machine.folder / "images" / "aiinfra@node:v1.35.0-0123-base").touch()  # of a killed build
    for number in range(4):
        (machine.course / "cluster/kind/node/README").write_text(str(number))
        tags.append(make_node_image())
        archives.append(machine.cache / "kube/kind" / archive_name())
        for path in (machine.folder / "images").iterdir():  # so that each is a second older
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
        for path in filter(Path.exists, archives):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    assert machine.images() == set(tags[2:])
    assert [path.exists() for path in archives] == [False, False, True, True]
    machine.be("used")  # by a cluster
    (machine.course / "cluster/kind/node/README").write_text("used")
    assert make_node_image() in machine.images()
    assert machine.images() >= set(tags[2:])


def test_a_folder_in_which_something_is_mounted_is_not_removed(machine, monkeypatch, capsys):
    folder = machine.cache / "kube/kind/build-x"
    (folder / "root/dev").mkdir(parents=True)
    (folder / "root/dev/null").touch()
    table = machine.folder / "mountinfo"
    place = str(folder / "root/dev").replace(" ", "\\040")
    table.write_text(f"1 2 0:5 / / rw - ext4 x\n36 25 0:5 / {place} rw - devtmpfs udev rw\n")
    monkeypatch.setattr(leftovers, "_MOUNTS", table)
    leftovers.remove_builds()
    assert (folder / "root/dev/null").exists()
    assert f"umount {folder}/root/dev" in capsys.readouterr().err
    table.write_text("")
    leftovers.remove_builds()
    assert not folder.exists()


# A build that is cut off.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_cut_off_in_a_step_goes_on_there(machine, making, number):
    machine.be("images-hangs")
    process = making("hanging")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    until(lambda: not running(machine))
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in said
        assert "goes on from there" in said
    assert machine.images() == set()
    machine.no_more("images-hangs")
    machine.forget_calls()
    assert make_node_image() in machine.images()
    assert machine.calls("go ") == []
    assert machine.calls("build ")[-2:] == ["build images", "build node"]
    assert not [name for name in machine.cached() if name.startswith("build-")]


def test_a_build_that_is_cut_off_while_it_compiles_keeps_what_is_compiled(machine, making):
    machine.be("system-says", "broken")
    with pytest.raises(ProcessError):
        make_node_image()
    (machine.cache / "kube/kind/programs/pause").unlink()
    machine.be("go-hangs")
    process = making("compiling")
    process.kill()
    process.communicate()
    until(lambda: not running(machine))
    for name in ("go-hangs", "system-says"):
        machine.no_more(name)
    machine.forget_calls()
    make_node_image()
    assert machine.calls("go ") == ["go ./pause"]


def test_an_archive_that_is_cut_off_is_none(machine, making):
    machine.be("save-hangs")
    process = making("saving")
    process.kill()
    process.communicate()
    until(lambda: not running(machine))
    machine.no_more("save-hangs")
    assert archive_name() not in machine.cached()
    machine.forget_calls()
    make_node_image()
    assert archive_name() in machine.cached()
    assert machine.begun() == []  # the image was whole


def test_a_step_that_is_done_is_not_counted_again(machine, capsys):
    machine.be("images-says", "broken")
    with pytest.raises(ProcessError):
        make_node_image(archive=False)
    machine.no_more("images-says")
    machine.forget_calls()
    capsys.readouterr()
    make_node_image(archive=False)
    said = capsys.readouterr().err
    assert "about 1 minute, 6 GB" in said  # not of the system
    assert "aiinfra: images begins; about 1 minute left" in said
    assert "aiinfra: node begins; about half a minute left" in said
    assert machine.begun() == ["images", "node"]


def test_a_node_that_failed_is_made_of_new_images(machine):
    # Docker may have lost those of the step before, which the node's step also removes itself.
    machine.be("node-says", "Error response from daemon: No such image")
    with pytest.raises(ProcessError):
        make_node_image(archive=False)
    machine.no_more("node-says")
    machine.forget_calls()
    make_node_image(archive=False)
    assert machine.begun() == ["images", "node"]


def test_an_image_that_is_removed_during_its_build_is_made_again(machine):
    machine.be("no-image")
    with pytest.raises(ProcessError, match="there is no image aiinfra/node"):
        make_node_image()
    machine.no_more("no-image")
    machine.forget_calls()
    assert make_node_image() in machine.images()
    assert machine.begun() == ["images", "node"]


def test_two_builds_take_turns(machine, making):
    machine.be("node-hangs")
    first = making("hanging")
    second = subprocess.Popen(
        [sys.executable, "-c", MAKE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert second.stderr is not None
        assert "waiting for another build" in second.stderr.readline()
        machine.no_more("node-hangs")
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
        out, _ = second.communicate(timeout=60)
    finally:
        second.kill()
        second.communicate()
    assert out == f"{Recipe.find().tag}\n"
    assert machine.calls("build node") == ["build node"] * 2
    assert len(machine.calls("go ")) == len(PROGRAMS)


# Bad input: one sentence, before anything is compiled.


def refused(machine: ImageMachine, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The sentence of a call that is refused before anything is begun."""
    capsys.readouterr()
    assert aiinfra(["cluster", *(words or ("node-image",))]) == 3
    out, said = capsys.readouterr()
    assert out == ""
    assert len(said.strip().splitlines()) == 1
    assert machine.calls("go ") == machine.calls("build ") == []
    assert machine.cached() == set()
    return said


@pytest.mark.parametrize("command", ["node-image", "python-image"])
def test_who_is_not_root_is_told_so(machine, monkeypatch, capsys, command):
    monkeypatch.setattr(checks, "_is_root", lambda: False)
    said = refused(machine, capsys, command)
    assert "made by root only" in said
    assert f'sudo env "PATH=$PATH" aiinfra cluster {command}' in said


@pytest.mark.parametrize("command", ["node-image", "python-image"])
def test_a_docker_without_a_daemon_is_said(machine, capsys, command):
    machine.be("no-daemon")
    assert "Docker daemon" in refused(machine, capsys, command)


@pytest.mark.parametrize("command", ["node-image", "python-image"])
def test_a_system_without_debootstrap_is_said_with_the_command(
    machine, monkeypatch, capsys, command
):
    (machine.programs / "debootstrap").unlink()
    tools = machine.folder / "tools"
    tools.mkdir()
    for name in ("sh", "tr", "apt-get"):
        (tools / name).symlink_to(shutil.which(name) or "/bin/true")
    monkeypatch.setenv("PATH", f"{machine.programs}:{tools}")
    assert "apt-get install -y debootstrap" in refused(machine, capsys, command)


def test_a_machine_without_go_is_told_only_if_something_is_to_be_compiled(
    machine, monkeypatch, capsys
):
    monkeypatch.setattr(checks, "go_program", lambda: None)
    assert f"{len(PROGRAMS)} programs of the node image have to be compiled; needed Go" in refused(
        machine, capsys
    )
    assert make_python_image() in machine.images()


def test_go_is_not_needed_where_all_is_compiled(machine, monkeypatch):
    make_node_image()
    monkeypatch.setattr(checks, "go_program", lambda: None)
    assert make_node_image(again=True) in machine.images()


def test_another_system_than_linux_is_said(machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "on Linux only; found darwin" in refused(machine, capsys)


def test_a_disk_with_too_little_room_is_said_before_anything_is_begun(machine, monkeypatch, capsys):
    usage = shutil.disk_usage(machine.folder)._replace(free=9_900_000_000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage)
    # The cache, Docker's folder and Go's cache lie on one disk: their sum counts.
    assert "found 9.9 GB; needed 10.0 GB" in refused(machine, capsys)


def test_a_course_without_the_recipe_is_said(machine, capsys):
    (machine.course / "cluster/kind/node/go.mod").unlink()
    assert "kind/node/go.mod" in refused(machine, capsys)


# What goes wrong in the middle.


DEBOOTSTRAP = """I: Retrieving Release
E: Failed getting release file http://127.0.0.1:1/debian/dists/bookworm/Release
build.sh: debootstrap failed
"""
NO_DEBIAN = "Debian's packages cannot be fetched; found E: Failed getting release file"


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ({"system-says": DEBOOTSTRAP}, 3, NO_DEBIAN),
        ({"system-says": "cp: error writing 'x': No space left on device\nfailed"}, 3, "is full"),
        ({"node-says": "write /x: no space left on device"}, 3, "docker system df"),
        ({"go-says": "x.go:1: write /tmp/x: no space left on device"}, 3, "the disk is full"),
        ({"node-says": "error: Cannot connect to the Docker daemon at x"}, 3, "any more"),
        ({"images-says": "odd words\nthe reason"}, 1, "step images failed (exit 5): the reason"),
        ({"go-says": "go: x: dial tcp: lookup proxy: no such host"}, 3, "cannot fetch the sources"),
    ],
    ids=["debian", "disk", "docker disk", "go disk", "daemon", "other", "go"],
)  # fmt: skip
def test_a_failure_is_one_sentence_and_the_next_call_goes_on(machine, capsys, how, code, said):
    for name, text in how.items():
        machine.be(name, text)
    assert aiinfra(["cluster", "node-image"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("aiinfra: ")
    assert said in last
    assert "Traceback" not in err
    assert machine.images() == set()
    if "All it said" in last:
        log = Path(last.partition("All it said: ")[2])
        assert "odd words" in log.read_text()
    for name in how:
        machine.no_more(name)
    assert make_node_image() in machine.images()


def test_a_registry_that_never_answers_does_not_hold_a_build_up_for_hours(machine):
    script = machine.course / "cluster/kind/node/build.sh"
    text = script.read_text()
    script.write_text(text.replace("set -eu", 'set -eu\ncp "${WGETRC-/dev/null}" "$LAB/wgetrc"', 1))
    make_node_image(archive=False)
    assert "timeout = 30" in (machine.folder / "wgetrc").read_text()
    (machine.folder / ".wgetrc").touch()  # the user's own, in which a proxy may stand
    make_node_image(again=True, archive=False)
    assert (machine.folder / "wgetrc").read_text() == ""


def test_a_step_that_does_not_end_is_ended(machine, monkeypatch):
    machine.be("system-hangs")
    monkeypatch.setattr(steps, "_LIMIT_S", 1.0)
    with pytest.raises(ProcessError, match="step system of the node image did not end"):
        make_node_image()
    until(lambda: not running(machine))


# The places in which a cluster's image is looked for.


def engine() -> Engine:
    return Engine(shutil.which("docker") or "")


def test_a_cluster_takes_the_local_image_then_the_archive_then_the_pinned_one(machine, capsys):
    assert choose_image(engine(), None) == NODE_IMAGE
    tag = make_node_image()
    assert choose_image(engine(), None) == tag
    assert choose_image(engine(), "mine:1") == "mine:1"
    machine.remove_images()
    capsys.readouterr()
    assert choose_image(engine(), None) == tag
    assert "loading the node image from" in capsys.readouterr().err
    assert machine.images() == {tag}
    (machine.course / "cluster/kind/node/README").write_text("another key")
    assert choose_image(engine(), None) == NODE_IMAGE


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "another image"])
def test_a_damaged_archive_is_said_and_removed_and_the_next_place_is_taken(machine, capsys, damage):
    make_node_image()
    machine.remove_images()
    (path,) = (path for path in Recipe.find().archives if path.exists())
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        text = b"no tar" if damage == "other" else b"image aiinfra/node:older\n"
        packer = "zstd" if path.suffix == ".zst" else "gzip"
        data = bytearray(
            subprocess.run([packer], input=text, capture_output=True, check=True).stdout
        )
    path.write_bytes(data)
    capsys.readouterr()
    assert choose_image(engine(), None) == NODE_IMAGE
    assert "is damaged and is removed" in capsys.readouterr().err
    assert not path.exists()
    assert Recipe.find().tag not in machine.images()
    machine.forget_calls()
    assert make_node_image() in machine.images()
    assert machine.calls("build ") != []


def test_an_archive_that_docker_has_no_room_for_is_not_to_blame(machine, capsys):
    make_node_image()
    machine.remove_images()
    machine.be("full")
    capsys.readouterr()
    assert choose_image(engine(), None) == NODE_IMAGE
    assert "was not loaded: write /x: no space left" in capsys.readouterr().err
    assert any(path.exists() for path in Recipe.find().archives)


def test_a_course_without_the_recipe_looks_nowhere(machine):
    (machine.course / "cluster/kind/node/go.mod").unlink()
    assert choose_image(engine(), None) == NODE_IMAGE


# The image for Dockerfiles.


def test_the_python_image_from_nothing_and_again(machine, capsys):
    recipe = Recipe.find()
    for words, calls in [((), ["build python"]), ((), []), (("--again",), ["build python"])]:
        machine.forget_calls()
        capsys.readouterr()
        assert aiinfra(["cluster", "python-image", *words]) == 0
        assert capsys.readouterr().out == f"{recipe.python_tag}\n"
        assert machine.calls("build ") == calls
        assert machine.images() == {recipe.python_tag, "aiinfra/python:latest"}
        assert machine.calls("go ") == []
        assert machine.cached() == set()


def test_progress_is_a_share_of_the_estimated_seconds(machine, monkeypatch, capsys):
    monkeypatch.setenv("AIINFRA_PROGRESS", "plain")
    settings.cache_clear()
    make_node_image(archive=False)
    last = [line for line in capsys.readouterr().err.splitlines() if "node image, seconds" in line]
    assert last[-1].endswith("480/480 (100 %)")
