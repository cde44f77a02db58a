"""The registry: one suite for SQLite and for a real ``mlflow server``, and what can go wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.engines import S3Server
from aiinfra_lab.errors import InputError
from aiinfra_lab.processes import Child, HttpAnswers
from aiinfra_lab.registry import (
    DamagedModel,
    InputSpec,
    Lineage,
    Metric,
    ModelManifest,
    Registry,
    RegistryAway,
    RegistryError,
    Run,
    UnknownModel,
    aliases,
    functions,
    template,
    tracking,
    write_files,
)
from aiinfra_lab.registry.bundle import bundle_digest
from aiinfra_lab.serving import read_bundle
from aiinfra_lab.settings import settings

pytestmark = pytest.mark.needs("mlflow", "sqlalchemy", "alembic")

WEIGHTS = "weights.safetensors"


def bundle(folder: Path, weights: bytes = b"weights") -> Path:
    manifest = ModelManifest(
        name="digits",
        version="1",
        format="safetensors",
        files={WEIGHTS: ""},
        input=InputSpec(shape=(28, 28), dtype="uint8", low=0, high=255),
        metrics={"accuracy": Metric(value=0.9, n=100, split="test")},
        lineage=Lineage(data="sha256:0", libraries={"torch": "2"}, seed=6),
    )
    return write_files(folder, manifest, {WEIGHTS: weights})


@dataclasses.dataclass
class Served:
    """A tracking server as a child, which can end and come back."""

    folder: Path
    port: int
    child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        words += ["--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.child = Child(words, log=self.folder / "log", env=env, cwd=self.folder, grace=2)
        self.child.start().ready(HttpAnswers(f"{self.url}/health", 200), 120)

    def stop(self) -> None:
        assert self.child is not None
        self.child.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    template.make_database(folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Served(folder, free.getsockname()[1])
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "server"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = None if request.param == "sqlite" else request.getfixturevalue("served").url
    return Registry(tmp_path / "root", tmp_path / "cache", url)


@pytest.fixture
def local(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "root", tmp_path / "cache")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model of the test's own: the server has those of all tests."""
    return str(request.node.name).replace("[", "-").rstrip("]")


def fresh_cache(registry: Registry, tmp_path: Path) -> Registry:
    """The same registry as another machine sees it."""
    return Registry(registry.backend.root, tmp_path / "elsewhere", registry.backend.url)


# One suite for both.


def test_a_registered_model_comes_back_with_all_that_is_known_of_it(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    source = bundle(tmp_path / "b")
    version = registry.register(
        source,
        name=name,
        key="run-6",
        lineage={"commit": "abc"},
        metrics={"loss": 0.25},
        tags={"owner": "me"},
    )
    assert (version.name, version.version, version.key) == (name, 1, "run-6")
    assert version.reference == f"{name}/1"
    assert version.digest == bundle_digest(source)
    assert version.metrics == {"accuracy": 0.9, "loss": 0.25}
    assert version.lineage["commit"] == "abc"
    assert version.lineage["seed"] == 6
    assert version.tags == {"owner": "me"}
    assert abs(datetime.now(UTC) - version.created) < timedelta(hours=1)
    assert registry.describe(name) == version
    for reader in (registry, fresh_cache(registry, tmp_path)):
        folder = reader.resolve(f"{name}/1")
        assert bundle_digest(folder) == version.digest
        assert (folder / WEIGHTS).read_bytes() == b"weights"


def test_a_key_gives_one_version_whatever_is_retried(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    one, two = bundle(tmp_path / "1"), bundle(tmp_path / "2", b"other")
    first = registry.register(one, name=name, key="a")
    assert registry.register(one, name=name, key="a") == first
    assert registry.register(two, name=name, key="b").version == 2
    assert registry.register(one, name=name, key="a") == first
    assert [v.version for v in registry.versions(name)] == [1, 2]
    with pytest.raises(InputError, match="the key 'a' stands for version 1"):
        registry.register(two, name=name, key="a")
    assert [v.version for v in registry.versions(name)] == [1, 2]


def test_of_two_machines_the_lower_number_wins(
    registry: Registry, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bundle(tmp_path / "b")
    first = registry.register(source, name=name, key="a")
    late = fresh_cache(registry, tmp_path)
    real, looks = late._under, []

    def under(*words: Any) -> Any:  # the other's version is not there yet at the first look
        looks.append(words)
        return [] if len(looks) == 1 else real(*words)

    monkeypatch.setattr(late, "_under", under)
    assert late.register(source, name=name, key="a") == first
    assert len(looks) == 2
    client = registry.backend.client
    assert [v.version for v in client.search_model_versions(f"name='{name}'")] in ([1], ["1"])


def test_a_duplicate_of_a_crash_is_passed_over_and_then_deleted(
    registry: Registry, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bundle(tmp_path / "b")
    registry.register(source, name=name, key="a")
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_under", lambda *_: [])
        with pytest.raises(ValueError, match="unpack"):  # where a crash could be
            registry.register(source, name=name, key="a")
    client = registry.backend.client
    assert len(client.search_model_versions(f"name='{name}'")) == 2
    assert registry.describe(name).version == 1
    registry.register(source, name=name, key="a")
    assert len(client.search_model_versions(f"name='{name}'")) == 1


def test_promotion_moves_an_alias_and_rollback_takes_it_back(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        source = bundle(tmp_path / str(number), bytes([number]))
        registry.register(source, name=name, key=f"k{number}")

    def champion() -> int:
        return registry.describe(f"{name}@champion").version

    assert registry.promote(name, 1).aliases == ("champion",)
    assert registry.promote(name, 3).version == 3
    assert registry.promote(name, 3).version == 3  # again is once
    assert aliases.former(registry.backend.client, name, "champion") == [1]
    registry.promote(name, 2)
    registry.promote(name, 1, "challenger")
    assert champion() == 2
    assert registry.rollback(name).version == 3
    assert champion() == 3
    assert registry.rollback(name).version == 1
    assert registry.describe(f"{name}/1").aliases == ("challenger", "champion")
    with pytest.raises(UnknownModel, match="is the first that had the alias champion"):
        registry.rollback(name)
    assert champion() == 1
    assert (registry.resolve(f"{name}@champion") / WEIGHTS).read_bytes() == b"\1"


def test_rollback_passes_over_a_deleted_version(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        source = bundle(tmp_path / str(number), bytes([number]))
        registry.register(source, name=name, key=f"k{number}")
        registry.promote(name, number)
    registry.backend.client.delete_model_version(name, "2")
    assert registry.rollback(name).version == 1


def test_what_is_not_there_is_named_with_what_is(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    registry.register(bundle(tmp_path / "b"), name=name, key="a")
    registry.promote(name, 1)
    cases = {
        f"no-{name}": "there is no model",
        f"{name}/2": "has no version 2; found 1",
        f"{name}@challenger": r"has no alias challenger; found champion\. promote",
    }
    for reference, words in cases.items():
        with pytest.raises(UnknownModel, match=words) as refusal:
            registry.resolve(reference)
        assert refusal.value.exit_code == 2
        assert "\n" not in str(refusal.value)
    with pytest.raises(UnknownModel):
        registry.promote(name, 2)
    with pytest.raises(UnknownModel):
        registry.rollback(name, "challenger")
    assert registry.describe(name).aliases == ("champion",)


def test_a_run_keeps_its_numbers_files_and_model(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    params = {f"p{number}": number for number in range(150)}  # more than MLflow takes at a time
    with registry.runs.run(name, params, {"team": "a"}) as run:
        for step in range(1200):
            run.log(step, loss=1 / (step + 1), rate=0.1)
        run.log_artifact(tmp_path / "notes.txt", "texts")
        version = registry.register(bundle(tmp_path / "b"), name=name, key="a")
    assert version.run_id == run.run_id
    client = registry.backend.client
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {key: str(value) for key, value in params.items()}
    assert found.data.tags["team"] == "a"
    assert found.data.tags[f"aiinfra.model.{name}"] == "a"
    history = client.get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 1 / (s + 1)) for s in range(1200)]
    assert [f.path for f in client.list_artifacts(run.run_id, "texts")] == ["texts/notes.txt"]
    assert registry.runs.current() is None


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_that_fails_says_so(local: Registry, error: type[BaseException], status: str) -> None:
    runs: list[Run] = []

    def fail() -> None:
        with local.runs.run("exp") as run:
            runs.append(run)
            run.log(1, loss=0.5)
            raise error

    with pytest.raises(error):
        fail()
    found = local.backend.client.get_run(runs[0].run_id)
    assert found.info.status == status
    assert found.data.metrics == {"loss": 0.5}


# Away, and back.


def test_a_server_that_dies_in_a_run_loses_nothing(
    served: Served, name: str, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "root", tmp_path / "cache", served.url)
    source = bundle(tmp_path / "b")
    refusals: list[RegistryAway] = []
    ids: list[str] = []

    def train() -> None:
        with registry.runs.run(name) as run:
            ids.append(run.run_id)
            served.stop()
            run.log(1, loss=0.5)
            try:
                registry.register(source, name=name, key="a")
            except RegistryAway as error:
                refusals.append(error)

    try:
        with pytest.raises(RegistryAway, match="the end of run") as end:
            train()
    finally:
        served.start()
    (kept,) = refusals
    for refusal in (end.value, kept):
        assert refusal.exit_code == 3
        assert "\n" not in str(refusal)
        assert Path(refusal.kept or "nowhere").exists()
    assert "the model is kept in" in str(kept)
    (version,) = registry.flush()
    assert version.run_id == ids[0]
    found = registry.backend.client.get_run(ids[0])
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 0.5})
    assert registry.flush() == []
    assert not Path(kept.kept or "").exists()
    assert (registry.resolve(name) / WEIGHTS).read_bytes() == b"weights"


def test_a_registry_that_was_never_there_keeps_the_model_too(tmp_path: Path) -> None:
    source = bundle(tmp_path / "b")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://me:hushhush@127.0.0.1:{closed.getsockname()[1]}"
        away = Registry(tmp_path / "root", tmp_path / "cache", url)
        with pytest.raises(RegistryAway, match=r"no MLflow server answers at http://127.*kept in"):
            away.register(source, key="a", metrics={"loss": 0.5})
        with pytest.raises(RegistryAway) as refusal, away.runs.run("exp"):
            raise AssertionError("nothing may run without a record")
        assert "hushhush" not in str(refusal.value)
        with pytest.raises(RegistryAway):
            away.flush()
        assert len(list(away.outbox.places())) == 1
    back = Registry(tmp_path / "root", tmp_path / "cache")
    (version,) = back.flush()
    assert (version.reference, version.metrics["loss"]) == ("digits/1", 0.5)
    assert back.register(source, key="a", metrics={"loss": 0.5}) == version


def test_a_damaged_order_does_not_stop_the_others(local: Registry, tmp_path: Path) -> None:
    (local.outbox.folder / "000").mkdir(parents=True)
    with contextlib.closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        away = Registry(local.backend.root, tmp_path / "cache", url)
        for key in "ab":
            with pytest.raises(RegistryAway):
                away.register(bundle(tmp_path / key, key.encode()), key=key)
    with pytest.raises(InputError, match="holds no order"):
        local.flush()
    assert {v.key for v in local.versions("digits")} == {"a", "b"}
    assert [p.name for p in local.outbox.places()] == ["000"]


@pytest.fixture
def _impatient() -> Iterator[None]:
    """SQLite gives up after 0.2 s where MLflow asks for 20."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def shorten(_c: Any, _k: Any, statement: str, words: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), words

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@pytest.mark.usefixtures("_impatient")
def test_a_locked_database_is_one_sentence_and_the_model_waits(
    local: Registry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = bundle(tmp_path / "b")
    assert local.backend.client is not None
    capfd.readouterr()
    with contextlib.closing(sqlite3.connect(local.backend.root / "mlflow.db")) as other:
        other.execute("begin exclusive")
        with pytest.raises(RegistryAway, match=r"cannot be used now .*locked.*kept in") as refusal:
            local.register(source, key="a")
        other.rollback()
    assert "\n" not in str(refusal.value)
    assert "Traceback" not in capfd.readouterr().err
    assert [v.reference for v in local.flush()] == ["digits/1"]


def test_a_lock_that_another_process_holds_is_waited_for_and_has_an_end(
    local: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiinfra_lab.registry.backend.LOCK_S", 0.1)
    assert local.backend.client is not None
    with local.backend.lock(), pytest.raises(RegistryAway, match="another process holds it"):
        local.register(bundle(tmp_path / "b"), key="a")
    assert [v.reference for v in local.flush()] == ["digits/1"]


def test_a_file_that_is_no_database_is_one_sentence(local: Registry, tmp_path: Path) -> None:
    local.backend.root.mkdir()
    (local.backend.root / "mlflow.db").write_bytes(b"hello" * 1000)
    with pytest.raises(RegistryError, match=r"database .* cannot be used") as refusal:
        local.register(bundle(tmp_path / "b"), key="a")
    assert "\n" not in str(refusal.value)


# Bytes.


def test_a_half_written_bundle_is_refused_and_nothing_is_registered(
    local: Registry, tmp_path: Path
) -> None:
    folder = bundle(tmp_path / "b")
    (folder / WEIGHTS).write_bytes(b"weig")
    with pytest.raises(InputError, match="damaged"):
        local.register(folder, key="a")
    (folder / "model.json").unlink()
    with pytest.raises(InputError, match=r"no readable model\.json"):
        local.register(folder, key="a")
    with pytest.raises(InputError, match="not a folder"):
        local.register(tmp_path / "nothing", key="a")
    assert not local.backend.root.exists()


def test_files_that_rot_in_the_registry_are_noticed(local: Registry, tmp_path: Path) -> None:
    local.register(bundle(tmp_path / "b"), key="a")
    (stored,) = (local.backend.root / "artifacts").rglob(WEIGHTS)
    elsewhere = fresh_cache(local, tmp_path)
    stored.write_bytes(b"WEIGHTS")
    with pytest.raises(DamagedModel, match=f"digits/1 are damaged.*{WEIGHTS}"):
        elsewhere.resolve("digits")
    manifest = stored.with_name("model.json")
    stored.write_bytes(b"weights")
    manifest.write_text(manifest.read_text().replace("0.9", "0.99"))
    with pytest.raises(DamagedModel, match=r"model\.json"):
        elsewhere.resolve("digits")
    stored.unlink()
    with pytest.raises(DamagedModel):
        elsewhere.resolve("digits")
    manifest.unlink()
    manifest.parent.rmdir()
    with pytest.raises(RegistryError, match="digits/1 cannot be fetched"):
        elsewhere.resolve("digits")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_files_that_rot_in_the_cache_are_fetched_again(local: Registry, tmp_path: Path) -> None:
    local.register(bundle(tmp_path / "b"), key="a")
    folder = local.resolve("digits")
    inode = folder.stat().st_ino
    assert local.resolve("digits").stat().st_ino == inode  # a whole one is not fetched again
    (folder / WEIGHTS).write_bytes(b"WEIGHTS")
    assert (local.resolve("digits") / WEIGHTS).read_bytes() == b"weights"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.needs("moto", "boto3")
def test_the_files_may_lie_in_an_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server() as server:
        with server.access.client() as client:
            client.create_bucket(Bucket="models")
        for variable, value in server.access.environment().items():
            monkeypatch.setenv(variable, value)
        registry = Registry(tmp_path / "root", tmp_path / "cache", artifacts="s3://models/course")
        version = registry.register(bundle(tmp_path / "b"), key="a")
        with server.access.client() as client:
            listed = client.list_objects_v2(Bucket="models", Prefix="course/")["Contents"]
        assert {entry["Key"].rpartition("/")[2] for entry in listed} == {"model.json", WEIGHTS}
        elsewhere = Registry(tmp_path / "root", tmp_path / "other")
        assert bundle_digest(elsewhere.resolve("digits")) == version.digest
    with pytest.raises(RegistryError, match="cannot be fetched"):
        Registry(tmp_path / "root", tmp_path / "third").resolve("digits")
    with pytest.raises(RegistryAway, match=r"cannot store files.*kept in"):
        registry.register(bundle(tmp_path / "c", b"c"), key="c")
    assert [v.key for v in registry.versions("digits")] == ["a"]


def test_a_served_bundle_goes_through_the_registry(local: Registry, tmp_path: Path) -> None:
    from aiinfra_lab.serving import Manifest, write_bundle

    manifest = Manifest(
        name="tiny",
        version="1",
        files={"model.onnx": ""},
        input=InputSpec(shape=(2,), dtype="float32", low=0, high=1),
        labels=("a", "b"),
        lineage=Lineage(data="sha256:0", libraries={}, seed=0),
    )
    source = write_bundle(tmp_path / "b", manifest, b"graph")
    local.register(source, key="a")
    found = read_bundle(fresh_cache(local, tmp_path).resolve("tiny"))
    assert (found.manifest, found.graph) == (read_bundle(source).manifest, b"graph")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"key": ""}, "a key is"),
        ({"name": "it's"}, "a model's name"),
        ({"metrics": {"loss": float("nan")}}, "the metric loss is nan"),
        ({"tags": {"aiinfra.key": "x"}}, "a tag may not begin with"),
    ],
)
def test_a_word_that_cannot_be_used_is_refused_before_anything_is_written(
    local: Registry, tmp_path: Path, words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        local.register(bundle(tmp_path / "b"), **({"key": "a"} | words))
    assert not local.backend.root.exists()


# Processes at once, and the template.

_RACER = """
    import json, pathlib, sys, time
    from aiinfra_lab.registry import Registry
    base, number = pathlib.Path(sys.argv[1]), sys.argv[2]
    import mlflow.store.tracking.sqlalchemy_store
    (base / f"ready-{number}").touch()
    while len(list(base.glob("ready-*"))) < 2:
        time.sleep(0.005)
    registry = Registry(base / "root", base / f"cache-{number}")
    found = [registry.register(base / f"b{i}", key=f"k{i}").version for i in range(4)]
    print(json.dumps(found))
"""


def test_two_processes_at_once_make_one_database_and_one_version_a_key(
    tmp_path: Path, local: Registry
) -> None:
    for number in range(4):
        bundle(tmp_path / f"b{number}", bytes([number]))
    words = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_RACER), str(tmp_path)]
    racers = [
        subprocess.Popen([*words, number], stdout=subprocess.PIPE, text=True) for number in "12"
    ]
    try:
        said = [racer.communicate(timeout=200)[0] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert said == ["[1, 2, 3, 4]\n"] * 2
    assert [v.key for v in local.versions("digits")] == ["k0", "k1", "k2", "k3"]
    assert [p.name for p in local.backend.root.glob(".*")] == []


def structure(script: str) -> dict[str, Any]:
    """What a schema is, whatever the order in which it was written down."""
    found: dict[str, Any] = {}
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        objects = connection.execute("select name, sql from sqlite_master").fetchall()
        for name, sql in objects:
            lines = sorted(line.strip().rstrip(",") for line in (sql or "").splitlines())
            columns = connection.execute(f"pragma table_info('{name}')").fetchall()
            found[name] = (lines, columns)
        for (name,) in connection.execute("select name from sqlite_master where type='table'"):
            found[f"rows of {name}"] = sorted(map(str, connection.execute(f"select * from {name}")))
    return found


def test_the_shipped_schema_is_what_the_migrations_give_today() -> None:
    text = template.migrated()
    assert text.partition("\n")[0] == template.schema().partition("\n")[0]
    assert structure(text) == structure(template.schema())
    assert len(template.schema()) < 300_000


def test_the_functions_use_the_registry_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIINFRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIINFRA_MLFLOW_URL", raising=False)
    settings.cache_clear()
    source = bundle(tmp_path / "b")
    with functions.run("exp", {"lr": 0.1}):
        assert functions.register(source, key="a").version == 1
    functions.register(bundle(tmp_path / "c", b"c"), key="b")
    functions.promote("digits", 1)
    functions.promote("digits", 2)
    assert functions.rollback("digits").reference == "digits/1"
    assert functions.describe("digits@champion") == functions.versions("digits")[0]
    assert functions.resolve("digits@champion").parent == tmp_path / "cache" / "bundles"
    assert functions.flush() == []
    assert (tmp_path / "home" / "registry" / "mlflow.db").exists()
    settings.cache_clear()


def test_numbers_that_are_sent_again_are_there_once(local: Registry) -> None:
    with local.runs.run("exp") as run:
        rows = [("loss", 0.5, 1000, step) for step in range(3)]
        for _ in range(2):  # as after an answer that was lost
            tracking.send(local.backend, run.run_id, rows)
    history = local.backend.client.get_metric_history(run.run_id, "loss")
    assert [metric.step for metric in history] == [0, 1, 2]
