"""Downloads against a server of our own: cut, resumed, refused, wrong; never a wrong program."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.kube import download as module
from aiinfra_lab.kube.download import DownloadError, Unreachable, download
from aiinfra_lab.kube.pins import PINS, Artifact, Pin, read_pins, update_pins

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Publisher:
    """Files by path; what each request asked for; and how many answers break off, and where."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: list[str | None] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    resumes: bool = True
    url: str = ""


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            made.ranges.append(wanted)
            body = made.files.get(self.path)
            if made.statuses or body is None:
                self.send_error(made.statuses.pop(0) if made.statuses else 404)
                return
            begin = 0
            if wanted and made.resumes:
                begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                if begin >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            rest = body[begin:]
            self.wfile.write(rest[: made.cuts.pop(0)] if made.cuts else rest)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


def artifact(publisher: Publisher, sha256: str = SHA, member: str | None = None) -> Artifact:
    return Artifact("etcd", "v1", f"{publisher.url}/etcd", sha256, member)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_right_file_becomes_a_program(publisher, tmp_path):
    publisher.files["/etcd"] = BODY
    seen: list[tuple[int, int | None]] = []
    download(artifact(publisher), tmp_path / "etcd", lambda *now: seen.append(now))
    assert (tmp_path / "etcd").read_bytes() == BODY
    assert (tmp_path / "etcd").stat().st_mode & 0o777 == 0o755
    assert left(tmp_path) == ["etcd"]
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_cut_is_resumed_where_it_broke(publisher, tmp_path):
    publisher.files["/etcd"] = BODY
    publisher.cuts = [1000, 5000]
    download(artifact(publisher), tmp_path / "etcd")
    assert publisher.ranges == [None, "bytes=1000-", "bytes=6000-"]
    assert (tmp_path / "etcd").read_bytes() == BODY


def test_what_an_earlier_call_left_is_not_fetched_again(publisher, tmp_path):
    publisher.files["/etcd"] = BODY
    publisher.cuts = [1000] * module.TRIES
    with pytest.raises(Unreachable, match=f"{1000 * module.TRIES} of {len(BODY)} bytes"):
        download(artifact(publisher), tmp_path / "etcd")
    assert left(tmp_path) == [".etcd.part"]
    download(artifact(publisher), tmp_path / "etcd")
    assert publisher.ranges[-1] == f"bytes={1000 * module.TRIES}-"
    assert left(tmp_path) == ["etcd"]


def test_a_server_that_cannot_resume_sends_everything_again(publisher, tmp_path):
    publisher.files["/etcd"], publisher.resumes, publisher.cuts = BODY, False, [1000]
    download(artifact(publisher), tmp_path / "etcd")
    assert (tmp_path / "etcd").read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY, BODY + b"more"], ids=["whole", "too long"])
def test_a_part_that_needs_nothing_more(publisher, tmp_path, part):
    publisher.files["/etcd"] = BODY
    (tmp_path / ".etcd.part").write_bytes(part)
    download(artifact(publisher), tmp_path / "etcd")
    assert (tmp_path / "etcd").read_bytes() == BODY
    assert left(tmp_path) == ["etcd"]


def test_another_file_than_the_pinned_one_is_refused_and_removed(publisher, tmp_path):
    publisher.files["/etcd"] = BODY[:-1] + b"x"
    (tmp_path / "etcd").write_bytes(b"the one of last time")
    with pytest.raises(DownloadError, match=f"needed sha256:{SHA}") as caught:
        download(artifact(publisher), tmp_path / "etcd")
    assert not isinstance(caught.value, Unreachable)
    assert left(tmp_path) == ["etcd"]
    assert (tmp_path / "etcd").read_bytes() == b"the one of last time"


def test_a_part_of_another_file_is_found_out(publisher, tmp_path):
    publisher.files["/etcd"] = BODY
    (tmp_path / ".etcd.part").write_bytes(b"wrong from the first byte")
    with pytest.raises(DownloadError, match="not the pinned file"):
        download(artifact(publisher), tmp_path / "etcd")
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_not_there_is_one_sentence(publisher, tmp_path, status):
    publisher.statuses = [status]
    with pytest.raises(DownloadError, match=f"cannot be fetched; found status {status}"):
        download(artifact(publisher), tmp_path / "etcd")
    assert len(publisher.ranges) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_fault_is_tried_again(publisher, tmp_path, status):
    publisher.files["/etcd"], publisher.statuses = BODY, [status, status]
    download(artifact(publisher), tmp_path / "etcd")
    assert len(publisher.ranges) == 3


def test_no_network_is_one_sentence(tmp_path):
    gone = Artifact("etcd", "v1", "http://127.0.0.1:1/etcd", SHA)
    with pytest.raises(Unreachable, match=r"etcd could not be fetched from .*refused"):
        download(gone, tmp_path / "etcd")
    assert left(tmp_path) == []


def test_the_program_is_taken_out_of_its_archive(publisher, tmp_path):
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        entry = tarfile.TarInfo("etcd-v1/etcd")
        entry.size = len(BODY)
        archive.addfile(entry, io.BytesIO(BODY))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as packed:
        packed.writestr("etcd-v1/etcd", BODY)
    for data in (tarred.getvalue(), zipped.getvalue()):
        publisher.files["/etcd"] = data
        digest = hashlib.sha256(data).hexdigest()
        download(artifact(publisher, digest, "etcd-v1/etcd"), tmp_path / "etcd")
        assert (tmp_path / "etcd").read_bytes() == BODY
        assert left(tmp_path) == ["etcd"]
        (tmp_path / "etcd").unlink()


# The lock of the downloads.


def pins_of(publisher: Publisher, path: Path, digests: str = "{}") -> Path:
    path.write_text(
        '{"schema": 1, "programs": {"etcd": {"version": "v1",'
        f' "url": "{publisher.url}/etcd-{{version}}-{{os}}-{{arch}}.{{archive}}",'
        f' "sums": "{publisher.url}/SHA256SUMS",'
        f' "platforms": ["linux/amd64", "darwin/arm64"], "sha256": {digests}}}}}}}'
    )
    return path


def test_the_publishers_digests_are_copied_into_the_lock(publisher, tmp_path):
    path = pins_of(publisher, tmp_path / "pins.json")
    publisher.files["/SHA256SUMS"] = (
        f"{'0' * 64}  etcd-v1-linux-arm64.tar.gz\n{'a' * 64}  etcd-v1-linux-amd64.tar.gz\n"
        f"{'b' * 64} *etcd-v1-darwin-arm64.zip\n"
    ).encode()
    assert len(update_pins(path)) == 2
    pin = read_pins.__wrapped__(path)["etcd"]
    assert pin.sha256 == {"linux/amd64": "a" * 64, "darwin/arm64": "b" * 64}
    assert pin.artifact("darwin/arm64").url == f"{publisher.url}/etcd-v1-darwin-arm64.zip"
    before = path.read_bytes()
    assert update_pins(path) == []
    assert path.read_bytes() == before


def test_a_digest_that_changes_is_refused(publisher, tmp_path):
    path = pins_of(publisher, tmp_path / "pins.json", f'{{"linux/amd64": "{"c" * 64}"}}')
    publisher.files["/SHA256SUMS"] = (
        f"{'a' * 64}  etcd-v1-linux-amd64.tar.gz\n{'b' * 64}  etcd-v1-darwin-arm64.zip\n"
    ).encode()
    before = path.read_bytes()
    with pytest.raises(InputError, match="has changed"):
        update_pins(path)
    assert path.read_bytes() == before


def test_a_page_without_the_digest_is_no_digest(publisher, tmp_path):
    path = pins_of(publisher, tmp_path / "pins.json")
    publisher.files["/SHA256SUMS"] = b"<html>sign in</html>"
    with pytest.raises(InputError, match="holds no SHA-256"):
        update_pins(path)


def test_a_platform_without_digest_or_file_is_a_missing_need():
    pin = Pin("kubectl", "v1", "u", "s", ("linux/amd64",), {})
    with pytest.raises(MissingNeed, match="not published for darwin/arm64"):
        pin.artifact("darwin/arm64")
    with pytest.raises(MissingNeed, match="no digest of kubectl v1 is pinned for linux/amd64"):
        pin.artifact("linux/amd64")


def test_the_lock_is_kept_in_its_form():
    import json

    from aiinfra_lab.kube import pins

    assert pins._text(json.loads(PINS.read_text())) == PINS.read_text()
    for pin in read_pins().values():
        assert set(pin.sha256) <= set(pin.platforms)
        for digest in pin.sha256.values():
            assert re.fullmatch("[0-9a-f]{64}", digest)
