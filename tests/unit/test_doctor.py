"""The doctor tells what is here within his patience, in a table that everybody can read."""

import json
import re
import threading
import time
from dataclasses import dataclass
from html.parser import HTMLParser

import psutil
import pytest

from aiinfra_lab import needs
from aiinfra_lab.course import doctor, machine
from aiinfra_lab.errors import InputError
from aiinfra_lab.settings import settings

GIB = 2**30


@dataclass
class Chapter:
    id: str
    title: str
    needs: list[str]


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    needs.find.cache_clear()
    yield
    settings.cache_clear()
    needs.find.cache_clear()


@pytest.fixture
def table(monkeypatch):
    """Five needs; ``hung`` answers only when the test sets the event that is returned."""
    released = threading.Event()

    def absent(detail):
        def probe():
            raise needs.probes.Absent(detail)

        return probe

    def hung():
        released.wait(60)
        return "late"

    entries = [
        needs.Need("lamp", "a lamp", lambda: "lamp 1", lambda: "buy lamp"),
        needs.Need("oven", "an oven", absent("<cold> & dark"), lambda: "buy oven"),
        needs.Need("hung", "a hung daemon", hung, lambda: "kick it"),
        needs.Need("torch", "torch", lambda: "torch 9", lambda: "make env", package=True),
        needs.Need("ray", "ray", absent("not installed"), lambda: "make env", package=True),
    ]
    monkeypatch.setattr(needs, "NEEDS", {entry.name: entry for entry in entries})
    yield released
    released.set()
    # A late answer must not arrive in the next test.
    for thread in threading.enumerate():
        if thread.name.startswith("doctor"):
            thread.join(10)


@pytest.fixture
def all_but_one(monkeypatch):
    """A patience that ends when only one probe is left, however slow this machine is."""

    def wait(futures, timeout):
        while sum(not future.done() for future in futures) > 1:
            time.sleep(0.001)

    monkeypatch.setattr(doctor, "wait_for", wait)


CHAPTERS = [
    Chapter("00", "Start here", []),
    Chapter("03", "Breaker", ["lamp"]),
    Chapter("06", "Training <fast>", ["oven", "lamp", "ray"]),
    Chapter("07", "Operator", ["hung"]),
]


def test_a_probe_that_hangs_is_not_waited_for(table):
    report = doctor.examine(CHAPTERS, patience_s=0.1)
    assert not table.is_set()  # it came back while the probe was still waiting
    assert next(need for need in report.needs if need.name == "hung").status == "unknown"


def test_a_probe_that_hangs_holds_up_no_other(table, all_but_one):
    report = doctor.examine(CHAPTERS)
    assert {need.name: need.status for need in report.needs} == {
        "lamp": "ok",
        "oven": "missing",
        "hung": "unknown",
        "torch": "ok",
        "ray": "missing",
    }


def test_each_chapter_runs_or_says_what_gets_it(table, all_but_one):
    report = doctor.examine(CHAPTERS)
    assert [(c.id, c.status, c.lacking, c.fix) for c in report.chapters] == [
        ("00", "ok", (), ""),
        ("03", "ok", (), ""),
        ("06", "missing", ("oven", "ray"), "buy oven; make env"),
        ("07", "unknown", ("hung",), ""),
    ]


def test_a_chapter_with_a_misspelt_need_is_refused(table):
    with pytest.raises(InputError, match="Did you mean oven"):
        doctor.examine([Chapter("09", "Edge", ["ovne"])])


def test_the_report_is_json_and_comes_back(table, all_but_one):
    report = doctor.examine(CHAPTERS)
    text = json.dumps(report.model_dump(mode="json"))
    assert doctor.Report.model_validate_json(text) == report


def test_the_rows_have_every_fact_once(table, all_but_one):
    rows = doctor.examine(CHAPTERS).rows()
    found = [(row.section, row.name, row.status) for row in rows]
    assert [row[1] for row in found[:5]] == ["system", "Python", "cores", "memory", "disk"]
    assert found[5:] == [
        ("tools", "lamp", "ok"),
        ("tools", "oven", "missing"),
        ("tools", "hung", "unknown"),
        ("tools", "packages", "missing"),
        ("chapters", "00 Start here", "ok"),
        ("chapters", "03 Breaker", "ok"),
        ("chapters", "06 Training <fast>", "missing"),
        ("chapters", "07 Operator", "unknown"),
    ]
    packages = rows[8]
    assert packages.detail == "1 of 2 installed; not ray"
    assert packages.fix == "make env"


class Reader(HTMLParser):
    """The cells of a table's rows, and every tag that was opened and not closed."""

    def __init__(self):
        super().__init__()
        self.rows, self.open, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_table_of_the_notebook_has_the_rows_in_words(table, all_but_one):
    report = doctor.examine(CHAPTERS)
    reader = Reader()
    reader.feed(report._repr_html_())
    assert reader.open == []
    body = reader.rows[1:]
    assert [[c.split()[-1] if i == 1 else c for i, c in enumerate(row)] for row in body] == [
        [row.name, row.status, row.detail, row.fix] for row in report.rows()
    ]
    scopes = [value for tag, name, value in reader.attributes if (tag, name) == ("th", "scope")]
    assert scopes.count("row") == len(body)
    assert scopes.count("col") == 4
    assert not any("background" in value for _, name, value in reader.attributes if name == "style")


def test_a_terminal_gets_the_same_as_text(table, all_but_one):
    report = doctor.examine(CHAPTERS)
    bundle = report._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"text/plain": str(report), "text/html": report._repr_html_()}
    lines = str(report).splitlines()
    for line, row in zip(lines, report.rows(), strict=True):
        assert line.split()[0] == row.name.split()[0]
        assert row.status in line
        assert row.fix in line


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# JupyterLab's light and dark cells, and their alternate rows.
@pytest.mark.parametrize("background", ["#ffffff", "#f5f5f5", "#111111", "#212121"])
def test_the_marks_are_seen_in_either_theme(background):
    # WCAG 2.1, 1.4.11: graphical objects need 3 to 1.
    for mark, colour in doctor._MARKS.values():
        light, dark = sorted(map(luminance, (colour, background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, (mark, colour)
    assert len({mark for mark, _ in doctor._MARKS.values()}) == len(doctor._MARKS)


def test_this_machine_can_be_examined(tmp_path):
    report = doctor.examine()
    assert {need.name for need in report.needs} == set(needs.NEEDS)
    assert report.chapters == ()
    assert re.match(r"3\.1[12]\.", report.python)
    values = {resource.name: resource.value for resource in report.resources}
    assert 0 < values["cores"] <= psutil.cpu_count()
    assert 0 < values["memory"] <= psutil.virtual_memory().total
    assert values["disk"] > 0


def test_what_is_scarce_is_low_and_says_so(monkeypatch, table, all_but_one):
    monkeypatch.setattr(machine, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(4 * GIB, GIB, True))
    monkeypatch.setattr(doctor, "ENOUGH_DISK", 2**80)
    rows = {row.name: row for row in doctor.examine().rows()}
    assert [rows[name].status for name in ("cores", "memory", "disk")] == ["low"] * 3
    assert rows["cores"].detail.startswith("1.5 usable: ")
    assert rows["memory"].detail == "1.0 GiB of 4.0 GiB available (limit of this container)"
    assert "AIINFRA_HOME" in rows["disk"].fix
    monkeypatch.setattr(machine, "usable_cores", lambda: 2.0)
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(4 * GIB, 4 * GIB, False))
    monkeypatch.setattr(doctor, "ENOUGH_DISK", 1)
    rows = {row.name: row for row in doctor.examine().rows()}
    assert [rows[name].status for name in ("cores", "memory", "disk")] == ["ok"] * 3


# The limits of a container, read from trees of files as the two versions of cgroups have them.


@pytest.fixture
def host(monkeypatch):
    """A host of 64 cores and 256 GiB, of which 200 are free."""
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    memory = type("Memory", (), {"total": 256 * GIB, "available": 200 * GIB})
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: memory)


def tree(root, cgroup, **contents):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, text in contents.items():
        target = root / "sys/fs/cgroup" / path.replace("__", "/").replace("DOT", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n")
    return root


def test_without_limits_the_machine_counts(host, tmp_path):
    assert machine.usable_cores(tmp_path) == 64
    assert machine.memory(tmp_path) == machine.Memory(256 * GIB, 200 * GIB, False)


def test_version_2_limits(host, tmp_path):
    root = tree(
        tmp_path,
        "0::/\n",
        cpuDOTmax="150000 100000",
        memoryDOTmax=4 * GIB,
        memoryDOTcurrent=3 * GIB,
        memoryDOTstat=f"anon 5\ninactive_file {GIB}",
    )
    assert machine.usable_cores(root) == 1.5
    assert machine.memory(root) == machine.Memory(4 * GIB, 2 * GIB, True)


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
    assert machine.usable_cores(root) == 2
    assert machine.memory(root) == machine.Memory(8 * GIB, 7 * GIB, True)


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
    assert machine.usable_cores(root) == 3
    assert machine.memory(root) == machine.Memory(2 * GIB, 3 * GIB // 2, True)


def test_version_1_in_a_container_that_sees_only_its_own_group(host, tmp_path):
    # The path is the host's; inside, the group is mounted as the root.
    root = tree(
        tmp_path,
        "4:memory:/docker/abc\n",
        memory__memoryDOTlimit_in_bytes=2 * GIB,
        memory__memoryDOTusage_in_bytes=GIB,
    )
    assert machine.memory(root) == machine.Memory(2 * GIB, GIB, True)


def test_version_1_without_limits(host, tmp_path):
    root = tree(
        tmp_path,
        "4:memory:/\n3:cpu:/\n",
        cpu__cpuDOTcfs_quota_us="-1",
        cpu__cpuDOTcfs_period_us="100000",
        memory__memoryDOTlimit_in_bytes="9223372036854771712",
        memory__memoryDOTusage_in_bytes=GIB,
    )
    assert machine.usable_cores(root) == 64
    assert machine.memory(root) == machine.Memory(256 * GIB, 200 * GIB, False)
