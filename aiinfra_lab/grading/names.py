"""Names that strangers chose, made fit for a table, a terminal and a file system."""

from __future__ import annotations

import re
import unicodedata

from aiinfra_lab.grading.escapes import cut, visible

MOST_CHARACTERS = 500
MOST_ID_BYTES = 120
_UNSAFE = re.compile(r'[/\\:*?"<>|]+')
# Windows reserves these, and results are unpacked there too.
_DEVICES = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)


def plain_text(text: str, most: int = MOST_CHARACTERS) -> str:
    """``text`` without what steers a terminal or turns the direction of writing, and not too long.

    Line ends stay.
    """
    return visible(cut(text, most)).replace("\t", " ")


def one_line(text: str) -> str:
    """``plain_text`` with its line ends and runs of blanks as single blanks."""
    return " ".join(plain_text(text).split())


def learner_id(text: str) -> str:
    """``text`` as an id that can be a file's name anywhere; empty where nothing is left."""
    name = unicodedata.normalize("NFC", text)
    name = "".join(c if visible(c) == c != "\n" else "_" for c in name)
    name = " ".join(_UNSAFE.sub("_", name).split()).lstrip(".").rstrip(". ")
    if _DEVICES.match(name):
        name = f"_{name}"
    while len(name.encode()) > MOST_ID_BYTES:
        name = name[:-1].rstrip(". ")
    return name


def folded(text: str) -> str:
    """A key under which two spellings of one name are equal: capitals, width and blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
