"""The registry without MLflow: bundles, names, the outbox, the shipped template's use."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_bytes
from aiinfra_lab.registry import (
    InputSpec,
    Lineage,
    ModelManifest,
    TensorSpec,
    read_manifest,
    template,
    write_files,
)
from aiinfra_lab.registry.backend import Backend, public_url
from aiinfra_lab.registry.bundle import bundle_digest, copy_bundle
from aiinfra_lab.registry.outbox import Order, Outbox
from aiinfra_lab.registry.versions import checked_alias, checked_key, checked_name, parse_reference
from aiinfra_lab.settings import settings

WEIGHTS = "weights.safetensors"


def manifest(**changes: Any) -> ModelManifest:
    fields: dict[str, Any] = {
        "name": "digits",
        "version": "1",
        "format": "safetensors",
        "files": {WEIGHTS: ""},
        "input": InputSpec(shape=(28, 28), dtype="uint8", low=0, high=255),
        "output": TensorSpec(name="logits", shape=(10,)),
        "lineage": Lineage(data="sha256:0", libraries={}, seed=6),
    }
    return ModelManifest(**(fields | changes))


def bundle(folder: Path, weights: bytes = b"weights", **changes: Any) -> Path:
    return write_files(folder, manifest(**changes), {WEIGHTS: weights})


# Bundles.


def test_a_bundle_may_have_other_formats_and_more_files(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"from a file")
    folder = write_files(
        tmp_path / "b", manifest(), {WEIGHTS: tmp_path / "big", "vocabulary.txt": b"a b"}
    )
    found = read_manifest(folder)
    assert found.files == {
        WEIGHTS: digest_bytes(b"from a file"),
        "vocabulary.txt": digest_bytes(b"a b"),
    }
    assert found.format == "safetensors"
    assert found.output == TensorSpec(name="logits", shape=(10,))


@pytest.mark.parametrize("kind", ["pickle", "pt", ""])
def test_a_format_that_can_run_code_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="format"):
        manifest(format=kind)


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "model.json", "a\\b"])
def test_a_file_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        manifest(files={name: ""})


def test_a_copy_is_checked_while_it_is_made(tmp_path: Path) -> None:
    source = bundle(tmp_path / "source")
    digest = bundle_digest(source)
    copy_bundle(source, tmp_path / "copy", digest)
    assert bundle_digest(tmp_path / "copy") == digest
    (source / WEIGHTS).write_bytes(b"WEIGHTS")
    with pytest.raises(InputError, match=f"damaged: {WEIGHTS} has other bytes"):
        copy_bundle(source, tmp_path / "other", digest)
    (source / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"no readable {WEIGHTS}"):
        copy_bundle(source, tmp_path / "other", digest)
    (source / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.json has other bytes"):
        copy_bundle(source, tmp_path / "other", digest)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "source"]


# Names.


def test_a_reference_is_a_name_with_an_alias_a_number_or_nothing() -> None:
    assert parse_reference("digits@champion") == ("digits", "champion")
    assert parse_reference("digits/3") == ("digits", 3)
    assert parse_reference("digits") == ("digits", None)


@pytest.mark.parametrize(
    "word", ["", "@champion", "digits@", "digits/", "digits/0", "digits/x", "d i", "a/1@b", "a'/1"]
)
def test_another_reference_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="digits@champion, digits/3 or digits"):
        parse_reference(word)


@pytest.mark.parametrize("word", ["", "a b", "it's", "`x`", "x" * 201, "-x"])
def test_a_key_fits_into_a_filter(word: str) -> None:
    with pytest.raises(InputError, match="a key is"):
        checked_key(word)


@pytest.mark.parametrize("word", ["", "latest", "Latest", "v3", "3", "a b"])
def test_an_alias_is_a_word_of_ones_own(word: str) -> None:
    with pytest.raises(InputError, match="an alias is"):
        checked_alias(word)


def test_what_is_allowed_is_given_back() -> None:
    assert checked_key("run:6/a+b=c@d.e_f-g") == "run:6/a+b=c@d.e_f-g"
    assert checked_alias("challenger") == "challenger"
    assert checked_name("digits.v2") == "digits.v2"
    with pytest.raises(InputError, match="a model's name"):
        checked_name("it's")


@pytest.mark.parametrize("url", ["host", "ftp://host", "http://", "http://host:x", "sqlite:///x"])
def test_what_is_no_servers_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="AIINFRA_MLFLOW_URL is no address"):
        Backend(tmp_path, url)


def test_a_password_is_not_shown() -> None:
    assert public_url("https://me:hushhush@host:80/ml/") == "https://host:80/ml"


# The outbox.


def order(folder: Path, **changes: Any) -> Order:
    fields: dict[str, Any] = {"name": "digits", "key": "k", "digest": bundle_digest(folder)}
    return Order(**(fields | changes))


def test_a_kept_model_is_whole_and_kept_once(tmp_path: Path) -> None:
    source, outbox = bundle(tmp_path / "source"), Outbox(tmp_path / "outbox")
    place = outbox.keep(order(source), source)
    assert outbox.keep(order(source), source) == place
    assert list(outbox.places()) == [place]
    assert outbox.read(place) == order(source)
    assert bundle_digest(place / "bundle") == bundle_digest(source)
    assert outbox.keep(order(source, key="other"), source) != place
    assert len(list(outbox.folder.iterdir())) == 2
    outbox.remove(place)
    assert place not in list(outbox.places())


def test_another_model_under_the_same_key_is_refused(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    one, two = bundle(tmp_path / "1"), bundle(tmp_path / "2", b"other")
    place = outbox.keep(order(one), one)
    with pytest.raises(InputError, match="another model waits under the key 'k'"):
        outbox.keep(order(two), two)
    assert bundle_digest(place / "bundle") == bundle_digest(one)
    assert list(outbox.folder.iterdir()) == [place]


def test_what_is_no_order_is_said(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="holds no order"):
        outbox.read(tmp_path / "x")
    (tmp_path / "x" / "order.json").write_text(json.dumps({"name": "a"}))
    with pytest.raises(InputError, match="holds no order"):
        outbox.read(tmp_path / "x")


# The template.


def head(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("select version_num from alembic_version").fetchone()[0])


def no_migrations() -> str:
    raise AssertionError("the migrations ran")


@pytest.mark.needs("mlflow")
def test_the_locked_version_needs_no_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "migrated", no_migrations)
    template.make_database(tmp_path / "new" / "mlflow.db")
    assert head(tmp_path / "new" / "mlflow.db")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mlflow.db"]


@pytest.fixture
def _other_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        template, "installed", lambda name: "99.0" if name == "mlflow-skinny" else version(name)
    )
    monkeypatch.setenv("AIINFRA_CACHE", str(tmp_path / "cache"))
    settings.cache_clear()


@pytest.mark.needs("mlflow")
@pytest.mark.usefixtures("_other_mlflow")
def test_another_version_migrates_once_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def migrate() -> str:
        calls.append(1)
        return "create table alembic_version (version_num); insert into alembic_version values (7);"

    monkeypatch.setattr(template, "migrated", migrate)
    for name in "ab":
        template.make_database(tmp_path / name)
        assert head(tmp_path / name) == "7"
    assert calls == [1]
    (kept,) = (tmp_path / "cache" / "registry").iterdir()
    assert kept.name.startswith("schema-99.0-")
    settings.cache_clear()


@pytest.mark.needs("mlflow")
def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"mine")
    template.make_database(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_bytes() == b"mine"


@pytest.mark.needs("mlflow")
def test_makers_at_once_leave_one_whole_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    begin, real = threading.Barrier(4), template.schema

    def schema() -> str:  # each has seen that there is no database
        begin.wait()
        return real()

    monkeypatch.setattr(template, "schema", schema)
    inodes, failures = set(), []

    def make() -> None:
        try:
            template.make_database(path)
            inodes.add(path.stat().st_ino)
            head(path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(inodes) == 1  # nobody's database was replaced by another's
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.needs("mlflow")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be made.*AIINFRA_HOME"):
        template.make_database(tmp_path / "file" / "mlflow.db")
    with pytest.raises(InputError, match=r"cannot write to .*AIINFRA_HOME"):
        _ = Backend(tmp_path / "file" / "registry").client
