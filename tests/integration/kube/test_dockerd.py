"""``cluster/kind/dockerd.sh``: real daemons, each in network and mount namespaces of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from docker_machine import SCRIPT, Machine

pytestmark = pytest.mark.needs("dockerd", "netns")
LIMIT_S = 60.0  # no test is decided by it


@pytest.fixture
def machine() -> Iterator[Machine]:
    # The path of a socket has at most 107 letters: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
    machine = Machine(folder)
    yield machine
    machine.close()
    shutil.rmtree(folder)
    assert machine.left() == []


def kill(pid: int) -> None:
    """Kill it at once, and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    until_ended(pid)


def until_ended(pid: int) -> None:
    end = time.monotonic() + LIMIT_S
    while lives(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Starting and stopping.


def test_after_the_stop_the_machine_is_as_it_was(machine: Machine) -> None:
    machine.run("ip", "link", "add", "own", "type", "bridge")
    machine.run("iptables", "-A", "FORWARD", "-i", "own", "-j", "ACCEPT")
    machine.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "-j", "ACCEPT")
    before = machine.facts()
    pid = machine.start()
    assert machine.dockerd("status")[0] == 0
    assert f"runs already: pid {pid}" in machine.dockerd("start")[1]
    machine.docker("network", "create", "kind")
    machine.docker("network", "create", "other")
    machine.wait("dk", "--network", "other", "--publish", "127.0.0.1::80")
    during = machine.facts()
    assert all(during[name] != before[name] for name in ("rules", "links", "routes", "forwarding"))
    machine.docker("rm", "--force", "dk")
    assert machine.dockerd("stop") == (0, "the Docker daemon has stopped\n")
    assert not lives(pid)
    assert machine.facts() == before
    assert machine.left() == []
    # kind's network has gone, since kind makes it itself; the user's own is there again.
    machine.start()
    networks = machine.docker("network", "ls", "--format", "{{.Name}}").split()
    assert sorted(networks) == ["bridge", "host", "none", "other"]
    machine.dockerd("stop")
    assert machine.facts() == before


def test_two_starts_at_once_are_one(machine: Machine) -> None:
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: machine.dockerd("start"), range(2)))
    assert [code for code, _ in both] == [0, 0]
    assert sorted("runs already" in said for _, said in both) == [False, True]
    assert len({said.partition(": ")[2] for _, said in both}) == 1  # pid and log


def test_rules_that_are_not_docker_s_stay(machine: Machine) -> None:
    before = machine.facts()
    machine.start()
    own = [
        "*filter -A DOCKER-USER -s 10.1.0.0/16 -j DROP",
        "*filter -A FORWARD -s 10.2.0.0/16 -i docker0 -j DROP",
        '*filter -A INPUT -i docker0 -m comment --comment "of mine" -j DROP',
        "*nat -A POSTROUTING -s 10.3.0.0/16 -o docker0 -j MASQUERADE",
    ]
    for rule in own:
        machine.run("sh", "-c", f"iptables -t {rule[1:]}")
    code, said = machine.dockerd("stop")
    assert code == 0
    assert "kept the chain DOCKER-USER" in said
    way = ["*filter -A FORWARD -j DOCKER-USER", "*filter -A DOCKER-USER -j RETURN"]
    expected = [*own, *way, "*filter :DOCKER-USER -"]
    assert machine.facts() == before | {"rules": sorted(expected)}


def test_what_was_there_before_stays(machine: Machine) -> None:
    machine.run("ip", "link", "add", "docker0", "type", "bridge")
    machine.run("ip", "address", "add", "172.17.0.1/16", "dev", "docker0")
    machine.run("ip", "link", "set", "docker0", "up")
    machine.run("iptables", "-N", "DOCKER-USER")
    machine.run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
    machine.run("iptables", "-P", "FORWARD", "DROP")
    machine.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    before = machine.facts()
    machine.start()
    machine.docker("network", "create", "other")
    machine.dockerd("stop")
    after = machine.facts()
    after["rules"].remove("*filter -A DOCKER-USER -j RETURN")  # into a chain of others: it stays
    assert after == before


def test_a_second_daemon_keeps_its_rules(machine: Machine) -> None:
    machine.start("--", "--bridge=none")
    names = ("STATE", "ROOT", "SOCKET")
    places = [f"AIINFRA_DOCKER_{name}={machine.folder}/2/{name.lower()}" for name in names]
    code, said = machine.dockerd("start", through=("env", *places))
    assert code == 0, said
    during = machine.facts()["rules"]
    assert machine.dockerd("stop")[0] == 0
    assert machine.facts()["rules"] == during
    assert machine.dockerd("stop", through=("env", *places))[0] == 0


def test_privileged_containers_run_where_a_capability_is_missing(machine: Machine) -> None:
    bounded = ["setpriv", "--bounding-set", "-sys_resource", str(SCRIPT), "start"]
    assert machine.ask(*bounded).returncode == 0
    assert machine.docker("info", "--format", "{{.DefaultRuntime}}") == "bounded"
    machine.wait("dk", "--privileged", "--network", "none")
    inside = "exec", "--privileged", "dk", "cat", "/proc/self/status"
    for status in (machine.docker("exec", "dk", "cat", "/proc/1/status"), machine.docker(*inside)):
        words = status.split()
        held = int(words[words.index("CapEff:") + 1], 16)
        assert not held >> 24 & 1
        assert held >> 21 & 1  # CAP_SYS_ADMIN, which only --privileged gives


def test_the_usual_runtime_is_used_where_nothing_is_missing(machine: Machine) -> None:
    status = Path("/proc/self/status").read_text().split()
    missing = not int(status[status.index("CapBnd:") + 1], 16) >> 24 & 1
    machine.start()
    expected = "bounded" if missing else "runc"
    assert machine.docker("info", "--format", "{{.DefaultRuntime}}") == expected


def test_containers_that_run_are_named_and_only_force_ends_them(machine: Machine) -> None:
    daemon = machine.start()
    pid = machine.wait("dk-one")
    machine.wait("dk-two", "--network", "none")
    machine.docker("pause", "dk-two")
    code, said = machine.dockerd("stop")
    assert code == 1
    assert "containers still run: dk-two dk-one; end them first" in said
    assert lives(daemon)
    assert lives(pid)
    assert machine.dockerd("stop", "--force")[0] == 0
    assert not lives(pid)
    assert machine.left() == []


def test_cgroups_that_nobody_mounted_are_mounted_and_unmounted(machine: Machine) -> None:
    machine.run("umount", "--recursive", "/sys/fs/cgroup")
    before = machine.facts()
    machine.start()
    assert lives(machine.wait("dk", "--memory", "64m"))
    machine.dockerd("stop", "--force")
    assert machine.facts() == before


def test_a_group_of_version_2_gives_its_controllers_on(machine: Machine) -> None:
    top = machine.folder / "cgroup2"
    group = top / f"aiinfra-{machine.holder.pid}"  # as a container has one
    top.mkdir()
    machine.run("mount", "-t", "cgroup2", "cgroup", str(top))
    machine.run("mkdir", str(group))
    script = 'echo $$ >"$1/cgroup.procs"; . "$0"; delegate "$1"; cat /proc/self/cgroup'
    functions = str(SCRIPT.with_name("dockerd-machine.sh"))
    said = machine.run("bash", "-c", script, functions, str(group))
    assert any(line.endswith(f"/{group.name}/init") for line in said.splitlines())
    assert machine.run("cat", f"{group}/cgroup.procs") == ""
    given = machine.run("cat", f"{group}/cgroup.subtree_control")
    assert given == machine.run("cat", f"{group}/cgroup.controllers")
    machine.run("rmdir", f"{group}/init", str(group))
    machine.run("umount", str(top))


# A daemon that was killed.


def test_containers_of_a_killed_daemon_are_seen_and_removed_after_the_next_start(
    machine: Machine,
) -> None:
    before = machine.facts()
    daemon = machine.start()
    pid = machine.wait("dk", "--publish", "127.0.0.1::80")
    kill(daemon)
    assert lives(pid)
    assert machine.dockerd("status")[0] == 1
    machine.start()
    assert machine.docker("ps", "--all", "--format", "{{.Names}}") == "dk"
    machine.docker("rm", "--force", "dk")
    assert not lives(pid)
    # What the killed one left is not taken for the machine's own.
    assert machine.dockerd("stop")[0] == 0
    assert machine.facts() == before
    assert machine.left() == []


def test_a_killed_daemon_is_stopped_with_its_containers(machine: Machine) -> None:
    before = machine.facts()
    daemon = machine.start()
    pid = machine.wait("dk", "--publish", "127.0.0.1::80")
    paused = machine.wait("dk-paused", "--network", "none")
    machine.docker("pause", "dk-paused")
    kill(daemon)
    code, said = machine.dockerd("stop")
    assert code == 1
    names = said.partition("containers still run: ")[2].partition(";")[0]
    assert sorted(names.split()) == ["dk", "dk-paused"]
    assert lives(pid)
    assert machine.dockerd("stop", "--force") == (0, "the Docker daemon has stopped\n")
    until_ended(pid)
    until_ended(paused)
    assert machine.left() == []
    assert machine.facts() == before


def test_what_is_known_of_another_boot_is_not_restored(machine: Machine) -> None:
    kill(machine.start())
    (machine.state / "before/machine").write_text("another\n")
    before = machine.facts()
    assert machine.dockerd("stop")[0] == 0
    assert machine.left() == []
    after = machine.facts()
    assert [after[name] for name in ("rules", "links", "forwarding")] == [
        before[name] for name in ("rules", "links", "forwarding")
    ]


def test_pids_that_went_to_other_programs_are_not_believed(machine: Machine) -> None:
    kill(machine.start())
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            # Of a file that names the process itself, only its program says that it is another.
            since = Path(f"/proc/{stranger.pid}/stat").read_text().split()[21]
            (machine.state / "pid").write_text(f"{stranger.pid} {since}\n")
            (machine.state / "docker.pid").write_text(str(stranger.pid))
            (machine.state / "exec/containerd/containerd.pid").write_text(str(stranger.pid))
            machine.start()
            assert machine.docker("ps") != ""
            assert machine.dockerd("stop")[0] == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_the_containerd_of_a_killed_daemon_is_ended(machine: Machine) -> None:
    kill(machine.start())
    config = machine.state / "exec/containerd/containerd.toml"
    with subprocess.Popen(["containerd", "--config", str(config)], stderr=subprocess.PIPE) as left:
        assert left.stderr is not None
        for line in left.stderr:
            if b"successfully booted" in line:
                break
        machine.start()
        assert left.wait(LIMIT_S) is not None


# Daemons of others.


def test_a_daemon_of_somebody_else_is_used_and_never_ended(machine: Machine) -> None:
    places = ["--host", machine.environment["DOCKER_HOST"], "--data-root", f"{machine.folder}/root"]
    places += ["--exec-root", f"{machine.folder}/exec", "--pidfile", f"{machine.folder}/pid"]
    log = (machine.folder / "log").open("w")
    inside = ["nsenter", "--net", "--mount", "--target", str(machine.holder.pid), "dockerd"]
    with log, subprocess.Popen([*inside, *places], stdout=log, stderr=log) as other:
        end = time.monotonic() + LIMIT_S
        while machine.ask("docker", "version").returncode:
            assert time.monotonic() < end
            time.sleep(0.1)
        code, said = machine.dockerd("start")
        assert (code, "not started from here" in said) == (0, True)
        assert "not started from here" in machine.dockerd("status")[1]
        # A pid file that names it by chance, with the time of another process.
        machine.state.mkdir()
        (machine.state / "pid").write_text(f"{other.pid} 1\n")
        assert machine.dockerd("stop", "--force")[0] == 0
        assert machine.docker("ps") != ""
        shutil.rmtree(machine.state)
        other.terminate()


def test_a_daemon_is_stopped_where_it_runs(machine: Machine) -> None:
    daemon = machine.start()
    code, said = machine.dockerd("stop", "--force", through=("unshare", "--net"))
    assert code == 1
    assert f"the daemon with pid {daemon} has another network than this shell" in said
    assert lives(daemon)


# Bad input.


@pytest.mark.parametrize("words", [(), ("begin",), ("stop", "now"), ("start", "--bridge=none")])
def test_unknown_words_get_the_usage(machine: Machine, words: tuple[str, ...]) -> None:
    code, said = machine.dockerd(*words)
    assert code == 2
    assert "Usage: dockerd.sh start" in said
    assert said.splitlines()[-1].startswith("dockerd.sh: ")
    assert machine.left() == []


def test_help_is_no_error(machine: Machine) -> None:
    for words in (("--help",), ("start", "--help")):
        code, said = machine.dockerd(*words)
        assert (code, "Usage: dockerd.sh start" in said) == (0, True)


def test_only_root_can(machine: Machine) -> None:
    script = machine.folder / "open.sh"
    machine.folder.chmod(0o755)
    for file in SCRIPT.parent.glob("dockerd*.sh"):
        shutil.copy(file, machine.folder)
    shutil.copy(SCRIPT, script)
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    done = machine.ask(*nobody, str(script), "start")
    assert done.returncode == 3
    assert done.stderr.startswith("dockerd.sh: only root can start a Docker daemon: sudo ")
    assert machine.ask(*nobody, str(script), "status").returncode == 1


def test_a_machine_without_docker_is_told_the_command(machine: Machine) -> None:
    programs = machine.folder / "bin"
    programs.mkdir()
    copied = SCRIPT.read_text().replace("$PATH:/usr/sbin:/sbin", str(programs))
    (machine.folder / "dockerd.sh").write_text(copied)
    shutil.copy(SCRIPT.with_name("dockerd-machine.sh"), machine.folder)
    for name in ("id", "dirname", "readlink"):
        (programs / name).symlink_to(shutil.which(name) or name)
    done = machine.ask("/bin/bash", f"{machine.folder}/dockerd.sh", "start")
    assert done.returncode == 3
    words = "dockerd is not installed: apt-get install docker.io iptables iproute2"
    assert done.stderr == f"dockerd.sh: {words}\n"


def test_a_daemon_that_does_not_come_up_says_why_and_leaves_nothing(machine: Machine) -> None:
    before = machine.facts()
    code, said = machine.dockerd("start", "--", "--storage-driver=none-such")
    assert code == 1
    assert said.startswith("dockerd.sh: dockerd does not come up: failed to start daemon: ")
    assert "driver not supported" in said
    assert said.count("\n") == 1
    assert machine.facts() == before
    assert machine.left() == []


def test_containers_outlive_a_start_that_fails(machine: Machine) -> None:
    daemon = machine.start()
    pid = machine.wait("dk")
    kill(daemon)
    assert machine.dockerd("start", "--", "--no-such-option")[0] == 1
    assert lives(pid)
    machine.start()
    assert machine.docker("ps", "--all", "--format", "{{.Names}}") == "dk"
