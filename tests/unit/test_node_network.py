"""Addresses nobody shares, and hosts files in which no name that stays is ever missing."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from node_builders import make_pod

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.provision.network import Addresses, HostsFile, Name, Neighbours, hostname


def named(hostname="job-0", uid="u0", *, ip="127.64.0.1", subdomain="job", born="2026-01-01"):
    return Name(uid, "lab", hostname, subdomain, ip, born)


def addresses_of(path, name):
    """Whom ``name`` leads to, as a resolver reads the file."""
    found = []
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if name in words[1:]:
            found.append(words[0])
    return found


@law(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=40), st.integers(0, 126))
def test_no_two_living_pods_have_the_same_address(steps, number):
    addresses, held = Addresses(number, own=True), {}
    for takes, uid in steps:
        if takes:
            held[uid] = addresses.take(str(uid))
        else:
            addresses.release(str(uid))
            held.pop(uid, None)
        assert len(set(held.values())) == len(held)
        assert all(ip.startswith(f"127.{64 + number}.") for ip in held.values())


def test_an_address_is_kept_taken_up_again_and_not_given_again_at_once():
    addresses = Addresses(3, own=True)
    first = addresses.take("a")
    assert addresses.take("a") == first
    addresses.release("a")
    assert addresses.take("b") != first
    later = Addresses(3, own=True)
    assert later.take("b", "127.67.1.7") == "127.67.1.7"
    assert later.take("c", "127.67.1.7") == "127.67.1.8"  # two records with one address
    assert later.take("d", "10.0.0.1") == "127.67.1.9"  # not this node's


def test_the_last_address_is_followed_by_the_first_and_then_there_is_none(monkeypatch):
    monkeypatch.setattr("aiinfra_lab.kube.node.provision.network._PER_NODE", 300)
    addresses = Addresses(0, own=True)
    given_ = [addresses.take(str(uid)) for uid in range(300)]
    assert given_[0] == "127.64.0.1"
    assert given_[255] == "127.64.1.0"
    assert len(set(given_)) == 300
    with pytest.raises(InputError, match="no address left"):
        addresses.take("more")
    addresses.release("7")
    assert addresses.take("more") == given_[7]


def test_a_machine_with_one_loopback_address_gives_that():
    addresses = Addresses(0, own=False)
    assert {addresses.take("a"), addresses.take("b")} == {"127.0.0.1"}


@pytest.mark.parametrize("number", [-1, 127])
def test_a_number_outside_of_the_loopback_is_refused(number):
    with pytest.raises(InputError, match="the number"):
        Addresses(number, own=True)


@pytest.mark.parametrize(
    ("spec", "name", "expected"),
    [
        ({}, "web-7", "web-7"),
        ({"hostname": "job-0"}, "job-0-x7k2p", "job-0"),
        ({}, "x" * 70, "x" * 63),
        ({}, "x" * 62 + "-" + "y" * 9, "x" * 62),
    ],
)
def test_the_hostname_is_the_one_asked_for_or_the_pods_name(spec, name, expected):
    assert hostname(make_pod(name, **spec)) == expected


def test_a_hosts_file_has_the_pods_own_names_and_aliases(tmp_path):
    file = HostsFile(tmp_path / "hosts")
    file.create(named(), [{"ip": "10.1.1.1", "hostnames": ["db", "db.example"]}])
    for name in (
        "job-0",
        "job-0.job",
        "job-0.job.lab",
        "job-0.job.lab.svc",
        "job-0.job.lab.svc.cluster.local",
        socket.gethostname(),
    ):
        assert addresses_of(file.path, name) == ["127.64.0.1"]
    assert addresses_of(file.path, "localhost") == ["127.0.0.1", "::1"]
    assert addresses_of(file.path, "db.example") == ["10.1.1.1"]


def test_a_pod_without_subdomain_has_no_names_of_a_service(tmp_path):
    file = HostsFile(tmp_path / "hosts")
    file.create(named(subdomain=""))
    assert addresses_of(file.path, "job-0") == ["127.64.0.1"]
    assert "svc" not in file.path.read_text()


def test_siblings_come_and_go_in_one_file_with_one_inode(tmp_path):
    file = HostsFile(tmp_path / "hosts")
    file.create(named())
    inode = file.path.stat().st_ino
    one, two = named("job-1", "u1", ip="127.64.0.2"), named("job-2", "u2", ip="127.65.0.1")
    assert file.update([one, two])
    assert not file.update([two, one])
    assert addresses_of(file.path, "job-2.job") == ["127.65.0.1"]
    assert addresses_of(file.path, "job-1") == []  # a Service gives it only with the subdomain
    assert addresses_of(file.path, "job.lab.svc") == []
    again = named("job-1", "u3", ip="127.64.0.9")
    assert file.update([again, two])
    assert addresses_of(file.path, "job-1.job") == ["127.64.0.9"]
    assert file.update([])
    assert addresses_of(file.path, "job-1.job") == addresses_of(file.path, "job-2.job") == []
    assert addresses_of(file.path, "job-0.job") == ["127.64.0.1"]
    assert file.path.stat().st_ino == inode


def test_what_a_container_has_written_into_its_file_stays(tmp_path):
    file = HostsFile(tmp_path / "hosts")
    file.create(named())
    with file.path.open("a") as end:
        end.write("10.0.0.7 mine")
    file.update([named("job-1", "u1", ip="127.64.0.2")])
    file.update([])
    assert addresses_of(file.path, "mine") == ["10.0.0.7"]


def test_no_reader_ever_misses_a_name_that_stays(tmp_path):
    file = HostsFile(tmp_path / "hosts")
    file.create(named())
    stays = named("job-1", "stays", ip="127.64.0.2")
    file.update([stays])
    missed, reads, over = [], 0, threading.Event()

    def read():
        nonlocal reads
        while not over.is_set():
            reads += 1
            for name, ip in (
                ("localhost", "127.0.0.1"),
                ("job-0.job", "127.64.0.1"),
                ("job-1.job", "127.64.0.2"),
            ):
                if ip not in addresses_of(file.path, name):
                    missed.append(name)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(300):
            guests = [named(f"job-{n}", f"u{turn}-{n}", ip=f"127.64.1.{n}") for n in range(2, 5)]
            file.update([stays, *guests[: turn % 4]])
    finally:
        over.set()
        reader.join()
    assert reads > 10
    assert not missed


def test_nodes_tell_each_other_of_their_pods(tmp_path):
    here, there = Neighbours(tmp_path, "n0"), Neighbours(tmp_path, "n1")
    here.tell(named())
    there.tell(named("job-1", "u1", ip="127.65.0.1"))
    there.tell(named("x", "u2", subdomain="other"))
    assert {name.uid for name in here.known("lab", "job")} == {"u0", "u1"}
    there.untell(named("job-1", "u1"))
    there.untell(named("job-1", "u1"))
    assert [name.uid for name in here.known("lab", "job")] == ["u0"]
    assert here.known("lab", "none") == []


def test_of_two_pods_with_one_hostname_the_younger_counts(tmp_path):
    told = Neighbours(tmp_path, "n0")
    told.tell(named(uid="new", ip="127.64.0.9", born="2026-01-02T00:00:00Z"))
    told.tell(named(uid="old", born="2026-01-01T00:00:00Z"))
    assert [name.uid for name in told.known("lab", "job")] == ["new"]
    told.untell(named(uid="new"))
    assert [name.uid for name in told.known("lab", "job")] == ["old"]


def test_after_a_restart_a_node_takes_back_what_it_told_of_lost_pods_only(tmp_path):
    Neighbours(tmp_path, "n0").tell(named(uid="lost"))
    Neighbours(tmp_path, "n0").tell(named(uid="kept", hostname="job-1"))
    Neighbours(tmp_path, "n1").tell(named(uid="theirs", hostname="job-2"))
    Neighbours(tmp_path, "n0").keep_only(["kept"])
    found = {name.uid for name in Neighbours(tmp_path, "n1").known("lab", "job")}
    assert found == {"kept", "theirs"}


def test_half_a_file_in_the_common_folder_is_passed_over_until_it_is_whole(tmp_path):
    told = Neighbours(tmp_path, "n0")
    told.tell(named())
    path = next(tmp_path.rglob("*.json"))
    whole = path.read_bytes()
    fresh = Neighbours(tmp_path, "n1")
    path.write_bytes(whole[:20])
    assert fresh.known("lab", "job") == []
    path.write_bytes(whole)
    assert [name.uid for name in fresh.known("lab", "job")] == ["u0"]
