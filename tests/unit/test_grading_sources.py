"""Submissions come from folders and zips that strangers filled: nothing is unpacked or followed."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading import sources
from aiinfra_lab.grading.sources import open_source


def folder_items(folder):
    with open_source(folder) as source:
        return {item.path: item for item in source.items}


def make_zip(path, *members):
    """A zip with members of (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members:
            made.writestr(name, data)
    return path


def zip_items(path):
    return folder_items(path)


def test_a_folder_gives_its_files_by_relative_path_with_size_and_time(tmp_path):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "x.ipynb").write_bytes(b"12345")
    os.utime(tmp_path / "ada" / "x.ipynb", (1_000, 2_000))

    with open_source(tmp_path) as source:
        (item,) = source.items
        assert (item.path, item.size, item.modified, item.problem) == ("ada/x.ipynb", 5, 2_000, "")
        assert source.read(item) == b"12345"


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.ipynb",
        ".ipynb_checkpoints/a-checkpoint.ipynb",
        "ada/.ipynb_checkpoints/a.ipynb",
        "__MACOSX/._a.ipynb",
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_tools_leave_behind_is_not_seen(tmp_path, name, kind):
    if kind == "zip":
        found = zip_items(make_zip(tmp_path / "x.zip", (name, b"1"), ("b.ipynb", b"1")))
    else:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
        (tmp_path / "b.ipynb").write_bytes(b"1")
        found = folder_items(tmp_path)

    assert list(found) == ["b.ipynb"]


def test_links_in_a_folder_are_refused_and_their_targets_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "file.ipynb").symlink_to(tmp_path / "secret")
    (inside / "folder.ipynb").symlink_to(tmp_path)

    with open_source(inside) as source:
        assert {item.path for item in source.items} == {"file.ipynb", "folder.ipynb"}
        for item in source.items:
            assert "link" in item.problem
            with pytest.raises(InputError):
                source.read(item)


def test_a_file_that_became_a_link_after_the_look_is_not_followed(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text("mine")
    (tmp_path / "secret").write_text("secret")
    with open_source(tmp_path) as source:
        item = next(item for item in source.items if item.path == "a.ipynb")
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match="cannot be read"):
            source.read(item)


def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.ipynb")
    with open_source(tmp_path) as source:
        assert source.items[0].problem == "it is no regular file"
        assert source.read(source.items[0]) == b""


def test_a_name_that_is_no_utf8_can_be_read_and_written(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff.ipynb"
    with open(raw, "wb") as file:  # noqa: PTH123 - such a name is bytes
        file.write(b"1")
    with open_source(tmp_path) as source:
        (item,) = source.items
        item.path.encode()
        assert source.read(item) == b"1"


def test_a_file_that_is_too_large_is_refused_without_being_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 10)
    (tmp_path / "a.ipynb").write_bytes(b"x" * 11)
    archive = make_zip(tmp_path / "z.zip", ("b.ipynb", b"x" * 11))
    with open_source(tmp_path) as source, pytest.raises(InputError, match="aiinfra submit"):
        source.read(next(item for item in source.items if item.path == "a.ipynb"))
    assert "aiinfra submit" in zip_items(archive)["b.ipynb"].problem


def test_a_zip_gives_its_members(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("ada/x.ipynb", b"12345"))
    with open_source(path) as source:
        (item,) = source.items
        assert (item.path, item.size, item.problem) == ("ada/x.ipynb", 5, "")
        assert source.read(item) == b"12345"


def test_a_zip_of_one_folder_is_seen_from_inside_this_folder(tmp_path):
    members = [("subs/ada/x.ipynb", b"1"), ("subs/bob.ipynb", b"2")]
    assert set(zip_items(make_zip(tmp_path / "subs.zip", *members))) == {"ada/x.ipynb", "bob.ipynb"}
    assert set(zip_items(make_zip(tmp_path / "ada.zip", *members))) == {m for m, _ in members}


@pytest.mark.parametrize(
    "name", ["/etc/a.ipynb", "../a.ipynb", "x/../../a.ipynb", "C:/a.ipynb", "..\\a.ipynb"]
)
def test_a_path_that_leads_out_of_the_zip_is_that_files_problem(tmp_path, name):
    path = make_zip(tmp_path / "x.zip", (name, b"1"), ("good.ipynb", b"2"))
    found = zip_items(path)
    assert found.pop("good.ipynb").problem == ""
    assert [item.problem for item in found.values()] == ["its path in the zip leads out of it"]


def test_a_link_in_a_zip_is_that_files_problem(tmp_path):
    link = zipfile.ZipInfo("a.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert (
        "link" in zip_items(make_zip(tmp_path / "x.zip", (link, b"/etc/passwd")))["a.ipynb"].problem
    )


def test_what_unpacks_to_hundreds_of_times_its_size_is_that_files_problem(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.ipynb", bytes(4 * 2**20)), ("b.ipynb", b"1"))
    found = zip_items(path)
    assert "times its size" in found["a.ipynb"].problem
    assert found["b.ipynb"].problem == ""


def test_printed_lines_by_the_thousand_are_no_bomb(tmp_path):
    lines = "".join(f"epoch {n}: loss 0.1\n" for n in range(100_000)).encode()
    assert zip_items(make_zip(tmp_path / "x.zip", ("a.ipynb", lines)))["a.ipynb"].problem == ""


@pytest.mark.parametrize(
    ("limit", "words"), [("MOST_FILES", "holds 2 files"), ("MOST_TOTAL", "bomb")]
)
def test_a_zip_of_too_much_is_refused(tmp_path, monkeypatch, limit, words):
    monkeypatch.setattr(sources, limit, 1)
    path = make_zip(tmp_path / "x.zip", ("a.ipynb", b"1234"), ("b.ipynb", b"1234"))
    with pytest.raises(InputError, match=words):
        zip_items(path)


def _encrypted(path, *names):
    """Set the flag for encryption in the directory of the zip."""
    data = path.read_bytes()
    for name in names:
        at = data.rindex(name.encode()) - 46  # the length of a central directory header
        assert data[at : at + 4] == b"PK\x01\x02"
        data = data[: at + 8] + bytes([data[at + 8] | 1]) + data[at + 9 :]
    path.write_bytes(data)
    return path


def test_an_encrypted_zip_is_refused_and_an_encrypted_member_is_that_files_problem(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.ipynb", b"1"), ("b.ipynb", b"1"))
    assert zip_items(_encrypted(path, "a.ipynb"))["a.ipynb"].problem == "it is encrypted"
    with pytest.raises(InputError, match="is encrypted"):
        zip_items(_encrypted(path, "b.ipynb"))


def test_a_damaged_member_is_that_files_problem(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.ipynb", os.urandom(2_000)), ("b.ipynb", b"ok"))
    data = bytearray(path.read_bytes())
    data[500:520] = bytes(20)
    path.write_bytes(data)
    with open_source(path) as source:
        first, second = source.items
        with pytest.raises(InputError, match="damaged in the zip"):
            source.read(first)
        assert source.read(second) == b"ok"


@pytest.mark.parametrize(
    "error", [zlib.error("x"), EOFError("x"), RuntimeError("x"), NotImplementedError("x")]
)
def test_whatever_unpacking_raises_is_that_files_problem(tmp_path, monkeypatch, error):
    path = make_zip(tmp_path / "x.zip", ("a.ipynb", b"1"))

    def failing(*args, **kwargs):
        raise error

    with open_source(path) as source:
        monkeypatch.setattr(zipfile.ZipFile, "open", failing)
        with pytest.raises(InputError):
            source.read(source.items[0])


def test_names_in_a_zip_without_the_flag_for_utf8_are_read(tmp_path):
    name = "山田.ipynb"
    path = make_zip(tmp_path / "x.zip", ("A" * len(name.encode()), b"1"))
    raw = name.encode()
    path.write_bytes(path.read_bytes().replace(b"A" * len(raw), raw))
    assert set(zip_items(path)) == {name}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "there is no folder or zip"),
        (lambda p: p.write_text("x"), "cannot be read as a zip"),
        (lambda p: p.write_bytes(b"PK\x05\x06"), "cannot be read as a zip"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path, make, words):
    make(tmp_path / "x.zip")
    with pytest.raises(InputError, match=words):
        zip_items(tmp_path / "x.zip")


def test_a_single_file_is_neither(tmp_path):
    (tmp_path / "a.ipynb").write_text("{}")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        folder_items(tmp_path / "a.ipynb")
