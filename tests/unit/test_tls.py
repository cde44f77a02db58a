"""Certificates that a real TLS handshake accepts, and those that it must refuse."""

import contextlib
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aiinfra_lab import tls
from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import InputError

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority():
    return tls.Authority.create("course")


@pytest.fixture
def talk(tmp_path):
    """Shake hands on loopback: the client's certificate as the server saw it.

    Raises what the client met; the server's own error is its cause.
    """

    def run(server, client, *, host="localhost", trust, client_ca=None):
        paths = server.write(tmp_path, "server")
        accepts = tls.server_context(*paths, client_ca=client_ca)
        shown = client.write(tmp_path, "client") if client else (None, None)
        connects = tls.client_context(trust, cert=shown[0], key=shown[1])
        seen, errors = [], []

        def serve(listener):
            try:
                with (
                    listener.accept()[0] as raw,
                    accepts.wrap_socket(raw, server_side=True) as tls_,
                ):
                    seen.append(tls_.getpeercert())
                    tls_.sendall(b"ok")
            except OSError as error:
                errors.append(error)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)
            thread = threading.Thread(target=serve, args=(listener,))
            thread.start()
            try:
                with contextlib.ExitStack() as stack:
                    raw = stack.enter_context(
                        socket.create_connection(listener.getsockname(), timeout=10)
                    )
                    wrapped = stack.enter_context(connects.wrap_socket(raw, server_hostname=host))
                    # TLS 1.3 tells a client that it was refused only when it reads.
                    if wrapped.recv(2) != b"ok":
                        raise ConnectionError("the server hung up")
            except OSError as error:
                thread.join(10)
                raise error from (errors[0] if errors else None)
            thread.join(10)
        return seen[0]

    return run


def names(peer):
    return [value for group in peer["subject"] for _, value in group]


def parsed(certificate):
    return x509.load_pem_x509_certificate(certificate.cert_pem)


def test_server_and_client_of_one_authority_know_each_other(authority, talk):
    server = authority.issue("api", hosts=["localhost"], server=True)
    admin = authority.issue(
        "admin", organizations=["system:masters", "system:authenticated"], client=True
    )
    peer = talk(server, admin, trust=authority.cert_pem, client_ca=authority.cert_pem)
    assert sorted(names(peer)) == ["admin", "system:authenticated", "system:masters"]


def test_a_server_is_known_by_each_of_its_hosts(authority, talk):
    server = authority.issue("api", hosts=["127.0.0.1", "::1", "*.svc.local"], server=True)
    for host in ("127.0.0.1", "::1", "kubernetes.svc.local"):
        assert talk(server, None, host=host, trust=authority.cert_pem) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "api"])
def test_a_host_that_is_not_named_is_refused(authority, talk, host):
    server = authority.issue("api", hosts=["127.0.0.1", "example.org"], server=True)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch"):
        talk(server, None, host=host, trust=authority.cert_pem)


def test_a_server_of_another_authority_is_refused(authority, talk):
    stranger = tls.Authority.create("course")  # of the same name
    server = stranger.issue("api", hosts=["localhost"], server=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, None, trust=authority.cert_pem)


@pytest.mark.parametrize("shows", ["nothing", "another authority's"])
def test_a_client_without_a_certificate_of_the_authority_is_refused(authority, talk, shows):
    server = authority.issue("api", hosts=["localhost"], server=True)
    stranger = tls.Authority.create("course").issue("admin", client=True)
    client = None if shows == "nothing" else stranger
    with pytest.raises(OSError, match=r".") as refusal:
        talk(server, client, trust=authority.cert_pem, client_ca=authority.cert_pem)
    assert isinstance(refusal.value.__cause__, ssl.SSLError)
    reason = "PEER_DID_NOT_RETURN" if client is None else "CERTIFICATE_VERIFY_FAILED"
    assert reason in refusal.value.__cause__.reason


def test_a_servers_certificate_is_no_clients_and_the_other_way_round(authority, talk):
    server = authority.issue("api", hosts=["localhost"], server=True)
    client = authority.issue("admin", hosts=["localhost"], client=True)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable|purpose"):
        talk(client, None, trust=authority.cert_pem)
    with pytest.raises(OSError, match=r".") as refusal:
        talk(server, server, trust=authority.cert_pem, client_ca=authority.cert_pem)
    assert isinstance(refusal.value.__cause__, ssl.SSLCertVerificationError)
    both = authority.issue("etcd", hosts=["localhost"], server=True, client=True)
    peer = talk(both, both, trust=authority.cert_pem, client_ca=authority.cert_pem)
    assert names(peer) == ["etcd"]


@pytest.mark.parametrize(
    ("begins", "word"), [(-2 * DAY, "expired"), (DAY, "not yet valid")], ids=["old", "future"]
)
def test_a_certificate_is_good_in_its_time_only(talk, begins, word):
    clock = ManualClock(datetime.now(UTC) - 10 * DAY)
    authority = tls.Authority.create("course", clock=clock)
    clock.advance((10 * DAY + begins).total_seconds())
    server = authority.issue("api", hosts=["localhost"], server=True, valid_for=DAY)
    with pytest.raises(ssl.SSLCertVerificationError, match=word):
        talk(server, None, trust=authority.cert_pem)


def test_a_clock_that_is_a_little_behind_accepts_a_new_certificate():
    clock = ManualClock()
    certificate = tls.Authority.create("course", clock=clock).issue("x", client=True)
    behind = clock.now() - parsed(certificate).not_valid_before_utc
    assert timedelta(minutes=2) <= behind <= timedelta(minutes=10)


def test_a_certificate_does_not_outlive_its_authority():
    clock = ManualClock()
    authority = tls.Authority.create("course", valid_for=10 * DAY, clock=clock)
    clock.advance(9 * DAY.total_seconds())
    late = authority.issue("x", client=True, valid_for=5 * DAY)
    root = x509.load_pem_x509_certificate(authority.cert_pem)
    assert parsed(late).not_valid_after_utc == root.not_valid_after_utc
    clock.advance(2 * DAY.total_seconds())
    with pytest.raises(InputError, match="expired"):
        authority.issue("x", client=True)


def test_key_usages_are_those_that_kubernetes_asks_for(authority):
    root = x509.load_pem_x509_certificate(authority.cert_pem)
    leaf = parsed(authority.issue("x", hosts=["h"], server=True))

    def get(certificate, kind):
        return certificate.extensions.get_extension_for_class(kind)

    assert get(root, x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert get(root, x509.BasicConstraints).critical
    assert get(root, x509.KeyUsage).value.key_cert_sign
    assert get(leaf, x509.BasicConstraints).value.ca is False
    assert get(leaf, x509.KeyUsage).critical
    usage = get(leaf, x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    purposes = get(leaf, x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    signer = get(root, x509.SubjectKeyIdentifier).value.digest
    assert get(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == signer
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)
    leaf.verify_directly_issued_by(root)


def test_serial_numbers_and_keys_are_never_used_twice(authority):
    issued = [authority.issue("x", client=True) for _ in range(20)]
    assert len({parsed(certificate).serial_number for certificate in issued}) == 20
    assert len({certificate.key_pem for certificate in issued}) == 20
    roots = [tls.Authority.create("course").cert_pem for _ in range(2)]
    assert len({x509.load_pem_x509_certificate(root).serial_number for root in roots}) == 2


def test_an_authority_goes_on_after_a_restart(authority, talk, tmp_path):
    saved = authority.save(tmp_path / "pki")
    again = tls.Authority.load(tmp_path / "pki")
    assert again.cert_pem == authority.cert_pem
    assert [path.name for path in saved] == ["ca.crt", "ca.key"]
    server = again.issue("api", hosts=["localhost"], server=True)
    assert talk(server, None, trust=authority.cert_pem) is None


def test_only_the_owner_reads_a_key(authority, tmp_path):
    for paths in (
        authority.save(tmp_path),
        authority.issue("x", client=True).write(tmp_path, "x"),
    ):
        assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in paths][1] == 0
        assert b"CERTIFICATE" in paths[0].read_bytes()
        assert b"PRIVATE KEY" in paths[1].read_bytes()


def test_a_key_is_not_shown_by_accident(authority):
    assert "PRIVATE" not in repr(authority.issue("x", client=True))


def test_an_authority_that_cannot_be_loaded_is_said(authority, tmp_path):
    with pytest.raises(InputError, match="no authority"):
        tls.Authority.load(tmp_path)
    cert, key = authority.save(tmp_path)
    other = tls.Authority.create("other").save(tmp_path / "other")
    key.write_bytes(other[1].read_bytes())
    with pytest.raises(InputError, match="do not belong together"):
        tls.Authority.load(tmp_path)
    for path in (key, cert):
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match="damaged"):
            tls.Authority.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "neither client nor server"),
        ({"server": True}, "needs hosts"),
        ({"client": True, "valid_for": timedelta(0)}, "valid for some time"),
        ({"server": True, "hosts": ["http://h:80"]}, "neither a DNS name nor"),
        ({"server": True, "hosts": ["10.0.0.300"]}, "neither a DNS name nor"),
        ({"server": True, "hosts": ["a..b"]}, "neither a DNS name nor"),
        ({"server": True, "hosts": [""]}, "neither a DNS name nor"),
    ],
)
def test_a_certificate_that_nobody_could_use_is_not_issued(authority, arguments, says):
    with pytest.raises(InputError, match=says):
        authority.issue("x", **arguments)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_that_x509_cannot_hold_is_refused(authority, name):
    with pytest.raises(InputError, match="name cannot be used"):
        authority.issue(name, client=True)
    with pytest.raises(InputError, match="name cannot be used"):
        tls.Authority.create(name)


def test_the_names_of_the_subject_are_all_there(authority):
    subject = parsed(authority.issue("u", organizations=["a", "b"], client=True)).subject
    found = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [attribute.value for attribute in found] == ["a", "b"]
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "u"
