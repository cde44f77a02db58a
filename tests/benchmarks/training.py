"""What the training recipe costs beside the learning itself, and how it does beside its peers.

- *own cost*: the recipe's loop against forward, backward, step, on a model that costs next to
  nothing; as a share of a real step of ResNet-20, because no end-to-end time resolves a percent.
- *end to end*: ResNet-20 on the ranks of one torchrun, blocks in turn: the recipe, bare DDP,
  accelerate, Lightning Fabric, and one process with all the cores. Shown, not judged.
- *start*: from the command to the end of the first step, by ``aiinfra train``, by torchrun with
  the same ranks, and by torchrun with the shortest script.
- *stall*: what a loop loses while a state as large as ResNet-50's is saved, on a thread and not.

Believe the ratios before the times: the machine's load stands beside them. Threads of one process
wait for each other by spinning, so on a busy machine *one process, all cores* is many times slower.

Examples
--------
    python tests/benchmarks/training.py --quick
    python tests/benchmarks/training.py --json > training.json
    python tests/benchmarks/training.py --save         writes results/training.json
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import training_loops as loops
from peers import say
from publishing import options, publish

from aiinfra_lab.data import load_digits
from aiinfra_lab.measure import machine, paired_ratio, quantile, usable_cores
from aiinfra_lab.processes import Child
from aiinfra_lab.training import Checkpoints, Group, TrainStep, models
from aiinfra_lab.training.run_state import RunState

RESULT = Path(__file__).parent / "results" / "training.json"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
RANKS = 2
LIMIT_S = 900.0
# The shortest script that trains the same model on ranks.
PLAIN = """
import pathlib, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(1024, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss = torch.nn.functional.cross_entropy(model(torch.rand(32, 1, 32, 32)), torch.arange(32) % 10)
loss.backward()
optimizer.step()
if dist.get_rank() == 0:
    pathlib.Path(sys.argv[1]).touch()
dist.barrier()
dist.destroy_process_group()
"""


def alone() -> Group:
    """This process as the only rank."""
    return Group(0, 1, 0, 1, torch.device("cpu"), 0, 30.0, ("this",))


def spread(values: Sequence[float], unit: float = 1.0) -> dict[str, Any]:
    """The median with its interval, or with the extremes where the values are too few for one."""
    found = quantile(values, 0.5)
    low, high = max(found.low, min(values)), min(found.high, max(values))
    return {
        "median": round(unit * statistics.median(values), 3),
        "interval": [round(unit * low, 3), round(unit * high, 3)],
        "n": len(values),
    }


def seconds_a_step(
    loop: loops.Loop, steps: int, timer: Callable[[], float] = time.perf_counter
) -> float:
    began = timer()
    loop(steps)
    return (timer() - began) / steps


# ---- the recipe's own cost


def own_cost(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Microseconds a step over the bare loop, and the share of a real step that they are.

    Of the processor: all of it is one thread's work, and a busy machine does not lengthen that.
    """
    torch.set_num_threads(1)
    batch = loops.BATCH // RANKS
    data = loops.drawn()
    null, real = loops.Null(), models.build("resnet20")
    ours = loops.recipe(loops.Null(), data, alone(), folder / "null", batch=batch)
    bare = loops.bare(null, loops.sgd(null), data, batch)
    resnet = loops.bare(real, loops.sgd(real), data, batch)
    for loop in (ours, bare):
        loop(steps)
    over = []
    for done in range(rounds):
        pair = (bare, ours) if done % 2 else (ours, bare)
        seconds = {loop: seconds_a_step(loop, steps, time.process_time) for loop in pair}
        over.append((seconds[ours], seconds[bare]))
    resnet(2)
    real_s = [seconds_a_step(resnet, 1, time.process_time) for _ in range(max(10, rounds // 4))]
    step_s = statistics.median(real_s)
    cost = spread([one - other for one, other in over], 1e6)
    return {
        "bare_us": spread([other for _, other in over], 1e6),
        "over_bare_us": cost,
        "resnet20_step_ms": round(1e3 * step_s, 2),
        "percent_of_step": round(cost["median"] / (1e4 * step_s), 4),
        "parts_us": parts(folder / "parts", data, batch, rounds, steps),
    }


def parts(folder: Path, data: loops.Data, batch: int, rounds: int, steps: int) -> dict[str, float]:
    """Where it goes: pieces of the loop by themselves, medians; ``TrainStep`` with its learning."""
    group, model = alone(), loops.Null()
    optimizer = loops.sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    step, state = TrainStep(model, optimizer), RunState(group, model, optimizer, schedule)
    order = loops.BatchOrder(len(data[1]), batch, seed=6)
    batches = order.batches(1_000_000)
    pixels, labels, count = loops.share(first := next(batches), *data, group)
    sums = torch.ones(3, dtype=torch.float64)
    folder.mkdir(parents=True)
    journal = loops.Journal(folder, enabled=True, step=0)
    optimizer.step()
    pieces: dict[str, Callable[[], object]] = {
        "next batch": lambda: next(batches),
        "share": lambda: loops.share(first, *data, group),
        "TrainStep": lambda: step(pixels, labels, count=count, total=count),
        "schedule.step": schedule.step,
        "RunState.advance": lambda: state.advance(first, sums, ends_epoch=False),
        "journal, each 10th": lambda: journal.write(step=1, epoch=0, loss=0.5, accuracy=0.5),
    }
    found = {}
    for name, piece in pieces.items():
        blocks = []
        for _ in range(max(5, rounds // 10)):
            began = time.process_time()
            for _ in range(steps):
                piece()
            blocks.append((time.process_time() - began) / steps)
        found[name] = round(1e6 * statistics.median(blocks), 1)
    return found


# ---- end to end


def end_to_end(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Samples a second of each contestant, and ours as a multiple of its time."""
    folder.mkdir()
    file = Path(loops.__file__)
    words = [str(RANKS), str(file), str(rounds), str(steps), str(folder)]
    with Child([*TORCHRUN, *words], log=folder / "log", name="the contest") as child:
        child.wait(LIMIT_S, check=True)
    found = json.loads((folder / "contest.json").read_text("utf-8"))
    seconds: dict[str, list[float]] = found["seconds"]
    table: dict[str, Any] = {}
    for name, values in seconds.items():
        batch = loops.BATCH // RANKS if name == loops.ONE else loops.BATCH
        step = spread(values, 1e3)
        table[name] = {"step_ms": step, "samples_s": round(1e3 * batch / step["median"])}
        if name != loops.OURS:
            ours = paired_ratio(list(zip(seconds[loops.OURS], values, strict=True)))
            table[name]["ours_ratio"] = round(ours.value, 3)
            table[name]["interval"] = [round(ours.low, 3), round(ours.high, 3)]
    return {
        "ranks": found["world"],
        "threads_a_rank": found["threads"],
        "missing": found["missing"],
        "rounds": rounds,
        "steps_a_block": steps,
        "contestants": table,
        "log_all_reduce_us": round(1e6 * found["log_s"], 1),
    }


# ---- from the command to the first step


def start(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds until the first step is done, and the difference to torchrun with the same ranks."""
    folder.mkdir()
    script = folder / "plain.py"
    script.write_text(PLAIN, "utf-8")
    load_digits()  # so that no one of them finds the file in no cache
    train = ("--model", "mlp", "--epochs", "1", "--checkpoint-every", "1", "--out")
    number = str(RANKS)
    ways: dict[str, tuple[tuple[str, ...], str]] = {
        "aiinfra train": (
            (sys.executable, "-m", "aiinfra_lab.cli.main", "train", "--nproc", number, *train),
            "checkpoints/step-00000001",
        ),
        "torchrun, same ranks": (
            (*TORCHRUN, number, "-m", "aiinfra_lab.training", *train),
            "checkpoints/step-00000001",
        ),
        "torchrun, plain script": ((*TORCHRUN, number, str(script)), "first-step"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for done in range(rounds):
        for name in sorted(ways, reverse=bool(done % 2)):
            argv, mark = ways[name]
            out = folder / f"{done}-{name.replace(' ', '-')}"
            out.mkdir()
            place = out if mark != "first-step" else out / mark
            seconds[name].append(until((*argv, str(place)), out / mark, out / "log"))
        say(f"start: round {done + 1} of {rounds}")
    ours = seconds["aiinfra train"]
    return {
        name: {"seconds": spread(values)}
        | (
            {"ours_more_s": spread([a - b for a, b in zip(ours, values, strict=True)])}
            if values is not ours
            else {}
        )
        for name, values in seconds.items()
    }


def until(argv: Sequence[str], mark: Path, log: Path) -> float:
    """Seconds from the start of ``argv`` until ``mark`` is there; it is ended then."""
    env = os.environ | {"AIINFRA_PROGRESS": "off"}
    began = time.perf_counter()
    with Child(argv, log=log, env=env, grace=1.0) as child:
        while not mark.exists():
            if child.returncode is not None or time.perf_counter() - began > LIMIT_S:
                raise SystemExit(f"{mark.name} did not come; the last lines:\n{child.tail()}")
            time.sleep(0.005)
        return time.perf_counter() - began


# ---- the stall of a save


def stall(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds that a loop of ResNet-20 loses to a save, in the call and afterwards."""
    torch.set_num_threads(max(1, int(usable_cores()) // RANKS))
    large = models.build("resnet50")
    optimizer = loops.sgd(large)
    for parameter in large.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # now it has its momenta
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    state = RunState(alone(), large, optimizer, schedule)
    small = models.build("resnet20")
    loop = loops.bare(small, loops.sgd(small), loops.drawn(), loops.BATCH // RANKS)
    loop(3)
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for name, background in (("on a thread", True), ("in the loop", False)):
            checkpoints = Checkpoints(folder / name.split()[-1], keep=1, background=background)
            step_s = statistics.median(seconds_a_step(loop, 1) for _ in range(8))
            state.step = number
            began = time.perf_counter()
            state.save(checkpoints)
            call_s, steps = time.perf_counter() - began, 0
            while steps == 0 or any(one.name == "checkpoint" for one in threading.enumerate()):
                loop(1)
                steps += 1
            checkpoints.wait()
            lost = time.perf_counter() - began - steps * step_s
            row = found.setdefault(name, {"call_s": [], "lost_s": []})
            row["call_s"].append(call_s)
            row["lost_s"].append(lost)
        say(f"stall: round {number + 1} of {rounds}")
    size = sum(file.stat().st_size for file in folder.rglob("state.pt")) / len(found)
    table = {name: {key: spread(v) for key, v in row.items()} for name, row in found.items()}
    return {"state_mib": round(size / 2**20), "rounds": rounds, "ways": table}


# ---- the command


def report(found: dict[str, Any]) -> str:
    """All tables for people."""
    own, race = found["own_cost"], found["end_to_end"]
    lines = [
        f"load {found['machine']['load']}; medians with 95 % intervals (few values: extremes)",
        f"own cost: {_words(own['over_bare_us'])} us a step over {own['bare_us']['median']} us,",
        f"  {own['percent_of_step']:.3f} % of a ResNet-20 step of {own['resnet20_step_ms']} ms",
        "  alone: " + ", ".join(f"{name} {us}" for name, us in own["parts_us"].items()) + " us",
        f"ResNet-20, batch {loops.BATCH}, {race['ranks']} ranks, threads {race['threads_a_rank']}:",
    ]
    for name, row in race["contestants"].items():
        line = f"  {name:<22}{_words(row['step_ms']):>26} ms{row['samples_s']:>7} samples/s"
        if "ours_ratio" in row:
            line += f"   ours takes {row['ours_ratio']:.3f} of it {row['interval']}"
        lines.append(line)
    if race["missing"]:
        lines.append(f"  not installed: {', '.join(race['missing'])}")
    lines.append(f"  the all-reduce of the logs, each 10th step: {race['log_all_reduce_us']} us")
    lines.append("start to the first step:")
    for name, row in found["start"].items():
        line = f"  {name:<24}{_words(row['seconds']):>24} s"
        if "ours_more_s" in row:
            line += f"   ours {_words(row['ours_more_s'])} s more"
        lines.append(line)
    lines.append(f"saving {found['stall']['state_mib']} MiB beside a loop of ResNet-20:")
    for name, row in found["stall"]["ways"].items():
        lines.append(
            f"  {name:<14} call {_words(row['call_s'])} s, lost in all {_words(row['lost_s'])} s"
        )
    return "\n".join(lines)


def versions(*names: str) -> dict[str, str]:
    """Those of the packages that are installed."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _words(found: dict[str, Any]) -> str:
    return f"{found['median']} {found['interval']}"


def main() -> int:
    """Measure, and print; a time decides nothing."""
    asked = options(__doc__, RESULT, quick="few and short blocks: two minutes")
    quick, before = asked.quick, machine()
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        base = Path(name)
        found: dict[str, Any] = {
            "benchmark": "training",
            "machine": before,
            "versions": versions("torch", "accelerate", "lightning-fabric"),
        }
        say("own cost")
        found["own_cost"] = own_cost(base / "own", *((40, 50) if quick else (200, 100)))
        say("end to end")
        found["end_to_end"] = end_to_end(base / "contest", *((8, 4) if quick else (24, 8)))
        found["start"] = start(base / "start", 3 if quick else 15)
        found["stall"] = stall(base / "stall", 3 if quick else 15)
    publish(found, asked, RESULT, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
