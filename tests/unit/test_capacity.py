"""The limits of a container, read from trees of files as the two versions of cgroups have them."""

import pytest

from aiinfra_lab.measure import capacity

GIB = 2**30


@pytest.fixture
def host(monkeypatch):
    """A host of 64 cores and 256 GiB, of which 200 are free."""
    monkeypatch.setattr(capacity.sys, "platform", "linux")
    monkeypatch.setattr(capacity.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    memory = type("Memory", (), {"total": 256 * GIB, "available": 200 * GIB})
    monkeypatch.setattr(capacity.psutil, "virtual_memory", lambda: memory)


def tree(root, cgroup, **contents):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, text in contents.items():
        target = root / "sys/fs/cgroup" / path.replace("__", "/").replace("DOT", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n")
    return root


def test_without_limits_the_machine_counts(host, tmp_path):
    assert capacity.usable_cores(tmp_path) == 64
    assert capacity.memory(tmp_path) == capacity.Memory(256 * GIB, 200 * GIB, False)


def test_version_2_limits(host, tmp_path):
    root = tree(
        tmp_path,
        "0::/\n",
        cpuDOTmax="150000 100000",
        memoryDOTmax=4 * GIB,
        memoryDOTcurrent=3 * GIB,
        memoryDOTstat=f"anon 5\ninactive_file {GIB}",
    )
    assert capacity.usable_cores(root) == 1.5
    assert capacity.memory(root) == capacity.Memory(4 * GIB, 2 * GIB, True)


def test_version_2_the_tightest_of_the_nested_groups_counts(host, tmp_path):
    root = tree(
        tmp_path,
        "0::/user/lab\n",
        user__lab__cpuDOTmax="max 100000",
        user__cpuDOTmax="200000 100000",
        user__lab__memoryDOTmax="max",
        user__memoryDOTmax=8 * GIB,
        user__memoryDOTcurrent=GIB,
    )
    assert capacity.usable_cores(root) == 2
    assert capacity.memory(root) == capacity.Memory(8 * GIB, 7 * GIB, True)


def test_version_1_limits(host, tmp_path):
    root = tree(
        tmp_path,
        "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
        **{"cpu,cpuacct__docker__abc__cpuDOTcfs_quota_us": "300000"},
        **{"cpu,cpuacct__docker__abc__cpuDOTcfs_period_us": "100000"},
        memory__docker__abc__memoryDOTlimit_in_bytes=2 * GIB,
        memory__docker__abc__memoryDOTusage_in_bytes=GIB,
        memory__docker__abc__memoryDOTstat=f"inactive_file 0\ntotal_inactive_file {GIB // 2}",
    )
    assert capacity.usable_cores(root) == 3
    assert capacity.memory(root) == capacity.Memory(2 * GIB, 3 * GIB // 2, True)


def test_version_1_in_a_container_that_sees_only_its_own_group(host, tmp_path):
    # The path is the host's; inside, the group is mounted as the root.
    root = tree(
        tmp_path,
        "4:memory:/docker/abc\n",
        memory__memoryDOTlimit_in_bytes=2 * GIB,
        memory__memoryDOTusage_in_bytes=GIB,
    )
    assert capacity.memory(root) == capacity.Memory(2 * GIB, GIB, True)


def test_version_1_without_limits(host, tmp_path):
    root = tree(
        tmp_path,
        "4:memory:/\n3:cpu:/\n",
        cpu__cpuDOTcfs_quota_us="-1",
        cpu__cpuDOTcfs_period_us="100000",
        memory__memoryDOTlimit_in_bytes="9223372036854771712",
        memory__memoryDOTusage_in_bytes=GIB,
    )
    assert capacity.usable_cores(root) == 64
    assert capacity.memory(root) == capacity.Memory(256 * GIB, 200 * GIB, False)
