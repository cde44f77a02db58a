"""The node image without making one: its key, its programs, and what its failures mean."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiinfra_lab.errors import MissingNeed, ProcessError
from aiinfra_lab.kube.kind.node_image import checks, leftovers, recipe, steps
from aiinfra_lab.kube.kind.node_image.making import STEPS
from aiinfra_lab.kube.kind.node_image.programs import PROGRAMS, wanted_programs
from aiinfra_lab.kube.kind.node_image.recipe import PLACE, Recipe
from aiinfra_lab.kube.manifest import Manifest
from aiinfra_lab.kube.pins import read_pins
from aiinfra_lab.settings import settings


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("AIINFRA_COURSE", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def cluster(root: Path, tmp_path: Path) -> Path:
    """A copy of the folder ``cluster``, to be changed."""
    return Path(shutil.copytree(root / "cluster", tmp_path / "a copy" / "cluster"))


def read(cluster: Path) -> Recipe:
    manifest = Manifest.read(cluster / "control-plane")
    return Recipe.read(manifest, cluster / PLACE / "build.sh")


# The key.


def test_the_key_of_a_copy_is_that_of_the_checkout(cluster):
    found = Recipe.find()
    assert read(cluster).key == found.key
    assert read(cluster).python_key == found.python_key
    assert found.tag == f"aiinfra/node:{read_pins()['kubectl'].version}-{found.key}"
    assert len(found.key) == 12


def test_the_key_of_a_wheel_is_that_of_the_checkout(root, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():  # as installers unpack it: of the modes only the one bit
            path = Path(archive.extract(item, tmp_path))
            path.chmod(0o755 if (item.external_attr >> 16) & 0o111 else 0o644)
    (shared,) = tmp_path.glob("*.data/data/share/aiinfra")
    assert read(shared).key == Recipe.find().key


def test_neither_a_place_nor_a_users_modes_nor_a_cache_change_the_key(cluster):
    key = read(cluster).key
    node = cluster / PLACE
    for path in node.rglob("*"):
        programs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o700 if programs else 0o600)
        os.utime(path, (1, 1))
    (node / "__pycache__").mkdir()
    (node / "__pycache__" / "x.pyc").write_bytes(b"x")
    (node / "empty").mkdir()
    (cluster / "kind" / "cluster.yaml").write_text("not of the image")
    assert read(cluster).key == key


def _append(name: str) -> Callable[[Path], object]:
    def change(cluster: Path) -> None:
        with (cluster / name).open("a") as file:
            file.write("\n")

    return change


def _move(cluster: Path) -> None:
    node = cluster / PLACE
    (node / "coredns").rename(node / "coredms")


def _shift(cluster: Path) -> None:
    """Let the end of one file become the beginning of the next."""
    first, second = cluster / "control-plane/go.mod", cluster / "control-plane/go.sum"
    text = first.read_bytes()
    first.write_bytes(text[:-1])
    second.write_bytes(text[-1:] + second.read_bytes())


CHANGES = {
    "kubernetes": _append("control-plane/go.mod"),
    "kubernetes sums": _append("control-plane/go.sum"),
    "node": _append(f"{PLACE}/go.mod"),
    "node sums": _append(f"{PLACE}/go.sum"),
    "script": _append(f"{PLACE}/build.sh"),
    "a source": _append(f"{PLACE}/pause/main.go"),
    "a hidden file": lambda cluster: (cluster / PLACE / "files/etc/.x").write_text(""),
    "a new file": lambda cluster: (cluster / PLACE / "files/etc/x").write_text(""),
    "a file less": lambda cluster: (cluster / PLACE / "files/etc/crictl.yaml").unlink(),
    "another name": _move,
    "a program": lambda cluster: (cluster / PLACE / "files/etc/crictl.yaml").chmod(0o755),
    "shifted": _shift,
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_goes_into_the_image_changes_the_key(cluster, change):
    before = read(cluster)
    CHANGES[change](cluster)
    after = read(cluster)
    assert after.key != before.key
    assert (after.python_key != before.python_key) == (change == "script")


def test_an_image_is_for_one_machine_and_one_kubernetes(cluster, monkeypatch):
    before = read(cluster)
    monkeypatch.setattr(recipe, "this_machine", lambda: "other")
    after = read(cluster)
    assert after.key != before.key
    assert after.python_key != before.python_key


def test_nothing_of_the_recipe_is_a_link(root):
    # A wheel has no links: the key would be another one there.
    assert [path for path in (root / "cluster").rglob("*") if path.is_symlink()] == []


def test_a_manifest_without_a_kubelet_is_one_sentence(cluster):
    path = cluster / "control-plane/go.mod"
    path.write_text(path.read_text().replace("\tk8s.io/kubernetes/cmd/kubelet\n", ""))
    with pytest.raises(MissingNeed, match="needed kubelet in"):
        read(cluster)


# The programs.


def test_every_program_has_a_package_and_a_version():
    found = {wanted.name: wanted for wanted in wanted_programs(Recipe.find())}
    assert list(found) == list(PROGRAMS)
    kubernetes = read_pins()["kubectl"].version
    for name, wanted in found.items():
        own = wanted.tool.package == f"./{name}"
        assert own == (wanted.tool.version == ""), name
        assert own == (name in {"coredns", "pause"}), name
        if wanted.tool.package.startswith("k8s.io/kubernetes/"):
            assert wanted.tool.version == kubernetes
    # Nothing is compiled for nothing.
    assert set(Recipe.find().node.tools) <= set(PROGRAMS)


def test_a_package_beside_a_manifest_is_a_program_of_its_own(cluster):
    folder = cluster / PLACE
    tools = Manifest.read(folder).tools
    assert tools["coredns"].package == "./coredns"
    (folder / "extra").mkdir()
    assert set(Manifest.read(folder).tools) == set(tools)
    (folder / "extra" / "main.go").touch()
    assert set(Manifest.read(folder).tools) == {*tools, "extra"}


def test_a_program_that_no_manifest_has_is_one_sentence(cluster):
    shutil.rmtree(cluster / PLACE / "pause")
    with pytest.raises(MissingNeed, match="no manifest has pause"):
        wanted_programs(read(cluster))


def test_a_change_of_one_own_source_is_that_programs_alone(cluster):
    before = {wanted.name: wanted.sources for wanted in wanted_programs(read(cluster))}
    _append(f"{PLACE}/pause/main.go")(cluster)
    after = {wanted.name: wanted.sources for wanted in wanted_programs(read(cluster))}
    assert [name for name in PROGRAMS if before[name] != after[name]] == ["pause"]


# Room on the disks.


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], None]:
    def free(size: float) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=int(size * 1e9))
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage)

    return free


@pytest.mark.parametrize(("free", "enough"), [(3.1, True), (3.0, True), (2.9, False)])
def test_folders_of_one_disk_need_their_sum(disks, tmp_path, free, enough):
    disks(free)
    wanted = {tmp_path / "not" / "yet": 1.0, tmp_path: 2.0}
    if enough:
        checks.check_disk(wanted)
    else:
        with pytest.raises(MissingNeed, match=r"found 2\.9 GB; needed 3\.0 GB"):
            checks.check_disk(wanted)


# What the script's output means.


def explained(tmp_path: Path, text: str) -> Exception:
    log = tmp_path / "x.log"
    log.write_text(text)
    return steps.explained("it", "system", 7, log)


@pytest.mark.parametrize(
    "line",
    [
        "E: Failed getting release file http://deb.example/dists/bookworm/Release",
        "E: Couldn't download packages: adduser apt",
        "W: Couldn't download package libc6 (ver 1 arch amd64 at http://x/pool/l.deb)",
        "E: Invalid Release file, no entry for main/binary-amd64/Packages",
        "wget: unable to resolve host address 'deb.example'",
    ],
)
def test_a_debian_that_does_not_answer_is_told_from_a_failure(tmp_path, line):
    error = explained(tmp_path, f"I: Retrieving\n{line}\n\n")
    assert isinstance(error, MissingNeed)
    assert line in str(error)
    assert "DEBIAN_MIRROR" in str(error)


def test_a_full_disk_is_what_stopped_a_download(tmp_path):
    text = "dpkg: error: No space left on device\nE: Couldn't download packages: apt\n"
    assert "the disk is full (dpkg: error" in str(explained(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\nthe reason\n\n", "the reason"), ("", "it said nothing"), ("\x1b[1mbold\x1b[0m", "bold")],
)
def test_another_failure_is_its_last_line_and_the_place_of_the_log(tmp_path, text, said):
    error = explained(tmp_path, text)
    assert isinstance(error, ProcessError)
    assert f"its step system failed (exit 7): {said}" in str(error)
    assert str(tmp_path / "x.log") in str(error)
    assert "\n" not in str(error)


def test_paths_of_mounts_are_read_as_the_kernel_writes_them():
    assert leftovers._unescaped(r"/a\040b\134c\011d") == "/a b\\c\td"


def test_every_step_is_one_of_the_scripts(root):
    text = (root / "cluster" / PLACE / "build.sh").read_text()
    for step in (*STEPS, "python"):
        assert f"\n{step}() {{" in text, step
