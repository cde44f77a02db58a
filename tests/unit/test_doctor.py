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
from aiinfra_lab.course import doctor
from aiinfra_lab.errors import InputError
from aiinfra_lab.measure import capacity
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
    monkeypatch.setattr(capacity, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(capacity, "memory", lambda: capacity.Memory(4 * GIB, GIB, True))
    monkeypatch.setattr(doctor, "ENOUGH_DISK", 2**80)
    rows = {row.name: row for row in doctor.examine().rows()}
    assert [rows[name].status for name in ("cores", "memory", "disk")] == ["low"] * 3
    assert rows["cores"].detail.startswith("1.5 usable: ")
    assert rows["memory"].detail == "1.0 GiB of 4.0 GiB available (limit of this container)"
    assert "AIINFRA_HOME" in rows["disk"].fix
    monkeypatch.setattr(capacity, "usable_cores", lambda: 2.0)
    monkeypatch.setattr(capacity, "memory", lambda: capacity.Memory(4 * GIB, 4 * GIB, False))
    monkeypatch.setattr(doctor, "ENOUGH_DISK", 1)
    rows = {row.name: row for row in doctor.examine().rows()}
    assert [rows[name].status for name in ("cores", "memory", "disk")] == ["ok"] * 3
