"""A cluster's place on disk: names, who holds it, what a killed holder leaves; and its ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube import place as place_module
from aiinfra_lab.kube.place import Part, Place, Record, known_clusters
from aiinfra_lab.kube.ports import HOST, ReservedPort
from aiinfra_lab.settings import settings


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def record(name: str = "t", **changes: object) -> Record:
    fields = {"name": name, "phase": "ready", "pid": 1, "start_time": 0.0, "keep": True}
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a/b", "..", "a" * 43, "a b", "ä"])
def test_a_name_that_no_folder_should_have_is_refused(name):
    with pytest.raises(InputError, match="cannot be called"):
        Place(name)


def test_one_at_a_time_holds_a_place():
    first, second = Place("t"), Place("t")
    assert not second.is_held
    assert first.hold()
    assert second.is_held
    assert not second.hold()
    first.release()
    assert not second.is_held
    assert second.hold()
    second.release()


def test_the_lock_ends_with_its_holder_and_the_record_says_killed():
    code = (
        "import os, sys\n"
        "from aiinfra_lab.kube.place import Place, Record\n"
        "place = Place('t')\n"
        "assert place.hold()\n"
        "place.write(Record(name='t', phase='ready', pid=os.getpid(), start_time=0.0, keep=True))\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        place = Place("t")
        held = place.read()
        assert held is not None
        assert held.phase == "ready"
        assert not place.hold()
        holder.kill()
        holder.wait()
    left = place.read()
    assert left is not None
    assert left.phase == "killed"
    assert place.hold()
    place.release()


def test_a_forked_copy_of_the_holder_does_not_keep_the_lock():
    place = Place("t")
    assert place.hold()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    place.release()
    assert Place("t").hold()
    os.close(writer)
    os.waitpid(child, 0)


def test_a_place_that_is_removed_under_a_waiter_is_locked_where_it_is_new(monkeypatch):
    first, second = Place("t"), Place("t")
    assert first.hold()
    lock = place_module._locked

    def late(descriptor: int) -> bool:
        # The waiter has opened the lock file; now its holder removes it and lets go.
        first.remove()
        first.release()
        monkeypatch.setattr(place_module, "_locked", lock)
        return lock(descriptor)

    monkeypatch.setattr(place_module, "_locked", late)
    assert second.hold()
    assert second.root.is_dir()
    assert not Place("t").hold()  # and not a second one beside a lock on a file that is gone
    second.release()


def test_a_record_survives_and_is_the_owners_alone():
    place = Place("t")
    place.hold()
    place.write(record(parts=[Part("etcd", 5, 6, 0.7)]))
    assert place.read() == record(parts=[Part("etcd", 5, 6, 0.7)])
    assert (place.root / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert place.root.stat().st_mode & 0o777 == 0o700
    place.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "t"}', '{"parts": [1]}'])
def test_a_damaged_record_is_none(text):
    place = Place("t")
    place.root.mkdir(parents=True)
    (place.root / "cluster.json").write_text(text)
    assert place.read() is None


def test_a_stale_pid_file_of_a_component_ends_nothing_that_is_not_its_own():
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        place = Place("t")
        place.hold()
        place.pids.mkdir(parents=True)
        # The pid was given to somebody else since: another start time.
        (place.pids / "etcd.pid").write_text(
            f'{{"pid": {bystander.pid}, "start_time": 1.0, "mark": "no-such-mark",'
            ' "supervisor_pid": 1, "supervisor_start_time": 1.0}'
        )
        (place.pids / "kube-scheduler.pid").write_text("not a record")
        place.end_leftovers()
        assert bystander.poll() is None
        assert list(place.pids.iterdir()) == []
        place.release()
    finally:
        bystander.kill()
        bystander.wait()


def test_clusters_are_found_by_name():
    for name in ("b", "a"):
        place = Place(name)
        place.root.mkdir(parents=True)
        place.write(record(name))
    (Place("empty").root).mkdir()
    assert [place.name for place in known_clusters()] == ["a", "b"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "clusters").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written.*AIINFRA_HOME"):
        Place("t").hold()


# Ports.


def test_a_reserved_port_is_refused_to_others_but_not_to_a_server_with_reuse():
    port = ReservedPort()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port.number))
    if sys.platform == "linux":
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((HOST, port.number))
            server.listen()
    port.close()
    with socket.socket() as other:
        other.bind((HOST, port.number))


def test_a_taken_port_is_one_sentence():
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        number = server.getsockname()[1]
        with pytest.raises(InputError, match=f"cluster t cannot use port {number}"):
            ReservedPort(number, what="cluster t")


@pytest.mark.parametrize("number", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(number):
    with pytest.raises(InputError, match=f"the port is {number}"):
        ReservedPort(number)
