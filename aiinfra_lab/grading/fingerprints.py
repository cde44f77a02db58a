"""What an answer does, as fingerprints, whatever names, comments and layout say.

An answer becomes a sequence of tokens that keeps what a program does and drops how it is dressed:
names and literals become one symbol each; comments, docstrings, annotations, line breaks and
brackets vanish. Of the hashes of all k-grams, *winnowing* keeps the least of each window of w
(Schleimer, Wilkerson, Aiken, "Winnowing: local algorithms for document fingerprinting", SIGMOD
2003). With k = 6 and w = 4, two answers that share t = k + w - 1 = 9 tokens in a row share a
fingerprint, and runs shorter than 6 tokens never count.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import io
import keyword
import re
import tokenize
import warnings

K, W = 6, 4
# Longer answers are cut: nobody writes so much by hand, and a stranger must not stop the clock.
_MOST_CHARACTERS = 60_000

_BUILTINS = frozenset(dir(builtins))
_METHODS = frozenset(
    name for kind in (str, bytes, list, dict, set, tuple) for name in dir(kind) if name[0] != "_"
)
_DROPPED = frozenset("(),:;")
_LAYOUT = frozenset(
    getattr(tokenize, name)
    for name in ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENCODING", "ENDMARKER")
)
# From Python 3.12 on, an f-string is several tokens.
_STRINGS = (tokenize.STRING, getattr(tokenize, "FSTRING_START", tokenize.STRING))
_INSIDE_STRINGS = tuple(
    getattr(tokenize, name, tokenize.STRING) for name in ("FSTRING_MIDDLE", "FSTRING_END")
)
_MAGIC = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)

Fingerprints = frozenset[int]


def fingerprints(source: str, k: int = K, w: int = W) -> Fingerprints:
    """The fingerprints that winnowing keeps of one answer; none of fewer than ``k`` tokens."""
    hashes = _hashes(tokens(source), k)
    windows = (hashes[i : i + w] for i in range(max(1, len(hashes) - w + 1)))
    return frozenset(min(window) for window in windows if window)


def all_marks(source: str) -> Fingerprints:
    """Every hash: what was given must be known whichever of them is kept elsewhere."""
    return frozenset(_hashes(tokens(source), K))


def _hashes(sequence: list[str], k: int) -> list[int]:
    # Not hash(): it differs from process to process, and with it what is kept.
    return [
        int.from_bytes(
            hashlib.blake2b(" ".join(sequence[i : i + k]).encode(), digest_size=8).digest(), "big"
        )
        for i in range(len(sequence) - k + 1)
    ]


# ---- tokens


def tokens(source: str) -> list[str]:
    """What the source does, as symbols; code that does not parse is read as far as it goes."""
    text = _MAGIC.sub("pass", source[:_MOST_CHARACTERS])
    try:
        with warnings.catch_warnings():
            # Python warns of an unknown escape in a string; it is not ours to say.
            warnings.simplefilter("ignore")
            text = ast.unparse(_Undressed().visit(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # half-finished code is still somebody's
    return _symbols(text)


class _Undressed(ast.NodeTransformer):
    """Takes off annotations, and makes an f-string a string."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.copy_location(ast.Constant(""), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _symbols(text: str) -> list[str]:
    """One symbol a token; from where the tokenizer gives up, one a word."""
    found: list[str] = []
    owner = before = ""  # the last two tokens, as they were written
    statement, docstring = True, False  # one begins here; a string is all of it
    row = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            row = token.end[0]
            if token.type in _LAYOUT:
                if token.type == tokenize.NEWLINE and docstring:
                    found.pop()
                statement = statement or token.type == tokenize.NEWLINE
                continue
            docstring = statement and token.type == tokenize.STRING
            statement = False
            found += _symbol(token, owner if before == "." else None)
            owner, before = before, token.string
    except (tokenize.TokenError, SyntaxError, ValueError):
        found += _words("\n".join(text.split("\n")[row:]))
    return found


def _symbol(token: tokenize.TokenInfo, owner: str | None) -> list[str]:
    if token.type == tokenize.NAME:
        return [] if token.string == "pass" else [_name(token.string, owner)]
    if token.type == tokenize.NUMBER:
        return ["0"]
    if token.type in _STRINGS:
        return ["''"]
    if token.type in _INSIDE_STRINGS:
        return []
    return [] if token.string in _DROPPED else [token.string]


def _name(text: str, owner: str | None) -> str:
    """A word of the language or a method of its types is itself; what can be renamed is ``N``."""
    if keyword.iskeyword(text):
        return text
    if owner is None:
        return text if text in _BUILTINS else "N"
    return text if text in _METHODS and owner != "self" else "N"


def _words(text: str) -> list[str]:
    found = re.findall(r"[^\W\d]\w*|\d+|[^\w\s]", re.sub(r"#.*", "", text))
    return [
        _name(word, None)
        if word[0].isalpha() or word[0] == "_"
        else "0"
        if word.isdigit()
        else word
        for word in found
        if word not in _DROPPED
    ]
