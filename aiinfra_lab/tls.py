"""A certificate authority for one machine: servers and clients of the course trust it alone.

Every certificate has its own P-256 key. A certificate is good for what it was issued for and
for nothing else: servers are known by their hosts, clients by their common name and
organizations (to Kubernetes: the user and the groups, such as ``system:masters``).
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_bytes

# Two machines whose clocks differ a little must not refuse each other's new certificates.
_BACKDATE = timedelta(minutes=5)
_AUTHORITY_DAYS = 365
_LEAF_DAYS = 90


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, both PEM; the key is not shown by ``repr``."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    def write(self, folder: str | Path, stem: str) -> tuple[Path, Path]:
        """Write ``<stem>.crt`` and ``<stem>.key``; only their owner may read the key.

        Each file is whole or absent.

        Returns
        -------
        tuple of Path
            The certificate's path and the key's.
        """
        cert, key = Path(folder) / f"{stem}.crt", Path(folder) / f"{stem}.key"
        write_bytes(key, self.key_pem, mode=0o600)
        write_bytes(cert, self.cert_pem)
        return cert, key


class Authority:
    """A root that issues certificates; made by ``create`` or ``load``."""

    def __init__(
        self,
        cert: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._cert, self._key, self._clock = cert, key, clock or SystemClock()

    @classmethod
    def create(
        cls,
        name: str,
        *,
        valid_for: timedelta = timedelta(days=_AUTHORITY_DAYS),
        clock: Clock | None = None,
    ) -> Self:
        """A new root called ``name``.

        Raises
        ------
        InputError
            ``name`` is empty or longer than 64 characters, or ``valid_for`` is not positive.
        """
        clock = clock or SystemClock()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        begins, ends = _period(clock.now(), valid_for)
        cert = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            # It signs leaves, not further authorities.
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(cert, key, clock=clock)

    @classmethod
    def load(cls, folder: str | Path, *, clock: Clock | None = None) -> Self:
        """The authority that ``save`` left in ``folder``.

        Raises
        ------
        InputError
            The files are not there, are damaged, or do not belong together.
        """
        cert_path, key_path = Path(folder) / "ca.crt", Path(folder) / "ca.key"
        try:
            cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except OSError as error:
            raise InputError(f"there is no authority in {folder}", found=str(error)) from None
        except (ValueError, TypeError) as error:
            raise InputError(f"the authority in {folder} is damaged", found=str(error)) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
            raise InputError(f"ca.crt and ca.key in {folder} do not belong together")
        return cls(cert, key, clock=clock)

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``ca.crt`` and ``ca.key`` (mode 0600) into ``folder``; return their paths."""
        return Certificate(self.cert_pem, _key_pem(self._key)).write(folder, "ca")

    @property
    def cert_pem(self) -> bytes:
        """The root's own certificate, for those who are to trust it."""
        return self._cert.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        common_name: str,
        *,
        hosts: Iterable[str] = (),
        organizations: Iterable[str] = (),
        client: bool = False,
        server: bool = False,
        valid_for: timedelta = timedelta(days=_LEAF_DAYS),
    ) -> Certificate:
        """A certificate for ``common_name`` with a new key.

        Parameters
        ----------
        common_name : str
            The subject; to Kubernetes the user's name.
        hosts : iterable of str
            DNS names and IP addresses under which a server is reached.
        organizations : iterable of str
            To Kubernetes the user's groups.
        client, server : bool
            What it may be used for; at least one.
        valid_for : timedelta
            From now; it never outlives the authority.

        Raises
        ------
        InputError
            It is for nothing, a server without hosts, a name is empty, longer than 64
            characters or no host, ``valid_for`` is not positive, or the authority has expired.
        """
        alternatives = [_alternative(host) for host in dict.fromkeys(hosts)]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
        purposes += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
        if not purposes:
            raise InputError(f"the certificate of {common_name!r} is for neither client nor server")
        if server and not alternatives:
            # Nobody looks at a server's common name any more.
            raise InputError(f"the server certificate of {common_name!r} needs hosts")
        begins, ends = _period(self._clock.now(), valid_for)
        ends = min(ends, self._cert.not_valid_after_utc)
        if ends <= self._clock.now():
            raise InputError("the authority has expired", fix="Create a new one.")
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name, organizations))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # An EC key signs; key encipherment is for RSA.
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        cert = builder.sign(self._key, hashes.SHA256())
        return Certificate(cert.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def server_context(
    cert: str | Path, key: str | Path, *, client_ca: bytes | None = None
) -> ssl.SSLContext:
    """TLS for a server; with ``client_ca`` only clients of that authority (PEM) get in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca: bytes, *, cert: str | Path | None = None, key: str | Path | None = None
) -> ssl.SSLContext:
    """TLS for a client that trusts the authority ``ca`` (PEM) alone and checks the host.

    ``cert`` and ``key`` are what it shows to a server that asks for them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca.decode("ascii"))
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def _period(now: datetime, valid_for: timedelta) -> tuple[datetime, datetime]:
    if valid_for <= timedelta(0):
        raise InputError("a certificate must be valid for some time", found=str(valid_for))
    return now - _BACKDATE, now + valid_for


def _name(common_name: str, organizations: Iterable[str] = ()) -> x509.Name:
    try:
        return x509.Name(
            [
                *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
    except ValueError as error:  # empty, or longer than X.509 allows
        raise InputError(f"the certificate's name cannot be used: {error}") from None


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # "10.0.0.300" and "http://host:80" are slips, not names.
    labels = host.removeprefix("*.").split(".")
    allowed = all(
        label and all(c.isascii() and (c.isalnum() or c in "-_") for c in label) for label in labels
    )
    if not allowed or labels[-1].isdigit():
        raise InputError(f"{host!r} is neither a DNS name nor an IP address")
    return x509.DNSName(host)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
