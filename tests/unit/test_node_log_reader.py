"""What `kubectl logs` may ask of a log: parts of it, its end, and its growth over rotations."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.serving import log_reader
from aiinfra_lab.kube.node.serving.log_reader import LogOptions, read_log

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def entry(second, text, *, stream="stdout", tag="F"):
    return f"2026-05-01T11:00:{second:02d}.123456789Z {stream} {tag} {text}\n"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "0.log"


async def read(path, **options):
    return b"".join([part async for part in read_log(path, LogOptions(**options))]).decode()


class Follower:
    """Follows a log until the container ends, and keeps what it read."""

    def __init__(self, path, **options):
        self.over, self.text = False, ""
        self.read = read_log(path, LogOptions(follow=True, **options), ended=lambda: self.over)
        self.task = asyncio.create_task(self.run())

    async def run(self):
        async for part in self.read:
            self.text += part.decode()

    async def saw(self, text):
        async with asyncio.timeout(20):
            while text not in self.text:
                await asyncio.sleep(0.005)

    async def end(self):
        self.over = True
        async with asyncio.timeout(20):
            await self.task
        return self.text


async def test_both_streams_in_order_without_the_entries_heads(log):
    log.write_text(entry(1, "a b  c") + entry(2, "", stream="stderr") + entry(3, " d"))
    assert await read(log) == "a b  c\n\n d\n"


async def test_a_log_that_is_not_there_is_empty(log):
    assert await read(log) == ""


async def test_entries_tagged_partial_are_one_line(log):
    log.write_text(
        entry(1, "long ", tag="P") + entry(2, "line ", tag="P:x") + entry(3, "end") + entry(4, "b")
    )
    assert await read(log) == "long line end\nb\n"
    stamp = "2026-05-01T11:00:{}.123456789Z "
    assert await read(log, timestamps=True) == (
        f"{stamp.format('01')}long line end\n{stamp.format('04')}b\n"
    )
    assert await read(log, tail_lines=2) == "long line end\nb\n"
    assert await read(log, tail_lines=1) == "b\n"


async def test_output_without_a_newline_at_its_end(log):
    log.write_text(entry(1, "a") + entry(2, "no newline", tag="P"))
    assert await read(log) == "a\nno newline"
    assert await read(log, tail_lines=1) == "no newline"


async def test_an_entry_that_was_cut_off_is_shown_and_garbage_is_not(log):
    log.write_text(entry(1, "a") + "garbage\n\n" + entry(2, "b")[:-1])
    assert await read(log) == "a\nb\n"
    assert await read(log, tail_lines=1) == "b\n"
    log.write_text(entry(1, "a") + "2026-05-01T11:00")
    assert await read(log) == "a\n"


async def test_one_stream(log):
    log.write_text(
        "".join(entry(n, n, stream="stdout" if n % 2 else "stderr") for n in range(1, 7))
    )
    assert await read(log, stream="Stdout") == "1\n3\n5\n"
    assert await read(log, stream="Stderr") == "2\n4\n6\n"
    assert await read(log, stream="Stderr", tail_lines=2) == "4\n6\n"


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 4, 5, 6, 99])
async def test_a_tail_reaches_into_the_rotated_file(log, lines):
    (log.parent / "0.log.1").write_text(entry(1, "1") + entry(2, "2") + entry(3, "3"))
    log.write_text(entry(4, "4") + entry(5, "5"))
    kept = ["1", "2", "3", "4", "5"][max(0, 5 - lines) :]
    assert await read(log, tail_lines=lines) == "".join(f"{line}\n" for line in kept)


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
async def test_a_tail_does_not_depend_on_where_blocks_begin(log, monkeypatch, block):
    monkeypatch.setattr("aiinfra_lab.kube.node.serving.log_reader._BLOCK", block)
    texts = [str(n) * (n % 9) for n in range(40)]
    log.write_text("".join(entry(n, text) for n, text in enumerate(texts)))
    for lines in range(42):
        kept = texts[max(0, 40 - lines) :]
        assert await read(log, tail_lines=lines) == "".join(f"{text}\n" for text in kept)


@pytest.mark.parametrize("chunk", [1, 13, 1 << 18])
async def test_reading_does_not_depend_on_where_chunks_end(log, monkeypatch, chunk):
    monkeypatch.setattr("aiinfra_lab.kube.node.serving.log_reader._CHUNK", chunk)
    log.write_text("".join(entry(n, f"line {n}") for n in range(20)))
    assert await read(log) == "".join(f"line {n}\n" for n in range(20))


async def test_the_tail_of_a_large_log_is_read_from_its_end(log, monkeypatch):
    with log.open("w") as file:
        file.seek(50_000_000)  # a hole, which would be 50 MB to read
        file.write("\n" + "".join(entry(n, n) for n in range(50)))
    honest, total = log_reader._backwards, 0

    class Counted:
        def __init__(self, file):
            self.file, self.seek = file, file.seek

        def read(self, size):
            nonlocal total
            total += size
            return self.file.read(size)

    monkeypatch.setattr(log_reader, "_backwards", lambda file, size: honest(Counted(file), size))
    assert await read(log, tail_lines=2) == "48\n49\n"
    assert 0 < total <= 1 << 17


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, "o"), (4, "one\n"), (6, "one\ntw"), (99, "one\ntwo\n")]
)
async def test_no_more_bytes_than_wanted(log, limit, kept):
    log.write_text(entry(1, "one") + entry(2, "two"))
    assert await read(log, limit_bytes=limit) == kept


async def test_a_follower_ends_with_its_last_byte(log):
    log.write_text(entry(1, "one") + entry(2, "two"))
    follower = Follower(log, limit_bytes=5)
    async with asyncio.timeout(20):
        await follower.task
    assert follower.text == "one\nt"


async def test_nothing_before_a_time(log):
    log.write_text("".join(entry(n, n) for n in range(1, 5)) + "yesterday stdout F x\n")
    at = datetime(2026, 5, 1, 11, 0, 3, tzinfo=UTC)
    assert await read(log, since=at) == "3\n4\n"
    exactly = datetime(2026, 5, 1, 11, 0, 3, 123456, tzinfo=UTC)
    assert await read(log, since=exactly) == "3\n4\n"
    assert await read(log, since=at, tail_lines=1) == ""  # the tail is taken first
    assert await read(log, since=at, tail_lines=3) == "3\n4\n"


async def test_without_follow_a_log_that_grows_ends(log):
    log.write_text(entry(1, "a") + entry(2, "b"))
    text = ""
    async for part in read_log(log, LogOptions(), ended=lambda: False):
        text += part.decode()
        with log.open("a") as file:
            file.write(entry(3, "later") * 10_000)
    assert text == "a\nb\n"


async def test_a_follower_sees_what_comes_and_ends_with_the_container(log):
    log.write_text(entry(1, "before"))
    follower = Follower(log)
    await follower.saw("before")
    with log.open("a") as file:
        for part in (entry(2, "while")[:20], entry(2, "while")[20:]):
            file.write(part)
            file.flush()
            await asyncio.sleep(0.06)
        await follower.saw("while\n")
        # Written together with the end: nothing of it may be lost.
        file.write(entry(3, "last words"))
        file.flush()
        assert await follower.end() == "before\nwhile\nlast words\n"


async def test_what_is_written_until_the_end_is_known_is_read(log):
    log.write_text(entry(1, "a"))
    asked = 0

    def ended():
        nonlocal asked
        asked += 1
        if asked == 2:
            with log.open("a") as file:
                file.write(entry(2, "last words"))
        return asked >= 2

    parts = [part async for part in read_log(log, LogOptions(follow=True), ended=ended)]
    assert b"".join(parts) == b"a\nlast words\n"


async def test_a_follower_waits_for_a_log_that_is_not_there_yet(log):
    follower = Follower(log)
    await asyncio.sleep(0.06)
    assert not follower.task.done()
    log.write_text(entry(1, "a"))
    await follower.saw("a")
    assert await follower.end() == "a\n"


async def test_a_follower_of_the_last_lines_goes_on_from_there(log):
    log.write_text("".join(entry(n, n) for n in range(5)))
    follower = Follower(log, tail_lines=1)
    await follower.saw("4")
    with log.open("a") as file:
        file.write(entry(5, "5"))
    await follower.saw("5")
    assert await follower.end() == "4\n5\n"


class Rotating:
    """Writes as the runtime does."""

    def __init__(self, path):
        self.path, self.file = path, path.open("a")

    def write(self, text):
        self.file.write(entry(1, text))
        self.file.flush()

    def rotate(self):
        self.file.close()
        self.path.rename(f"{self.path}.1")
        self.file = self.path.open("a")


async def test_a_follower_goes_over_rotations_without_losing_or_doubling(log):
    writer = Rotating(log)
    writer.write("a")
    follower = Follower(log)
    await follower.saw("a")
    # All at once, between two looks of the follower.
    writer.write("b")
    writer.rotate()
    writer.write("c")
    await follower.saw("c")
    writer.rotate()
    writer.write("d")
    await follower.saw("d")
    writer.write("e")
    writer.rotate()
    writer.write("f")
    writer.file.close()
    assert await follower.end() == "a\nb\nc\nd\ne\nf\n"


async def test_two_rotations_between_two_looks(log):
    writer = Rotating(log)
    writer.write("a")
    follower = Follower(log)
    await follower.saw("a")
    writer.write("b")
    writer.rotate()
    writer.write("c")
    writer.rotate()
    writer.write("d")
    await follower.saw("d")
    writer.file.close()
    assert await follower.end() == "a\nb\nc\nd\n"


async def test_a_rotation_while_the_files_are_opened(log, monkeypatch):
    writer, honest = Rotating(log), Path.open
    for text in ("a", "b"):
        writer.write(text)
        writer.rotate()
    writer.write("c")

    def open_and_rotate(path, *mode, **options):
        file = honest(path, *mode, **options)
        monkeypatch.setattr(Path, "open", honest)
        writer.rotate()
        writer.write("d")
        return file

    monkeypatch.setattr(Path, "open", open_and_rotate)
    text = await read(log)
    writer.file.close()
    assert text == "c\nd\n"  # "b" has been rotated away


async def test_a_rotation_whose_new_file_is_not_there_yet(log):
    log.write_text(entry(1, "a"))
    follower = Follower(log)
    await follower.saw("a")
    log.rename(f"{log}.1")
    await asyncio.sleep(0.12)
    log.write_text(entry(2, "b"))
    await follower.saw("b")
    assert await follower.end() == "a\nb\n"


async def test_a_follower_that_is_left_closes_its_files(log):
    log.write_text(entry(1, "a"))
    reading = read_log(log, LogOptions(follow=True), ended=lambda: False)
    assert await anext(reading) == b"a\n"
    await reading.aclose()  # an open file would be a ResourceWarning, which is an error here


async def test_the_event_loop_has_its_turn_while_a_large_log_is_filtered(log, monkeypatch):
    monkeypatch.setattr("aiinfra_lab.kube.node.serving.log_reader._CHUNK", 1000)
    log.write_text(entry(1, "x" * 80) * 1000)
    turns, done = 0, False

    async def count():
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await read(log, since=NOW) == ""
    done = True
    await counting
    assert turns >= 100


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, LogOptions()),
        ({"follow": "true", "timestamps": "1"}, LogOptions(follow=True, timestamps=True)),
        ({"follow": "false", "timestamps": "0"}, LogOptions()),
        ({"tailLines": "0", "limitBytes": "7"}, LogOptions(tail_lines=0, limit_bytes=7)),
        ({"stream": "Stderr"}, LogOptions(stream="Stderr")),
        (
            {"sinceSeconds": "60"},
            LogOptions(since=datetime(2026, 5, 1, 11, 59, tzinfo=UTC)),
        ),
        ({"sinceSeconds": "9" * 19}, LogOptions()),
        (
            {"sinceTime": "2026-05-01T10:00:00+02:00"},
            LogOptions(since=datetime(2026, 5, 1, 8, tzinfo=UTC)),
        ),
    ],
)
def test_options_from_a_query(query, expected):
    assert LogOptions.from_query(query, now=NOW) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"tailLines": "-1"},
        {"tailLines": "ten"},
        {"tailLines": "9" * 5000},
        {"tailLines": "\u0663"},  # a digit, and no ASCII
        {"limitBytes": "0"},
        {"sinceSeconds": "0"},
        {"sinceTime": "noon"},
        {"sinceTime": "2026-05-01T10:00:00"},  # of which zone?
        {"sinceTime": "2026-05-01T10:00:00Z", "sinceSeconds": "1"},
        {"stream": "stdin"},
    ],
)
def test_options_that_cannot_be_used(query):
    with pytest.raises(InputError) as caught:
        LogOptions.from_query(query, now=NOW)
    assert any(name in str(caught.value) for name in query)
