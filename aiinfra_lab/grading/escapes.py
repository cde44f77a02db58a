"""Text from strangers made fit to be looked at: nothing in it moves, hides or overwrites.

Escaping for HTML is not enough. A right-to-left mark turns a line round, a zero-width space makes
two names look like one, a heap of combining marks covers the lines above, a null character is
refused by XML. Each is replaced by a sign that can be seen.
"""

from __future__ import annotations

import re
import unicodedata

# Categories: control, format, surrogate, private use, unassigned, line and paragraph separator.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Letters and a symbol that are drawn as nothing.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_MARKS = frozenset(("Mn", "Me"))
# More in a row than any script needs.
_MOST_MARKS = 3
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")


def visible(text: str) -> str:
    """``text`` with every character that acts instead of showing replaced by one that shows.

    New lines and tabs stay; ``\\r\\n`` is a new line. Lone surrogates, which cannot be written as
    UTF-8, are replaced too.

    Examples
    --------
    >>> visible("a\\x1b[2J\\u202eb")
    'a⟨U+001B⟩[2J⟨U+202E⟩b'
    """
    text = text.replace("\r\n", "\n")
    return text if _PLAIN.fullmatch(text) else "".join(_shown(text))


def _shown(text: str) -> list[str]:
    found = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        if character in "\n\t":
            found.append(character)
        elif category in _UNSEEN or character in _BLANK:
            # Not the pictures of U+2400: many fonts lack them.
            found.append(f"⟨U+{ord(character):04X}⟩")
        elif marks <= _MOST_MARKS:
            found.append(character)
    return found


def cut(text: str, most: int) -> str:
    """At most ``most`` characters of ``text``, and how many were left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]} … ({len(text) - most:,} more characters)"
