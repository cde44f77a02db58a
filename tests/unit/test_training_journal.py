"""The numbers of a run by step, each step once."""

from __future__ import annotations

from pathlib import Path

from aiinfra_lab.training.journal import Journal, read_journal


def test_a_run_that_resumes_says_each_step_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, enabled=True, step=0)
    for step in (10, 20, 30):
        journal.write(step=step, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while it wrote

    resumed = Journal(tmp_path, enabled=True, step=20)
    for step in (30, 40):
        resumed.write(step=step, loss=2.0)

    assert [(e["step"], e["loss"]) for e in read_journal(tmp_path)] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
        (40, 2.0),
    ]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    Journal(tmp_path, enabled=False, step=0).write(step=1, loss=1.0)

    assert not list(tmp_path.iterdir())
