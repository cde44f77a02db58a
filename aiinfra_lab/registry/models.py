"""The registry of models: versions by key, aliases that move and go back, verified files.

How one key gives one version. MLflow has no unique keys, but it numbers versions without gaps
in the order in which they are committed. So whoever creates a version looks afterwards for the
lowest number with the same key: a lower one was committed before and is seen, and then one's own
is deleted. On one machine a lock spares the duplicate; between machines it is seen for a moment,
and every reader takes the lowest. A crash between the two steps leaves a duplicate that readers
pass over and the next retry deletes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.registry import aliases
from aiinfra_lab.registry.backend import Backend, code_of
from aiinfra_lab.registry.bundle import bundle_digest, read_manifest
from aiinfra_lab.registry.cache import BundleCache
from aiinfra_lab.registry.errors import DamagedModel, RegistryAway, RegistryError, UnknownModel
from aiinfra_lab.registry.manifest import ModelManifest
from aiinfra_lab.registry.outbox import BUNDLE, Order, Outbox
from aiinfra_lab.registry.tracking import Runs
from aiinfra_lab.registry.versions import (
    DIGEST,
    FORMAT,
    KEY,
    LINEAGE,
    METRICS,
    OURS,
    PATH,
    ModelVersion,
    checked_alias,
    checked_key,
    checked_name,
    from_recorded,
    parse_reference,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Recorded
    from mlflow.tracking import MlflowClient

CARRIERS = "registry"  # the experiment of runs that only carry a model's files


class Registry:
    """Models and runs of one MLflow, with a local cache of verified bundles.

    Parameters
    ----------
    root : Path
        The folder for the database, the files, the outbox.
    cache : Path
        The folder for bundles by digest.
    url : str, optional
        A tracking server; None: SQLite in ``root``.
    artifacts : str, optional
        Where new experiments keep their files, like ``s3://bucket/prefix``. boto3's variables say
        where that S3 is (``S3Access.environment`` gives them).
    """

    def __init__(
        self, root: Path, cache: Path, url: str | None = None, artifacts: str | None = None
    ) -> None:
        self.backend = Backend(root, url, artifacts)
        self.outbox = Outbox(root / "outbox")
        self.runs = Runs(self.backend)
        self._cache = BundleCache(cache)

    # Register.

    def register(
        self,
        bundle: str | Path,
        *,
        name: str | None = None,
        key: str,
        lineage: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Give the bundle the next version of its name, once for each ``key``.

        Parameters
        ----------
        bundle : str or Path
            The folder with ``model.json``.
        name : str, optional
            The model; by default the manifest's name.
        key : str
            Whatever is retried with the same key gives the same version.
        lineage, metrics, tags : mapping, optional
            Beside the manifest's.

        Raises
        ------
        InputError
            The bundle is damaged or half-written, the key stands for other bytes, or a word
            cannot be used.
        RegistryAway
            The registry cannot be reached. The bundle is kept, ``error.kept`` says where, and
            ``flush`` registers it later.
        """
        key = checked_key(key)
        for metric, value in (metrics or {}).items():
            if not math.isfinite(value):
                raise InputError(f"the metric {metric} is {value}", needed="a finite number")
        if strange := next((tag for tag in tags or {} if tag.startswith(OURS)), None):
            raise InputError(f"a tag may not begin with {OURS}", found=repr(strange))
        digest = bundle_digest(bundle)
        manifest = self._cache.add(bundle, digest)
        staged = self._cache.folder(digest)
        current = self.runs.current()
        order = Order(
            name=checked_name(name or manifest.name),
            key=key,
            digest=digest,
            run_id=current.run_id if current else None,
            metrics=dict(metrics or {}),
            lineage=dict(lineage or {}),
            tags=dict(tags or {}),
        )
        try:
            return self._register(order, staged, manifest)
        except RegistryAway as error:
            place = self.outbox.keep(order, staged)
            away = RegistryAway(
                f"{error.message}; the model is kept in {place}",
                fix="flush() registers it when the registry answers again.",
            )
            away.kept = str(place)
            raise away from None

    def flush(self) -> list[ModelVersion]:
        """Send the metrics and register the models that wait; gives the versions.

        One that is refused stays, and does not stop the others; the first refusal is raised at
        the end.

        Raises
        ------
        RegistryAway
            The registry still cannot be reached.
        """
        self.runs.flush()
        done: list[ModelVersion] = []
        refusals: list[AIInfraLabError] = []
        for place in self.outbox.places():
            try:
                order = self.outbox.read(place)
                manifest = read_manifest(place / BUNDLE)
                done.append(self._register(order, place / BUNDLE, manifest))
                self.outbox.remove(place)
            except RegistryAway:
                raise
            except AIInfraLabError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
        return done

    def _register(self, order: Order, folder: Path, manifest: ModelManifest) -> ModelVersion:
        with self._client() as client, self.backend.lock():
            try:
                client.create_registered_model(order.name)
            except Exception as error:
                if code_of(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
            if found := self._under(client, order.name, order.key):
                return self._kept(client, order, found)
            run_id = order.run_id or self.runs.carrier(CARRIERS, order.name, order.key)
            path = f"models/{order.digest.removeprefix('sha256:')[:16]}"
            self._store(client, run_id, folder, path)
            uri = client.get_run(run_id).info.artifact_uri
            client.create_model_version(
                order.name,
                source=f"{uri}/{path}",
                run_id=run_id,
                tags=order.tags | _our_tags(order, manifest, path),
                await_creation_for=0,
            )
            if order.run_id:
                client.set_tag(run_id, f"{OURS}model.{order.name}", order.key)
            return self._kept(client, order, self._under(client, order.name, order.key))

    def _store(self, client: MlflowClient, run_id: str, folder: Path, path: str) -> None:
        try:
            client.log_artifacts(run_id, str(folder), path)
        except Exception as error:
            # Whatever the reason (MLflow hides most of it), the model is worth keeping.
            raise RegistryAway(
                f"the registry {self.backend.where} cannot store files ({type(error).__name__})",
                fix="Look whether its file store answers and has room.",
            ) from None

    def _kept(self, client: MlflowClient, order: Order, found: list[Recorded]) -> ModelVersion:
        first, *others = found
        for other in others:
            client.delete_model_version(other.name, str(other.version))
        if (digest := first.tags.get(DIGEST)) != order.digest:
            raise InputError(
                f"the key {order.key!r} stands for version {first.version} of {order.name}, "
                "which has other bytes",
                found=order.digest,
                needed=digest,
                fix="Register the new model under a key of its own.",
            )
        return from_recorded(first, client.get_registered_model(order.name).aliases)

    def _under(self, client: MlflowClient, name: str, key: str) -> list[Recorded]:
        """The versions with ``key``, the first first."""
        wanted = f"name = '{name}' and tags.`{KEY}` = '{key}'"
        return sorted(client.search_model_versions(wanted), key=lambda v: int(v.version))

    # Look.

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, the oldest first.

        Raises
        ------
        UnknownModel
            There is no such model.
        """
        checked_name(name)
        with self._client() as client:
            pointing = self._aliases(client, name)
            found: dict[str, ModelVersion] = {}
            for recorded in self._all(client, name):
                version = from_recorded(recorded, pointing)
                found.setdefault(version.key or f"\0{version.version}", version)
            return list(found.values())

    def describe(self, reference: str) -> ModelVersion:
        """The version that ``digits@champion``, ``digits/3`` or ``digits`` (the latest) names.

        Raises
        ------
        UnknownModel
            There is no such model, version or alias.
        """
        name, word = parse_reference(reference)
        every = self.versions(name)
        if word is None:
            if every:
                return every[-1]
            raise UnknownModel(f"the model {name} has no version yet")
        for version in every:
            if word == version.version or word in version.aliases:
                return version
        if isinstance(word, int):
            numbers = ", ".join(str(v.version) for v in every) or "none"
            raise UnknownModel(f"the model {name} has no version {word}", found=numbers)
        known = ", ".join(sorted({a for v in every for a in v.aliases})) or "none"
        raise UnknownModel(
            f"the model {name} has no alias {word}",
            found=known,
            fix=f"promote({name!r}, VERSION, {word!r}) gives it.",
        )

    def resolve(self, reference: str) -> Path:
        """A local folder with the bundle that ``reference`` names, every byte checked.

        The folder belongs to the cache: read it, and do not write to it.

        Raises
        ------
        UnknownModel
            There is no such model, version or alias.
        DamagedModel
            The registry holds other bytes than were registered.
        RegistryError
            The files are gone, or their store does not answer.
        """
        version = self.describe(reference)
        if not version.digest:
            raise DamagedModel(f"{version.reference} was not registered by this library")
        if not self._cache.has(version.digest):
            self._fetch(version)
        return self._cache.folder(version.digest)

    def _fetch(self, version: ModelVersion) -> None:
        with self._cache.part() as part:
            with self._client() as client:
                path = client.get_model_version(version.name, str(version.version)).tags[PATH]
                try:
                    fetched = Path(client.download_artifacts(version.run_id, path, str(part)))
                except Exception as error:
                    raise RegistryError(
                        f"the files of {version.reference} cannot be fetched: they are gone, or "
                        f"their store does not answer ({type(error).__name__})",
                        fix="If they are gone, register the model again under another key.",
                    ) from None
            try:
                self._cache.add(fetched, version.digest)
            except InputError as error:
                raise DamagedModel(
                    f"the registry's files of {version.reference} are damaged: {error.message}",
                    needed=error.needed,
                    found=error.found,
                    fix="Register the model again under another key.",
                ) from None

    def _aliases(self, client: MlflowClient, name: str) -> dict[str, str]:
        try:
            return dict(client.get_registered_model(name).aliases)
        except Exception as error:
            if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
        known = [m.name for m in client.search_registered_models(max_results=6)]
        words = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
        raise UnknownModel(f"there is no model {name}", found=words or "none")

    def _all(self, client: MlflowClient, name: str) -> list[Recorded]:
        found: list[Recorded] = []
        token: str | None = None
        while True:
            page = client.search_model_versions(f"name = '{name}'", page_token=token)
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda v: int(v.version))

    # Aliases.

    def promote(self, name: str, version: int, alias: str = "champion") -> ModelVersion:
        """Let ``alias`` point to ``version``, and remember what it pointed to.

        Raises
        ------
        UnknownModel
            There is no such model or version.
        """
        checked_alias(alias)
        with self.backend.lock():
            wanted = self.describe(f"{checked_name(name)}/{version}")
            with self._client() as client:
                aliases.point(client, name, alias, wanted.version)
        return self.describe(wanted.reference)

    def rollback(self, name: str, alias: str = "champion") -> ModelVersion:
        """Let ``alias`` point to the version that had it before; again: to the one before that.

        Raises
        ------
        UnknownModel
            There is no such model or alias, or no version before.
        """
        checked_alias(alias)
        with self.backend.lock():
            current = self.describe(f"{checked_name(name)}@{alias}")
            left = {v.version: v for v in self.versions(name)}
            with self._client() as client:
                former = aliases.former(client, name, alias)
                # Deleted versions are passed over, and one that a crash wrote down twice.
                while former and (former[-1] == current.version or former[-1] not in left):
                    former.pop()
                if not former:
                    raise UnknownModel(
                        f"{current.reference} is the first that had the alias {alias}",
                        fix=f"promote({name!r}, VERSION, {alias!r}) names another.",
                    )
                target = left[former.pop()]
                client.set_registered_model_alias(name, alias, str(target.version))
                aliases.remember(client, name, alias, former)
        return self.describe(target.reference)

    # With MLflow.

    @contextmanager
    def _client(self) -> Iterator[MlflowClient]:
        client = self.backend.client
        with self.backend.translated():
            yield client


def _our_tags(order: Order, manifest: ModelManifest, path: str) -> dict[str, str]:
    metrics = {name: metric.value for name, metric in manifest.metrics.items()} | order.metrics
    lineage: dict[str, Any] = manifest.lineage.model_dump() | order.lineage
    return {
        KEY: order.key,
        DIGEST: order.digest,
        FORMAT: manifest.format,
        METRICS: json.dumps(metrics),
        LINEAGE: json.dumps(lineage, ensure_ascii=False),
        PATH: path,
    }
