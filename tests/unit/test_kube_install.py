"""Getting the programs: the order of the places, whole files only, and turns that are taken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiinfra_lab import needs
from aiinfra_lab.errors import InputError, MissingNeed, ProcessError
from aiinfra_lab.kube import build as building
from aiinfra_lab.kube import installation as module
from aiinfra_lab.kube.download import DownloadError
from aiinfra_lab.kube.installation import ALL_PROGRAMS, install
from aiinfra_lab.kube.manifest import PLACE, Manifest
from aiinfra_lab.kube.pins import read_pins
from aiinfra_lab.kube.programs import find_programs, programs_folder, read_stamps, wanted_version
from aiinfra_lab.settings import settings

Tool = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No programs, no variables, no Go, an empty cache."""
    for name in list(os.environ):
        if name.startswith(("TEST_ASSET_", "KUBEBUILDER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AIINFRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIINFRA_COURSE", raising=False)
    monkeypatch.setattr(building, "go_program", lambda: None)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    settings.cache_clear()
    needs.find.cache_clear()
    yield
    settings.cache_clear()
    needs.find.cache_clear()


@pytest.fixture
def script(tmp_path: Path) -> Tool:
    def make(place: str, body: str = "") -> Path:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def go(script: Tool, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A Go that notes how it was called and then does what the test says."""

    def make(body: str) -> Path:
        path = script("go/go", f'printf "%s\\n" "$@" >> "$0.calls"; pwd >> "$0.calls"\n{body}')
        monkeypatch.setattr(building, "go_program", lambda: path)
        return path

    return make


# So that the last word but one, which `-o` names, becomes a program.
MAKES = 'while [ "$1" != -o ]; do shift; done; printf "#!/bin/sh\\n" > "$2"'


def test_the_manifest_has_every_program_at_the_pinned_version():
    manifest = Manifest.find()
    assert manifest.folder.as_posix().endswith(str(PLACE))
    pins = read_pins()
    assert set(pins) == set(ALL_PROGRAMS)
    only_built = {"kubeadm", "kubelet", "kube-proxy"}  # for the node image of kind
    assert set(manifest.tools) == {*ALL_PROGRAMS, *only_built}
    for name, pin in pins.items():
        assert manifest.tools[name].version == pin.version, name
    for name in only_built:
        assert manifest.tools[name].version == pins["kubectl"].version, name


def test_every_part_of_kubernetes_is_replaced_by_one_release():
    text = (Manifest.find().folder / "go.mod").read_text()
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", text, re.M)
    wanted = Manifest.find().tools["kubectl"].version.replace("v1.", "v0.", 1)
    assert len(replaced) == 33
    assert all(old == new and version == wanted for old, new, version in replaced)


def test_what_the_users_variables_name_is_taken_as_it_is(script, monkeypatch, tmp_path):
    own = script("own/my-etcd")
    script("assets/kubectl")
    monkeypatch.setenv("TEST_ASSET_ETCD", str(own))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    found = install(["etcd", "kubectl"])
    assert [(item.name, item.origin) for item in found] == [
        ("etcd", "environment"),
        ("kubectl", "environment"),
    ]
    assert not programs_folder().exists()


def test_a_build_stamps_the_version_in_and_leaves_a_whole_program(go):
    path = go(MAKES)
    (found,) = install(["kubectl"], source="build")
    version = wanted_version("kubectl")
    assert (found.origin, found.version) == ("build", version)
    calls = Path(f"{path}.calls").read_text()
    assert f"gitVersion={version}" in calls
    assert "-mod=readonly" in calls
    assert str(Manifest.find().folder) in calls
    assert sorted(p.name for p in programs_folder().iterdir()) == ["kubectl", "stamps.json"]
    again = install(["kubectl"])  # from the cache: no second call
    assert again[0].origin == "cache"
    assert Path(f"{path}.calls").read_text() == calls


def test_another_version_in_the_cache_is_replaced(go):
    go(MAKES)
    install(["kubectl"], source="build")
    stamps = programs_folder() / "stamps.json"
    stamps.write_text(stamps.read_text().replace(wanted_version("kubectl"), "v1.2.3"))
    assert install(["kubectl"], source="build")[0].origin == "build"
    assert read_stamps(programs_folder())["kubectl"].version == wanted_version("kubectl")


def test_a_program_that_was_cut_off_does_not_count(go):
    go(MAKES)
    (found,) = install(["kubectl"], source="build")
    found.path.write_bytes(found.path.read_bytes()[:-3])
    found.path.chmod(0o755)
    with pytest.raises(MissingNeed, match=r"not whole.*aiinfra cluster install"):
        find_programs(["kubectl"])
    assert install(["kubectl"], source="build")[0].origin == "build"
    assert find_programs(["kubectl"]) == {"kubectl": found.path}


def test_a_program_without_a_stamp_does_not_count(script):
    script("cache/kube/bin/etcd")
    with pytest.raises(MissingNeed, match=r"not whole"):
        find_programs(["etcd"])


def test_what_stands_on_path_is_found_but_does_not_keep_ours_away(script, go):
    script("path/kubectl")
    assert find_programs(["kubectl"])["kubectl"].parent.name == "path"
    go(MAKES)
    assert install(["kubectl"], source="build")[0].origin == "build"


def test_neither_go_nor_a_download_is_one_sentence():
    with pytest.raises(MissingNeed) as caught:
        install(["etcd"])
    sentence = str(caught.value)
    assert caught.value.exit_code == 3
    assert "no digest of etcd" in sentence
    assert "needed Go" in sentence
    assert "\n" not in sentence


def test_a_go_without_a_network_is_one_sentence(go):
    go("echo 'go: x: dial tcp: lookup proxy: no such host' >&2; exit 1")
    with pytest.raises(MissingNeed, match="cannot fetch the sources of etcd") as caught:
        install(["etcd"], source="build")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_an_old_go_is_one_sentence(go):
    go("echo 'go: go.mod requires go >= 1.26.0 (running go 1.22.1; GOTOOLCHAIN=local)'; exit 1")
    with pytest.raises(MissingNeed, match=r"found Go 1\.22\.1; needed Go 1\.26\.0"):
        building.build(Manifest.find().tools["etcd"], Manifest.find(), programs_folder() / "etcd")


def test_a_go_that_waits_for_an_answer_is_ended(go, monkeypatch):
    monkeypatch.setattr(building, "_SILENT_S", 0.5)
    go("sleep 300")
    with pytest.raises(MissingNeed, match="waits for an answer while it builds etcd") as caught:
        install(["etcd"], source="build")
    assert "\n" not in str(caught.value)
    assert list(programs_folder().iterdir()) == []


def test_a_build_that_fails_shows_its_last_lines_and_leaves_nothing(go):
    go("echo 'x.go:1: broken'; exit 2")
    with pytest.raises(ProcessError, match=r"x.go:1: broken"):
        install(["etcd"], source="build")
    assert list(programs_folder().iterdir()) == []


def test_a_wrong_file_is_never_covered_by_a_build(go, monkeypatch):
    path = go(MAKES)

    def refused(name: str, target: Path) -> str:
        raise DownloadError("not the pinned file")

    monkeypatch.setattr(module, "_downloaded", refused)
    with pytest.raises(DownloadError):
        install(["etcd"])
    assert not Path(f"{path}.calls").exists()


def test_an_unknown_program_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match=r"no program 'kubelet'.*kube-apiserver"):
        install(["kubelet"])
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot be written.*AIINFRA_CACHE") as caught:
        install(["etcd"])
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_one_sentence(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o555)
    with pytest.raises(InputError, match=r"cannot be written.*AIINFRA_CACHE"):
        install(["etcd"])


def test_who_comes_second_waits_and_finds_the_firsts(go):
    path = go(f"sleep 0.5\n{MAKES}")
    origins = []

    def one() -> None:
        origins.append(install(["etcd"], source="build")[0].origin)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(origins) == ["build", "cache", "cache"]
    assert Path(f"{path}.calls").read_text().count("build\n") == 1


def test_an_installation_that_is_killed_leaves_no_program_and_no_lock(go, tmp_path):
    go(MAKES)
    code = (
        "import os, sys\n"
        "from aiinfra_lab.kube import installation as module\n"
        "def dies(name, target):\n"
        "    target.with_name('.x.part').write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
        "module._built = dies\n"
        "module.install(['etcd'], source='build')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert done.returncode == -9
    assert needs.kube_program("etcd") is None
    assert install(["etcd"], source="build")[0].origin == "build"


def test_the_command_prints_one_document(go, capsys):
    from aiinfra_lab.cli.main import run

    go(MAKES)
    assert run(["cluster", "install", "etcd", "--from", "build", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["program"], row["from"]) == ("etcd", "build")
    assert run(["cluster", "install", "kubelet"]) == 2
    assert run(["cluster", "install", "kubectl", "--from", "download"]) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) <= 4


def test_up_without_programs_go_and_network_is_one_sentence(tmp_path, monkeypatch, capsys):
    from aiinfra_lab.cli.main import run

    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    assert run(["cluster", "up", "--name", "t"]) == 3
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if "needed Go" in line]) == 1
    assert not (tmp_path / "home").exists()
