"""A file is whole or absent, whatever happens to its writer."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab import files


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(path: Path, parts: list[bytes], then: BaseException) -> None:
    with files.atomic_writer(path) as file:
        for part in parts:
            file.write(part)
        raise then


@law(deadline=None, max_examples=30)
@given(old=st.none() | st.binary(max_size=64), parts=st.lists(st.binary(max_size=64), max_size=4))
def test_a_block_that_fails_leaves_the_old_bytes_and_no_rest(old, parts):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.bin"
        if old is not None:
            path.write_bytes(old)
        before = content(path.parent)
        with pytest.raises(RuntimeError, match="half way"):
            write(path, parts, then=RuntimeError("half way"))
        assert content(path.parent) == before
        with files.atomic_writer(path) as file:
            for part in parts:
                file.write(part)
            assert content(path.parent).get("model.bin") == old
        assert content(path.parent) == {"model.bin": b"".join(parts)}


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", [b"half"], then=KeyboardInterrupt())
    assert content(tmp_path) == {}


# Replaces a file by two contents in turn, each written in many pieces, until it is killed.
WRITER = """
import sys
from aiinfra_lab.files import atomic_writer
for turn in range(1_000_000):
    with atomic_writer(sys.argv[1]) as file:
        for piece in range(200):
            file.write((b"A" if turn % 2 else b"B") * 1000)
            file.flush()
            if turn == 2 and piece == 100:
                print("half of the third", flush=True)
                if sys.argv[2] == "wait":
                    sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["wait", "go on"])
def test_kill_9_in_the_middle_leaves_one_whole_version(tmp_path, moment):
    path = tmp_path / "state.bin"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b"half of the third\n"
        seen = {path.read_bytes() for _ in range(50)}
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    seen.add(path.read_bytes())
    whole = {b"A" * 200_000, b"B" * 200_000}
    assert seen <= whole
    if moment == "wait":  # the third version was half written, so the second is there
        assert seen == {b"A" * 200_000}


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "new", "x")
    finally:
        os.umask(mask)
    assert permissions(tmp_path / "new") == 0o640
    (tmp_path / "new").chmod(0o755)
    files.write_text(tmp_path / "new", "y")
    assert permissions(tmp_path / "new") == 0o755


def test_a_secret_is_at_no_time_readable_by_others(tmp_path):
    path = tmp_path / "ca.key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with files.atomic_writer(path, mode=0o600) as file:
        file.write(b"new")
        assert [permissions(p) for p in tmp_path.iterdir() if p != path] == [0o600]
    assert permissions(path) == 0o600


def test_through_a_link_the_named_file_is_replaced(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_missing_folders_are_made(tmp_path):
    files.write_text(tmp_path / "a" / "b" / "c.txt", "é\r\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é\r\n".encode()


def test_json_is_strict_readable_and_ends_its_line(tmp_path):
    files.write_json(tmp_path / "x.json", {"名": [1, None]})
    written = (tmp_path / "x.json").read_text()
    assert json.loads(written) == {"名": [1, None]}
    assert "名" in written
    assert written.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert (tmp_path / "x.json").read_text() == written


@law(deadline=None, max_examples=50)
@given(st.binary())
def test_a_files_digest_is_that_of_its_bytes(data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert files.digest_file(file.name) == files.digest_bytes(data)


def test_a_digest_names_its_algorithm():
    # The published SHA-256 of no bytes.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files.digest_bytes(b"") == f"sha256:{empty}"


names = st.text("abc", min_size=1, max_size=3)
trees = st.dictionaries(st.tuples(names, names), st.binary(max_size=3), max_size=6)


def build(root: Path, tree: dict[tuple[str, str], bytes]) -> str:
    for (folder, name), data in tree.items():
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).write_bytes(data)
    return files.digest_tree(root)


@law(deadline=None, max_examples=30)
@given(trees, trees)
@example({("a", "c"): b"x"}, {("b", "c"): b"x"})
@example({("a", "b"): b"x", ("a", "c"): b"y"}, {("a", "b"): b"y", ("a", "c"): b"x"})
def test_trees_have_the_same_digest_exactly_if_they_hold_the_same_files(one, other):
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        backwards = dict(reversed(list(other.items())))
        assert (build(Path(a), one) == build(Path(b), backwards)) == (one == other)


def test_the_order_in_which_a_disk_lists_files_does_not_count(tmp_path, monkeypatch):
    digest = build(tmp_path, {("a", "b"): b"1", ("b", "a"): b"2", ("c", "c"): b"3"})
    listed = list(tmp_path.rglob("*"))
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "rglob", lambda *_, order=order: order)
        assert files.digest_tree(tmp_path) == digest


def test_a_tree_may_hold_any_name(tmp_path):
    before = files.digest_tree(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"x")
    assert files.digest_tree(tmp_path) != before


def test_a_missing_folder_does_not_pass_for_an_empty_one(tmp_path):
    with pytest.raises(NotADirectoryError):
        files.digest_tree(tmp_path / "typo")
