"""Similarity: disguised copies are found, independent right answers are left alone."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import itertools
import random
import time
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from independent_answers import SECOND, THIRD

from aiinfra_lab.course.judgement import is_check
from aiinfra_lab.course.masters import grade_id, is_answer, released
from aiinfra_lab.course.notebooks import code_cells, read_notebook
from aiinfra_lab.grading.fingerprints import K, W, fingerprints, tokens
from aiinfra_lab.grading.similarity import ALIKE, EVIDENCE, SimilarPair, similar_pairs

ROOT = Path(__file__).resolve().parents[2]
MASTER = read_notebook(ROOT / "solutions" / "03_circuit_breaker.ipynb")
OWN = {grade_id(cell): cell["source"] for cell in code_cells(MASTER) if is_answer(cell)}
# The check cells are given too, but nobody starts from them, and reading them takes most time.
GIVEN = [c["source"] for c in code_cells(released(MASTER)) if not is_check(c)]


def _lab03_answers():
    path = ROOT / "tests" / "notebooks" / "lab03_answers.py"
    spec = importlib.util.spec_from_file_location("lab03_answers_for_similarity", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ANSWERS = _lab03_answers()
INDEPENDENT = {
    "master": OWN,
    "another way": ANSWERS.ANOTHER_WAY,
    "second": SECOND,
    "third": THIRD,
}


def score(one: str, other: str, given=GIVEN) -> float:
    """The score of two answers to one cell, however low; 0 where they share nothing."""
    pairs = similar_pairs({"a": {"x": one}, "b": {"x": other}}, given, alike=0, evidence=0)
    return pairs[0].cells[0].score if pairs else 0.0


def found(one: str, other: str, given=GIVEN) -> bool:
    return bool(similar_pairs({"a": {"x": one}, "b": {"x": other}}, given))


# --- disguises -----------------------------------------------------------------------------------


class Renamed(ast.NodeTransformer):
    """Every name that a program may choose gets another."""

    def _new(self, name: str) -> str:
        return (
            name
            if name == "self" or hasattr(builtins, name) or name.startswith("__")
            else f"v{zlib.crc32(name.encode())}"
        )

    def visit_Name(self, node):
        return ast.Name(self._new(node.id), node.ctx)

    def visit_arg(self, node):
        return ast.arg(self._new(node.arg))

    def visit_Attribute(self, node):
        self.generic_visit(node)
        own = isinstance(node.value, ast.Name) and node.value.id == "self"
        return ast.Attribute(node.value, self._new(node.attr) if own else node.attr, node.ctx)

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.name = self._new(node.name)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef


def renamed(source: str) -> str:
    return ast.unparse(Renamed().visit(ast.parse(source)))


def reordered(source: str) -> str:
    """The functions of the module and the methods of each class, the last one first."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef)):
            node.body.reverse()
    return ast.unparse(tree)


def commented(source: str) -> str:
    """A comment behind every line that can have one, empty lines between, wider indents."""
    lines = []
    for number, line in enumerate(ast.unparse(ast.parse(source)).splitlines()):
        indent = len(line) - len(line.lstrip())
        lines += [" " * (2 * indent) + line.strip() + f"  # step {number}, my own idea", ""]
    return "\n".join(lines)


def annotated(source: str) -> str:
    """Docstrings and annotations everywhere, and no literal as it was."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = ast.Name("object")
            node.body.insert(0, ast.Expr(ast.Constant("What I thought of myself.")))
            for arg in node.args.args:
                arg.annotation = ast.Name("int")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value += "!"
    return ast.unparse(ast.fix_missing_locations(tree))


def padded(source: str) -> str:
    """With functions in front that nobody calls."""
    idle = (
        "def helper{0}(a, b):\n    c = [a for a in range(b) if a % {0}]\n    return sum(c) or b\n"
    )
    return "\n".join(idle.format(n) for n in range(2, 5)) + source


@pytest.mark.parametrize("cell", OWN)
@pytest.mark.parametrize("disguise", [renamed, reordered, commented, annotated, padded])
def test_a_disguised_copy_is_found(disguise, cell):
    source = OWN[cell]
    copy = disguise(source)
    assert copy != source
    assert score(source, copy) >= (0.75 if disguise is reordered else 0.9)
    assert found(source, copy)


@pytest.mark.parametrize("cell", OWN)
@pytest.mark.parametrize("disguise", [renamed, commented, annotated])
def test_names_layout_comments_docstrings_annotations_and_literals_are_nothing(disguise, cell):
    assert tokens(disguise(OWN[cell])) == tokens(OWN[cell])


@pytest.mark.parametrize("cell", OWN)
def test_all_disguises_at_once_are_found(cell):
    copy = commented(annotated(reordered(renamed(OWN[cell]))))
    assert found(OWN[cell], copy)


def _edited(wrong) -> str:
    source = OWN[wrong.exercise]
    for old, new in wrong.edits.items():
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize("wrong", ANSWERS.WRONG, ids=lambda w: f"{w.exercise}: {w.mistake}")
def test_a_copy_with_one_idea_changed_is_found(wrong):
    assert score(OWN[wrong.exercise], _edited(wrong)) >= 0.7
    assert found(OWN[wrong.exercise], _edited(wrong))


# --- independent answers -------------------------------------------------------------------------


@pytest.mark.parametrize("cell", OWN)
@pytest.mark.parametrize("pair", list(itertools.combinations(INDEPENDENT, 2)), ids=" and ".join)
def test_two_independent_right_answers_stay_far_below_the_threshold(pair, cell):
    one, other = (INDEPENDENT[name][cell] for name in pair)
    assert score(one, other) <= 0.3 < ALIKE
    assert not found(one, other)


def test_a_class_of_independent_learners_has_no_pairs():
    assert similar_pairs(INDEPENDENT, GIVEN) == []


def test_short_answers_are_alike_by_chance_and_are_not_reported():
    half = "def half(x):\n    return x / 2 if x else 0"
    assert score(half, renamed(half)) == 1.0
    assert not found(half, renamed(half))


def test_what_everybody_was_given_counts_for_nothing():
    crowd = next(c["source"] for c in code_cells(MASTER) if c["id"] == "crowd")
    assert found(crowd, crowd, given=())
    assert not found(crowd, crowd)
    assert fingerprints(GIVEN[0]) <= fingerprints(GIVEN[0])
    blank = {grade_id(c): c["source"] for c in code_cells(released(MASTER)) if is_answer(c)}
    assert similar_pairs({"a": blank, "b": blank}, GIVEN) == []


# --- a class -------------------------------------------------------------------------------------

LINES = [
    "total = sum(row[{0}] for row in table if row[{0}] is not None)",
    "while queue and queue[0][{0}] < limit - {0}:\n        queue.pop()",
    "names = sorted(set(n.strip().lower() for n in lines[{0}:]), key=len)",
    "if not isinstance(value, (int, float)) or value < {0}:\n        raise ValueError(value)",
    "best = max(best, abs(left - right) ** {0} / (1 + count))",
    "for index, (key, item) in enumerate(found.items(), {0}):\n        out[key] = item * index",
    "try:\n        data = open(path).read({0})\n    except OSError as error:\n        return error",
    "with lock:\n        shared[{0}] += 1; seen.add((key, shared[{0}]))",
    "result = [x ^ y | z for x, y, z in zip(a, b[::-1], c) if x & ~y]",
    "return {{k: v for k, v in pairs if v[-{0}] != k[0]}}, not found, +x // y",
    "assert lo <= mid < hi, f'{0}'; lo, hi = (mid + 1, hi) if a[mid] < x else (lo, mid)",
    "async for chunk in reader:\n        buffer += chunk[: {0} - len(buffer)]",
]


def program(draw: random.Random, lines: int = 14) -> str:
    """A program like nobody else's: lines of many kinds in an order of its own."""
    body = (draw.choice(LINES).format(draw.randint(1, 9)) for _ in range(lines))
    return "async def work(a, b, c):\n    " + "\n    ".join(body)


def test_what_nearly_everybody_shares_counts_little():
    draw = random.Random(5)
    common = OWN["window"] + "\n"
    classes = {
        size: {f"s{n}": {"x": (common if n < sharing else "") + program(draw)} for n in range(size)}
        for size, sharing in ((30, 30), (31, 2))
    }
    marks = fingerprints(common)
    few = similar_pairs(classes[31], alike=0.2)
    assert {(p.first, p.second) for p in few} >= {("s0", "s1")}
    many = similar_pairs(classes[30], alike=0, evidence=1)
    by_all = next(p for p in many if (p.first, p.second) == ("s0", "s1"))
    by_two = next(p for p in few if (p.first, p.second) == ("s0", "s1"))
    assert len(marks) > 15
    assert by_all.cells[0].evidence < 0.5 * by_two.cells[0].evidence


def test_cells_are_named_and_the_pairs_that_share_most_come_first():
    classroom = {
        "ada": OWN,
        "bob": SECOND | {"window": renamed(OWN["window"])},
        "eve": {cell: renamed(source) for cell, source in THIRD.items()},
        "mel": THIRD,
    }
    pairs = similar_pairs(classroom, GIVEN)
    assert [(p.first, p.second) for p in pairs] == [("eve", "mel"), ("ada", "bob")]
    assert {match.cell for match in pairs[0].cells} == set(OWN)
    assert pairs[0].score > 0.95
    assert [match.cell for match in pairs[1].cells] == ["window"]
    assert pairs[1].score < ALIKE
    assert pairs[1].cells[0].score == 1.0
    assert pairs[1].cells[0].evidence >= EVIDENCE


def test_much_code_in_common_comes_before_a_high_share_of_little():
    classroom = {
        "ada": OWN,
        "bob": SECOND | {name: OWN[name] for name in ("window", "predicates")},
        "eve": {"jitter": THIRD["jitter"]},
        "mel": {"jitter": renamed(THIRD["jitter"])},
    }
    (most, least) = similar_pairs(classroom, GIVEN)
    assert ((most.first, most.second), (least.first, least.second)) == (
        ("ada", "bob"),
        ("eve", "mel"),
    )
    assert most.score < least.score == 1.0


def test_an_answer_that_was_not_handed_in_is_nobodys():
    assert similar_pairs({"ada": OWN, "bob": {}, "eve": {"window": ""}}) == []


def test_the_same_class_gives_the_same_pairs_in_any_order():
    classroom = {"ada": OWN, "bob": SECOND, "eve": OWN}
    turned = dict(reversed(classroom.items()))

    def unordered(pairs: list[SimilarPair]):
        return [(frozenset((p.first, p.second)), p.score, p.cells) for p in pairs]

    assert unordered(similar_pairs(classroom)) == unordered(similar_pairs(turned))


def test_two_hundred_submissions_take_seconds():
    draw = random.Random(7)
    cells = [f"cell-{n}" for n in range(6)]
    classroom = {f"s{n}": {cell: program(draw, 6) for cell in cells} for n in range(200)}
    classroom["s150"] = {cell: renamed(source) for cell, source in classroom["s7"].items()}
    began = time.process_time()
    pairs = similar_pairs(classroom)
    assert (pairs[0].first, pairs[0].second) == ("s7", "s150")
    assert time.process_time() - began < 60  # some seconds; the limit is for a crowded machine


# --- code that does not parse --------------------------------------------------------------------


def test_an_unfinished_copy_is_found():
    broken = renamed(OWN["slow-calls"]) + "\n    def unfinished(self, (\n        return"
    with pytest.raises(SyntaxError):
        ast.parse(broken)
    assert score(OWN["slow-calls"], broken) > ALIKE


def test_a_copy_that_no_tokenizer_reads_is_found_by_its_words():
    broken = "'''\n" + OWN["window"]
    assert score(broken, broken.replace("self.ring", "self.kreis").replace("place", "ort")) > ALIKE


def test_a_magic_line_does_not_disguise_a_copy():
    assert tokens("%load_ext autoreload\n!ls\n" + OWN["window"]) == tokens(OWN["window"])


def test_what_python_says_of_a_strangers_string_is_not_shown():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tokens("x = '\\d'")
    assert said == []


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\0",
        "x = " + "(" * 5_000,
        "x = " + "-" * 50_000 + "1",
        "x = 1" + " + 1" * 15_000,
        "a" + ".b" * 25_000,
        "x = " + "9" * 5_000,
        "if 1:\n" + "".join(" " * n + "if 1:\n" for n in range(1, 150)),
        "\ud800 = 1",
        "x = '\\d'",
        "    unexpected\n  indent",
        "lambda: " * 8_000,
        "{" * 3_000 + "'" + "\\" * 99,
        "é = 'ü' # ß\n\x0c\v\u2028",
        "\r" * 1_000,
    ],
    ids=range(15),
)
def test_no_source_stops_the_reading(source):
    assert isinstance(tokens(source), list)
    similar_pairs({"a": {"x": source}, "b": {"x": source}})


@law(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_text_is_read(text):
    assert fingerprints(text) == fingerprints(text)


# --- the guarantee of winnowing ------------------------------------------------------------------

SYMBOLS = list("+-*/&|^~<>=@[]{}")


@law(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_a_run_of_k_plus_w_minus_1_tokens_always_leaves_a_fingerprint(draw):
    def noise(count):
        return [draw.choice(SYMBOLS) for _ in range(count)]

    run = noise(K + W - 1)
    one, other = (" ".join(noise(draw.randint(0, 30)) + run + noise(20)) for _ in range(2))
    # No Python: read word by word, one symbol a token.
    assert fingerprints(one) & fingerprints(other)


def test_less_than_k_tokens_leave_none():
    assert fingerprints("+ - * / %") == frozenset()
    assert len(fingerprints("+ - * / % &")) == 1
