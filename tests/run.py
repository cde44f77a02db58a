"""The one test command: every tier that this machine can run, one after the other.

    python tests/run.py                  everything
    python tests/run.py unit notebooks   two tiers
    python tests/run.py unit -- -k clock the rest goes to pytest

Each tier leaves a JUnit file in test-output/, and a notebook that failed is left there as it ran.
A need that is missing is a skip with its reason, unless AIINFRA_REQUIRE names it: then it fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "test-output"
LIMIT_S = 60 * 60
SLOWEST = 25
# All cells of a notebook belong to one kernel, so a file is never split over workers.
SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile")


@dataclass(frozen=True)
class Tier:
    """Some commands; those that are pytest's are given as its arguments.

    ``asked`` first says run, skip or fail, why, and more arguments: for a tier that as a whole
    needs something, so that one line says so and not each of its tests.
    """

    name: str
    says: str
    pytest: tuple[tuple[str, ...], ...] = ()
    tools: tuple[tuple[str, ...], ...] = ()
    asked: Callable[[], tuple[str, str, tuple[str, ...]]] | None = None


def _of_kind() -> tuple[str, str, tuple[str, ...]]:
    import kind_tier  # not before it is asked: the other tiers need nothing of the package

    return kind_tier.verdict()


TIERS = (
    Tier(
        "static",
        "style, types and import layers",
        tools=(
            ("ruff", "check", "."),
            ("ruff", "format", "--check", "."),
            ("mypy", "--strict", "aiinfra_lab", "scripts/environment.py"),
            ("lint-imports",),
        ),
    ),
    Tier("unit", "only Python", pytest=(("tests/unit", "-p", "no:nbval", *SIDE_BY_SIDE),)),
    Tier(
        "integration", "real processes and kernels", pytest=(("tests/integration", *SIDE_BY_SIDE),)
    ),
    Tier(
        "kind",
        "the same cluster suite on containers",
        # One cluster serves all of its cases.
        pytest=(
            (
                "tests/integration/kube/conformance/test_conformance.py",
                *("-p", "aiinfra_lab.kube.pytest_plugin", "--kube-provider", "kind"),
            ),
        ),
        asked=_of_kind,
    ),
    Tier(
        "notebooks",
        "every notebook executed and compared, every lab proved",
        pytest=(
            ("--nbval", "notebooks", "solutions", "--aiinfra-keep", str(OUTPUT), *SIDE_BY_SIDE),
            ("tests/notebooks", *SIDE_BY_SIDE),
        ),
    ),
    Tier("e2e", "the product's own commands and a real browser", pytest=(("tests/e2e",),)),
)


@dataclass
class Result:
    """What came of a tier."""

    name: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    broken: list[str] = field(default_factory=list)
    cases: list[tuple[float, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failed and not self.broken


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the tiers of the test suite.",
        epilog="Example: tests/run.py unit -- -k clock",
    )
    names = [tier.name for tier in TIERS]
    parser.add_argument("tiers", nargs="*", help=f"some of {', '.join(names)}; all by default")
    before, after = _split(sys.argv[1:])
    wanted = parser.parse_args(before).tiers or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no tier {unknown[0]}; there is: {', '.join(names)}")
    OUTPUT.mkdir(exist_ok=True)
    for old in OUTPUT.iterdir():
        if old.suffix in (".xml", ".ipynb"):
            old.unlink()
    tree = _tree()
    begin = time.monotonic()
    results = [_run(tier, after) for tier in TIERS if tier.name in wanted]
    seconds = time.monotonic() - begin
    _report(results, seconds)
    clean = _tree() == tree
    if not clean:
        print(
            "tests/run.py: a test has changed the checkout; git status shows where", file=sys.stderr
        )
    if seconds > LIMIT_S:
        print(f"tests/run.py: the tests took more than {LIMIT_S // 60} minutes", file=sys.stderr)
    return 0 if clean and seconds <= LIMIT_S and all(result.ok for result in results) else 1


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _tree() -> str:
    """What git would call changed; nothing where there is no git."""
    done = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout


def _run(tier: Tier, extra: list[str]) -> Result:
    result = Result(tier.name)
    begin = time.monotonic()
    print(f"\n=== {tier.name}: {tier.says}", flush=True)
    verdict, why, more = tier.asked() if tier.asked else ("run", "", ())
    if verdict != "run":
        (result.broken if verdict == "fail" else result.reasons).append(f"{tier.name}: {why}")
        result.skipped += verdict == "skip"
        return result
    for command in tier.tools:
        _run_tool(command, result)
    for number, arguments in enumerate(tier.pytest):
        junit = OUTPUT / f"{tier.name}-{number}.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            *arguments,
            *more,
            "-q",
            "--junitxml",
            str(junit),
            *extra,
        ]
        status = subprocess.run(command, cwd=ROOT, env=_environment(), check=False).returncode
        _count(junit, result)
        # 5: nothing was selected, which is no failure where the user narrowed the selection.
        if status not in (0, 1) and not (status == 5 and extra):
            result.broken.append(f"pytest {arguments[0]} ended with {status}")
    result.seconds = time.monotonic() - begin
    return result


def _run_tool(command: tuple[str, ...], result: Result) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    result.passed += done.returncode == 0
    result.failed += done.returncode != 0
    if done.returncode:
        print(f"{' '.join(command)}\n{done.stdout}{done.stderr}", flush=True)


def _environment() -> dict[str, str]:
    # Two test processes on two cores: a numerical library with a thread a core would double that.
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **quiet, "AIINFRA_TEST_OUTPUT": str(OUTPUT), "AIINFRA_PROGRESS": "off"}


def _count(junit: Path, result: Result) -> None:
    if not junit.is_file():
        return
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}".lstrip(":")
        result.cases.append((float(case.get("time", 0)), name))
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        elif skipped is not None:
            result.skipped += 1
            result.reasons.append(f"{name}: {skipped.get('message', '')}")
        else:
            result.passed += 1


def _report(results: list[Result], seconds: float) -> None:
    cases = sorted((case for result in results for case in result.cases), reverse=True)
    print(f"\nThe {SLOWEST} slowest tests:")
    for duration, name in cases[:SLOWEST]:
        print(f"  {duration:7.2f} s  {name}")
    reasons = [reason for result in results for reason in result.reasons]
    if reasons:
        print("\nSkipped:", *reasons, sep="\n  ")
    print(f"\n{'tier':<12} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for result in results:
        counts = f"{result.passed:>7} {result.failed:>7} {result.skipped:>8}"
        print(f"{result.name:<12} {counts} {result.seconds:>8.1f}", *result.broken)
    total = [
        sum(getattr(result, key) for result in results) for key in ("passed", "failed", "skipped")
    ]
    print(f"{'all':<12} {total[0]:>7} {total[1]:>7} {total[2]:>8} {seconds:>8.1f}")
    print(f"\n{total[0]} passed, {total[1]} failed, {total[2]} skipped")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("tests/run.py: interrupted", file=sys.stderr)
        sys.exit(130)
