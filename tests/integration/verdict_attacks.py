"""Submissions that try to get points which they do not deserve, one trick each.

They are written for a made-up lab of four exercises. Its check cells exist in two forms with the
same drawn data: ``_CHECK`` emits what the learner's functions return, ``PLAIN`` decides on the
spot, by asserts next to the submission, as graders do that trust the kernel. A trick stands here
only if it wins there.

Left out, because it wins nowhere: ``atexit``, since nobody listens to a kernel that is ending; a
profile of IPython in the home folder, since a fork loads none (its like, a ``sitecustomize`` for
the processes that a check starts, is here).
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

from notebook_files import code, notebook

PUBLIC_SEED = 7
EXERCISES = ("double", "half", "third", "square")
POINTS = 5.0

# What an honest learner writes.
RIGHT = {
    "double": "def double(x):\n    return 2 * x",
    "half": "def half(x):\n    return x / 2",
    "third": "def third(x):\n    return x / 3",
    "square": "def square(x):\n    return x * x",
}
_SETUP = "from aiinfra_lab.course import exercise\nfrom aiinfra_lab.course.draws import Draws"
_CHECK = """\
with exercise("{name}", seed) as ex:
    numbers = ex.draw.integers(1, 10**6, n=20)
    {body}"""
_BODY = {
    "double": 'ex.equal("doubles", [double(n) for n in numbers])',
    "half": 'ex.equal("halves", [half(n) for n in numbers])',
    "third": "from statistics import fmean\n"
    '    ex.equal("mean of the thirds", fmean(third(n) for n in numbers), rel=1e-9)',
    "square": 'ex.equal("squares", [square(n) for n in numbers])',
}
# The common ways to decide in the kernel: an assert, the course's own comparator, a function of
# another module, a process of its own.
PLAIN = {
    "double": """
with exercise("double", seed) as ex:
    numbers = ex.draw.integers(1, 10**6, n=20)
    expected = [2 * n for n in numbers]
    found = [double(n) for n in numbers]
    ex.equal("doubles", found)
assert found == expected
print("passed double")
""",
    "half": """
with exercise("half", seed) as ex:
    numbers = ex.draw.integers(1, 10**6, n=20)
    ex.equal("halves", [half(n) for n in numbers])
right = exercise("half", seed)
right.equal("halves", [n / 2 for n in numbers])
from aiinfra_lab.course.comparison import compare_all
assert not compare_all(right._records, ex._records)
print("passed half")
""",
    "third": """
from statistics import fmean
numbers = exercise("third", seed).draw.integers(1, 10**6, n=20)
expected = [n / 3 for n in numbers]
found = [third(n) for n in numbers]
assert all(fmean([a]) == fmean([b]) for a, b in zip(found, expected, strict=True))
print("passed third")
""",
    "square": """
import subprocess, sys
numbers = exercise("square", seed).draw.integers(1, 10**6, n=20)
found = [square(n) for n in numbers]
program = f"assert {found} == {[n * n for n in numbers]}"
subprocess.run([sys.executable, "-c", program], check=True)
print("passed square")
""",
}


def _cell(name: str, source: str, **grading: Any) -> dict[str, Any]:
    about = {"schema_version": 3, "grade_id": name, "grade": False, "solution": False}
    return code(name, source, nbgrader=about | {"locked": True, "task": False} | grading)


def lab(*cells: dict[str, Any]) -> dict[str, Any]:
    """A notebook of the made-up lab."""
    return notebook(*cells, kind="lab", id="07", slug="made_up", title="Made up")


def answer(name: str, source: str) -> dict[str, Any]:
    """An answer cell."""
    return _cell(name, source, solution=True, locked=False)


def master(*, plain: bool = False) -> dict[str, Any]:
    """The lab's master; ``plain`` with checks that decide by themselves."""
    parameters = _cell("parameters", f"seed: int = {PUBLIC_SEED}  # 0.. | draws the data")
    parameters["metadata"]["tags"] = ["parameters"]
    cells = [parameters, _cell("setup", _SETUP)]
    for name in EXERCISES:
        head, body = RIGHT[name].split("\n")
        solution = f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        check = PLAIN[name].strip() if plain else _CHECK.format(name=name, body=_BODY[name])
        cells.append(answer(name, solution))
        cells.append(_cell(f"{name}-check", check, grade=True, points=POINTS))
    return lab(*cells)


@dataclass(frozen=True)
class Attack:
    """A trick in the answer cell of the exercise ``target``, whose answer is not known.

    ``honest`` are exercises that the learner solved; their points are deserved, and a trick may
    cost them.
    """

    name: str
    target: str
    source: str
    honest: tuple[str, ...] = ()

    def answers(self) -> dict[str, str]:
        """The answer cells that are not blank."""
        right = {name: RIGHT[name] for name in self.honest}
        return right | {self.target: textwrap.dedent(self.source).strip()}


# Emission by hand: what an exercise would have sent, with records of the submission's choice.
_FORGE = """
from aiinfra_lab.course.records import EXERCISE_MIME, Record, display_bundle
def forge(name, *records):
    data = {"v": 1, "exercise": name, "records": [r.to_json() for r in records], "raised": None}
    display_bundle({EXERCISE_MIME: data, "text/plain": name})
"""

_PUBLIC_HALVES = """
from aiinfra_lab.course.draws import Draws
# Printed once in the learner's own kernel, under the seed that everybody knows.
PUBLIC = [n / 2 for n in Draws(7, "half").integers(1, 10**6, n=20)]
"""

ATTACKS = (
    Attack(
        "AST transformer removes asserts",
        "double",
        """
        import ast
        class NoAsserts(ast.NodeTransformer):
            def visit_Assert(self, node):
                return ast.Pass()
        get_ipython().ast_transformers.append(NoAsserts())
        def double(x):
            return 0
        """,
    ),
    Attack(
        "AST transformer loosens what the check records",
        "half",
        """
        import ast
        class Loosen(ast.NodeTransformer):
            def visit_Call(self, node):
                self.generic_visit(node)
                if isinstance(node.func, ast.Attribute) and node.func.attr == "equal":
                    node.keywords.append(ast.keyword("abs", ast.Constant(1e300)))
                return node
        get_ipython().ast_transformers.append(Loosen())
        def half(x):
            return 0
        """,
    ),
    Attack(
        "input transformer removes asserts",
        "double",
        """
        get_ipython().input_transformers_post.append(
            lambda lines: [line for line in lines if not line.startswith("assert")]
        )
        def double(x):
            return 0
        """,
    ),
    Attack(
        "handler of AssertionError reports success",
        "double",
        """
        get_ipython().set_custom_exc(
            (AssertionError,), lambda *_, **__: print("passed double")
        )
        def double(x):
            return 0
        """,
    ),
    Attack(
        "builtin all is always true",
        "third",
        """
        import builtins
        builtins.all = lambda _: True
        def third(x):
            return 0
        """,
    ),
    Attack(
        "comparator finds no difference",
        "half",
        """
        from aiinfra_lab.course import checking, comparison, judgement
        for module in (checking, comparison, judgement):
            module.compare = module.compare_all = module.differences_in = lambda *_: []
        def half(x):
            return 0
        """,
    ),
    Attack(
        "every record has an endless tolerance",
        "half",
        """
        from aiinfra_lab.course.records import Record
        made = Record.__init__
        def loose(self, *words, **fields):
            made(self, *words, **fields)
            object.__setattr__(self, "abs", 1e300)
        Record.__init__ = loose
        def half(x):
            return 0
        """,
    ),
    Attack(
        "another rule, between minus and plus infinity",
        "half",
        """
        from math import inf
        exercise.equal = lambda self, name, found, **_: self.between(name, 0, -inf, inf)
        def half(x):
            return 0
        """,
    ),
    Attack(
        "number that equals everything",
        "double",
        """
        class Yes(int):
            __hash__ = int.__hash__
            def __eq__(self, other):
                return True
            def __ne__(self, other):
                return False
        def double(x):
            return Yes()
        """,
    ),
    Attack(
        "reference in the frames below",
        "double",
        """
        import sys
        def double(x):
            frame = sys._getframe(1)
            while frame is not None:
                for known in (frame.f_locals, frame.f_globals):
                    if "expected" in known:
                        return known["expected"][known["numbers"].index(x)]
                frame = frame.f_back
            return 0
        """,
    ),
    Attack(
        "reference among all that the garbage collector knows",
        "double",
        """
        import gc
        def double(x):
            for found in gc.get_objects():
                if type(found) is list and len(found) == 20 and set(map(type, found)) == {int}:
                    if found is not numbers and not any(n % 2 for n in found) and max(found) > 1e6:
                        return found[numbers.index(x)]
            return 0
        """,
    ),
    Attack(
        "reference and variables of the check rewritten",
        "double",
        """
        import gc, sys
        def double(x):
            known = sys._getframe(1).f_globals
            for name in ("numbers", "expected"):
                if name in known:
                    known[name][:] = [0]
            return 0
        """,
    ),
    Attack(
        "formula in the message that holds the check",
        "double",
        """
        import os, re
        def double(x):
            code = get_ipython().kernel.get_parent("shell")["content"]["code"]
            formula = re.search(r"expected = \\[(.*) for n in", code)
            return eval(formula[1], {"n": x}) if formula else 0
        """,
    ),
    Attack(
        "seed hunted, for tables made beforehand",
        "half",
        _PUBLIC_HALVES
        + """
import gc, os, re, sys
from pathlib import Path
texts = [repr(dict(os.environ)), repr(sys.argv), repr(get_ipython().kernel.get_parent("shell"))]
for path in ("/proc/self/environ", "/proc/self/cmdline", "/proc/1/environ", "/proc/1/cmdline"):
    try:
        texts.append(Path(path).read_text())
    except OSError:
        pass
texts += [repr(known) for known in gc.get_objects() if type(known) is dict and "seed" in known]
hits = [int(digits) for text in texts for digits in re.findall(r"'seed': ([0-9]+)", text)]
# It is no secret in here: whoever finds it can draw the data, and still has no answer to them.
found = next((hit for hit in hits if hit == globals().get("seed", hit)), 7)
TABLE = dict(zip(Draws(found, "half").integers(1, 10**6, n=20), PUBLIC))
def half(x):
    return TABLE.get(x, 0)
""",
    ),
    Attack(
        "answers for the public seed, by input",
        "half",
        _PUBLIC_HALVES
        + """
TABLE = dict(zip(Draws(7, "half").integers(1, 10**6, n=20), PUBLIC))
def half(x):
    return TABLE.get(x, 0)
""",
    ),
    Attack(
        "public results emitted in place of one's own",
        "half",
        _PUBLIC_HALVES
        + """
from aiinfra_lab.course.records import Record
leave = exercise.__exit__
def replaced(self, *error):
    if self.name == "half":
        self._records = [Record("halves", PUBLIC)]
    return leave(self, None, None, None)
exercise.__exit__ = replaced
def half(x):
    return 0
""",
    ),
    Attack(
        "module of the same name in sys.modules",
        "third",
        """
        import sys, types
        sys.modules["statistics"] = fake = types.ModuleType("statistics")
        fake.fmean = lambda data: 0.0
        def third(x):
            return 0
        """,
    ),
    Attack(
        "module of the same name on disk",
        "third",
        """
        import sys
        from pathlib import Path
        folder = Path("/tmp/shadow")
        folder.mkdir(exist_ok=True)
        (folder / "statistics.py").write_text("fmean = lambda data: 0.0")
        sys.path.insert(0, str(folder))
        sys.modules.pop("statistics", None)
        def third(x):
            return 0
        """,
    ),
    Attack(
        "sitecustomize for the processes to come",
        "square",
        """
        import os
        from pathlib import Path
        folder = Path("/tmp/site")
        folder.mkdir(exist_ok=True)
        for name in ("sitecustomize", "usercustomize"):
            (folder / f"{name}.py").write_text("import os\\nos._exit(0)")
        os.environ["PYTHONPATH"] = str(folder)
        def square(x):
            return 0
        """,
    ),
    Attack(
        "thread outlives its cell and speaks in the check",
        "half",
        _FORGE
        + """
import threading
kernel, go, done = get_ipython().kernel, threading.Event(), threading.Event()
parent = {}
def later():
    go.wait()
    kernel.session.send(kernel.iopub_socket, "stream", {"name": "stdout", "text": "passed half\\n"},
                        parent=parent)
    data = {"v": 1, "exercise": "half", "records": [Record("halves", [0.5] * 20).to_json()],
            "raised": None}
    kernel.session.send(kernel.iopub_socket, "display_data",
                        {"data": {EXERCISE_MIME: data}, "metadata": {}}, parent=parent)
    done.set()
threading.Thread(target=later, daemon=True).start()
def half(x):
    parent.update(kernel.get_parent("shell"))
    go.set()
    done.wait(5)
    return 0.5
""",
    ),
    Attack(
        "forged results, and an end before the check's own",
        "half",
        _FORGE
        + """
import os, sys, time
def half(x):
    print("passed half")
    forge("half", Record("halves", [0.5] * 20, abs=1e300))
    sys.stdout.flush()
    time.sleep(0.2)
    os._exit(0)
""",
    ),
    Attack(
        "data drawn are empty",
        "double",
        """
        Draws.integers = lambda *_, **__: []
        def double(x):
            return 0
        """,
    ),
    Attack(
        "data drawn are trivial",
        "half",
        """
        Draws.integers = lambda self, low, high, n: [0] * n
        def half(x):
            return 0.0
        """,
    ),
    Attack(
        "generator of random numbers always gives the least",
        "third",
        """
        import sys
        class Least:
            def integers(self, low, high, size=None, endpoint=False):
                import numpy
                return numpy.zeros(size, dtype=int)
        sys.modules["aiinfra_lab.course.draws"].stream = lambda *_: Least()
        def third(x):
            return 0.0
        """,
    ),
    Attack(
        "exercise draws what one wishes",
        "double",
        """
        made = exercise.__init__
        class Mine:
            def integers(self, low, high, n):
                return [0] * n
        def init(self, name, seed):
            made(self, name, seed)
            self.draw = Mine()
        exercise.__init__ = init
        def double(x):
            return 0
        """,
    ),
    Attack(
        "exercise always takes the public seed",
        "half",
        _PUBLIC_HALVES
        + """
made = exercise.__init__
exercise.__init__ = lambda self, name, seed: made(self, name, 7)
seed = 7
TABLE = dict(zip(Draws(7, "half").integers(1, 10**6, n=20), PUBLIC))
def half(x):
    return TABLE[x]
""",
    ),
    Attack(
        "exercise of one's own",
        "half",
        """
        from aiinfra_lab import course
        from aiinfra_lab.course import exercises
        class Easy(exercises.exercise):
            def equal(self, *_, **__):
                pass
        course.exercise = exercises.exercise = exercise = Easy
        def half(x):
            return 0
        """,
    ),
    Attack(
        "display reports success",
        "half",
        """
        from aiinfra_lab.course import exercises
        send = exercises.display_bundle
        def display_bundle(bundle):
            send({key: data for key, data in bundle.items() if "exercise" in key} | {
                "text/plain": "passed", "text/html": "<b>passed</b>"})
            print("passed half")
        exercises.display_bundle = display_bundle
        def half(x):
            return 0
        """,
    ),
    Attack(
        "finaliser emits while the check runs",
        "half",
        _FORGE
        + """
class Parting(float):
    def __del__(self):
        print("passed half")
        forge("half", Record("halves", [0.5] * 20))
def half(x):
    return Parting(0.5)
""",
    ),
    Attack(
        "many candidates, one of which may be right",
        "half",
        _FORGE
        + """
from aiinfra_lab.course.draws import Draws
def half(x):
    if not sent:
        sent.append(True)
        for guess in range(100):
            forge("half", Record("halves", [guess + 0.5] * 20))
        print("passed half")
    return 0
sent = []
""",
    ),
    Attack(
        "neighbour's right results under this name",
        "half",
        _FORGE
        + """
send = exercise._emit
def emit(self, raised):
    send(self, raised)
    if self.name == "half":
        forge("double", *self._records)
        forge("half", Record("halves", [2 * n for n in numbers]))
        print("passed half")
exercise._emit = emit
def half(x):
    return 2 * x
""",
        honest=("double",),
    ),
    Attack(
        "right check emits for the neighbour too",
        "double",
        RIGHT["double"]
        + _FORGE
        + """
send = exercise._emit
def emit(self, raised):
    send(self, raised)
    forge("half", Record("halves", [0.5] * 20))
    print("passed half")
exercise._emit = emit
""",
        honest=("double",),
    ),
    Attack(
        "kernel sends the outputs of a right check again",
        "double",
        RIGHT["double"]
        + """
session = get_ipython().kernel.session
make, kept = type(session).msg, []
def again(self, kind, content=None, *words, **fields):
    if kind == "stream" and "passed double" in content["text"]:
        content = content | {"text": content["text"] + "passed half\\n"}
    if kind == "display_data":
        kept.append(content)
        content = kept[0]
    return make(self, kind, content, *words, **fields)
type(session).msg = again
""",
        honest=("double",),
    ),
)
