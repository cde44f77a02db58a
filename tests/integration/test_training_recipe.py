"""The recipe on real ranks: the same bits after kills, exact means, a sentence for each failure."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.needs("torch")

SMALL = ("--model", "mlp", "--epochs", "2", "--samples", "300", "--batch-size", "32")
STEPS = 20
COMMAND = (sys.executable, "-m", "aiinfra_lab.cli.main", "train")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
RANK = ("-m", "aiinfra_lab.training")
LIMIT_S = 150


def run(
    *words: str, fault: str = "", code: int = 0, program: tuple[str, ...] = COMMAND
) -> tuple[dict[str, Any], str]:
    """The result of a training and its stderr; ``code`` is the exit code that it must have."""
    done = subprocess.run(
        [*program, *words, "--json"],
        env=os.environ | {"AIINFRA_FAULT": fault, "AIINFRA_PROGRESS": "off"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "weights.safetensors")


def assert_close(one: Path, other: Path) -> None:
    import torch

    ours, its = weights(one), weights(other)
    assert ours.keys() == its.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, its[name], rtol=1e-4, atol=1e-5)


def checkpoints_before(step: int) -> tuple[int | None, ...]:
    """Where a run that is killed before ``step`` may go on from, with one every five steps.

    The last one is written while the training goes on, so the kill may come before its end.
    """
    last = (step - 1) // 5 * 5
    return last or None, max(0, last - 5) or None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Two ranks, undisturbed, with dropout: their random states are part of the result."""
    folder = tmp_path_factory.mktemp("whole")
    result, _ = run(*SMALL, "--dropout", "0.2", "--nproc", "2", "--out", str(folder))
    return result, folder


def test_what_a_run_leaves(whole: tuple[dict[str, Any], Path]) -> None:
    from aiinfra_lab.registry import read_manifest
    from aiinfra_lab.training import read_journal

    result, folder = whole

    assert (result["steps"], result["world"], result["restarts"]) == (STEPS, 2, 0)
    assert result["test_samples"] == 1000
    journal = [*read_journal(folder)]
    assert [entry["step"] for entry in journal] == [10, 20]
    assert journal[0]["loss"] > journal[-1]["loss"]
    manifest = read_manifest(folder / "model")
    assert manifest.metrics["test_accuracy"].value == result["test_accuracy"]
    assert manifest.lineage.seed == 6
    assert (folder / "checkpoints" / "step-00000020").is_dir()
    logs = [path.parent.name for path in folder.glob("ranks/*/*/attempt_0/*/stderr.log")]
    assert sorted(logs) == ["0", "1"]


def test_plain_torchrun_gives_the_same_bits(
    whole: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    result, _ = run(*(*RANK, *SMALL, "--dropout", "0.2", "--out", str(tmp_path)), program=TORCHRUN)

    assert result["model_sha256"] == whole[0]["model_sha256"]


@pytest.mark.parametrize("number", range(3))
def test_a_killed_rank_is_restarted_and_ends_with_the_same_bits(
    whole: tuple[dict[str, Any], Path], tmp_path: Path, number: int
) -> None:
    seed = os.environ.get("KILL_SEED") or str(random.SystemRandom().randrange(2**32))
    dice = random.Random(f"{seed}-{number}")
    rank, step = dice.randrange(2), dice.randrange(1, STEPS + 1)
    print(f"KILL_SEED={seed} kills rank {rank} at step {step}")

    result, _ = run(
        *(*SMALL, "--dropout", "0.2", "--nproc", "2", "--out", str(tmp_path)),
        *("--checkpoint-every", "5", "--max-restarts", "1"),
        fault=f"kill:rank={rank},step={step}",
    )

    assert result["model_sha256"] == whole[0]["model_sha256"]
    assert result["train_loss"] == whole[0]["train_loss"]
    assert result["restarts"] == 1
    assert result["resumed_from"] in checkpoints_before(step)


def test_two_ranks_learn_what_one_process_learns(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # 300 samples in batches of 32 end with 12, and 31 ranks would get nothing: pieces are uneven.
    first, _ = run(*SMALL, "--out", str(one), program=(sys.executable, *RANK))
    second, _ = run(*SMALL, "--accumulate", "3", "--nproc", "2", "--out", str(two))

    assert (first["world"], second["world"]) == (1, 2)
    assert_close(one, two)
    assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-5)


def test_fsdp_learns_the_same_and_goes_on_from_a_checkpoint_of_ddp(tmp_path: Path) -> None:
    ddp, fsdp, mixed = tmp_path / "ddp", tmp_path / "fsdp", tmp_path / "mixed"
    run(*SMALL, "--nproc", "2", "--out", str(ddp))
    run(*SMALL, "--nproc", "2", "--strategy", "fsdp", "--out", str(fsdp))
    assert_close(ddp, fsdp)

    words = (*SMALL, "--nproc", "2", "--checkpoint-every", "5", "--out", str(mixed))
    run(*words, fault="kill:rank=0,step=12", code=1)
    result, _ = run(*words, "--strategy", "fsdp")
    assert result["resumed_from"] in checkpoints_before(12)
    assert_close(ddp, mixed)


def test_another_number_of_ranks_goes_on_in_the_same_order(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(*SMALL, "--nproc", "2", "--out", str(whole))
    words = (*SMALL, "--checkpoint-every", "5", "--out", str(cut))
    run(*words, "--nproc", "2", fault="kill:rank=1,step=13", code=1)

    result, _ = run(*words, "--nproc", "3")

    assert result["world"] == 3
    assert result["resumed_from"] in checkpoints_before(13)
    assert_close(whole, cut)
    losses = [json.loads((f / "result.json").read_text())["train_loss"] for f in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_means_are_those_of_1003_samples(tmp_path: Path) -> None:
    """With a rate that moves no weight, the epoch's means are those of the start on all samples."""
    import torch

    from aiinfra_lab.data import load_digits
    from aiinfra_lab.seeding import seed_everything
    from aiinfra_lab.training import evaluate, models
    from aiinfra_lab.training.recipe import as_tensors

    result, _ = run(
        *("--model", "mlp", "--epochs", "1", "--samples", "1003", "--batch-size", "64"),
        *("--learning-rate", "1e-30", "--weight-decay", "0", "--momentum", "0"),
        *("--nproc", "2", "--out", str(tmp_path)),
    )

    seed_everything(6)
    model = models.build("mlp")
    pixels, labels = as_tensors(load_digits().train, torch.device("cpu"), 1003)
    loss, right, count = evaluate(model, pixels, labels, batch_size=1003).tolist()
    assert (result["samples"], count) == (1003, 1003)
    assert result["train_accuracy"] == right / 1003
    assert result["train_loss"] == pytest.approx(loss / 1003, rel=1e-6)


def test_a_hanging_rank_is_ended_and_named(tmp_path: Path) -> None:
    began = time.monotonic()
    _, said = run(
        *(*SMALL, "--nproc", "2", "--timeout-s", "4", "--out", str(tmp_path)),
        fault="hang:rank=1,step=6",
        code=1,
    )

    assert "rank 1 on " in said
    assert "stopped answering" in said
    assert "Traceback" not in said
    assert time.monotonic() - began < LIMIT_S
    assert not living(tmp_path)


def living(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in w for w in words):
            found.append(process)
    return found


def test_no_rank_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    words = (*SMALL, "--epochs", "50", "--nproc", "2", "--out", str(tmp_path))
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL) as launcher:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("checkpoints/step-*")):
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(living(tmp_path)) >= 4  # launcher, agent, two ranks
        launcher.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 20
    while living(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not living(tmp_path)


def test_a_full_disk_ends_the_run_in_a_sentence_and_room_lets_it_go_on(
    whole: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    words = (*SMALL, "--dropout", "0.2", "--nproc", "2", "--out", str(tmp_path))
    _, said = run(*words, "--checkpoint-every", "5", fault="diskfull:step=15", code=1)
    assert "step 15 could not be written" in said
    assert "No space left on device; that of step 10 is whole" in said
    assert "Traceback" not in said

    result, _ = run(*words)
    assert result["resumed_from"] == 10
    assert result["model_sha256"] == whole[0]["model_sha256"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--nproc", "0"), 2, "0 ranks"),
        (("--nproc", "3", "--batch-size", "2"), 2, "3 ranks cannot share a batch of 2 samples"),
        (("--batch-size", "301"), 2, "a batch of 301 is larger than 300 samples"),
        (("--samples", "999999", "--batch-size", "4000"), 2, "a batch of 4000 cannot be taken"),
        (("--hosts", "2"), 2, "several hosts need a place to meet"),
        (("--hosts", "2", "--host-index", "2", "--rendezvous", "h:1"), 2, "cannot be number 2"),
        (("--model", "vgg"), 2, "vgg"),
        (("--time-limit", "0.5"), 1, "ended after the limit of 0.5 s"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], code: int, sentence: str, tmp_path: Path
) -> None:
    _, said = run(*SMALL, *words, "--out", str(tmp_path), code=code)

    assert sentence in said
    assert "Traceback" not in said
    assert said.count("aiinfra:") <= 1
    assert not living(tmp_path)


def test_cuda_without_a_gpu_is_a_missing_need(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _, said = run(*SMALL, "--device", "cuda", "--out", str(tmp_path), code=3)

    assert "needs a GPU for each rank of a host; found 0 GPUs" in said


def test_another_run_in_the_folder_is_refused(whole: tuple[dict[str, Any], Path]) -> None:
    _, said = run(*SMALL, "--dropout", "0.5", "--nproc", "2", "--out", str(whole[1]), code=2)

    assert "its dropout is 0.2; needed 0.5" in said


def test_a_rank_with_other_data_is_named(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys\n"
        "from aiinfra_lab.data.images import ImageSet\n"
        "if os.environ['RANK'] == '1':\n"
        "    ImageSet.digest = property(lambda self: 'sha256:other')\n"
        "from aiinfra_lab.training.__main__ import main\n"
        "sys.exit(main())\n"
    )
    words = (str(script), *SMALL, "--out", str(tmp_path / "out"))

    _, said = run(*words, program=TORCHRUN, code=1)  # torchrun knows no other code

    assert "rank 1 on " in said
    assert "has other data or another configuration than rank 0" in said
    assert said.count("aiinfra: rank 1") == 1


@pytest.mark.needs("gpu")
@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_gpus_run_the_same_code_to_the_same_bits_after_a_kill(tmp_path: Path, model: str) -> None:
    import torch

    gpus = str(torch.cuda.device_count())
    words = (*SMALL, "--model", model, "--dropout", "0.2", "--nproc", gpus, "--device", "cuda")
    whole, _ = run(*words, "--out", str(tmp_path / "whole"))

    cut, _ = run(
        *(*words, "--out", str(tmp_path / "cut"), "--checkpoint-every", "4"),
        *("--max-restarts", "1"),
        fault="kill:rank=0,step=10",
    )

    assert cut["model_sha256"] == whole["model_sha256"]
