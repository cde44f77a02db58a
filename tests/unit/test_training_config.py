"""The configuration of a training: refused in a sentence, or carried to every rank unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aiinfra_lab.errors import InputError
from aiinfra_lab.training.config import TrainingConfig
from aiinfra_lab.training.options import with_config, words_of


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"epochs": 0}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"model": "resnet1000"}, "model"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"samples": 32, "batch_size": 64}, "a batch of 64 is larger than 32 samples"),
        ({"strategy": "fsdp", "compress": "bf16"}, "compress works with ddp only"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(words: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainingConfig.of(**words)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    TrainingConfig.of(epochs=2).claim(tmp_path)
    TrainingConfig.of(epochs=2, checkpoint_every=1, strategy="fsdp").claim(tmp_path)  # same run

    with pytest.raises(InputError, match=r"another run lies in .*: its epochs is 2; needed 3"):
        TrainingConfig.of(epochs=3).claim(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(InputError, match="cannot be read"):
        TrainingConfig.of().claim(tmp_path)


def test_what_does_not_change_the_result_is_not_decisive() -> None:
    decisive = TrainingConfig.of().decisive

    assert {"model", "epochs", "batch_size", "seed", "dropout", "precision"} <= decisive.keys()
    assert not {"strategy", "keep", "device", "timeout_s", "register_as"} & decisive.keys()
    json.dumps(decisive)


def test_the_words_of_a_configuration_give_it_again() -> None:
    wanted = TrainingConfig.of(
        model="mlp", samples=100, learning_rate=1e-3, clip_norm=1.5, register_as="m", seed=0
    )
    seen: list[TrainingConfig] = []
    app = typer.Typer()

    def command(config: TrainingConfig) -> None:
        seen.append(config)

    app.command()(with_config(command))
    done = CliRunner().invoke(app, words_of(wanted), catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert seen == [wanted]
    assert words_of(TrainingConfig.of()) == []
