"""A bundle is whole or refused with one sentence; also the tiny model that other tests serve."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_bytes
from aiinfra_lab.serving import Bundle, InputSpec, Lineage, Manifest, read_bundle, write_bundle
from aiinfra_lab.serving.session import Session

SHAPE = (2, 3)
LABELS = ("left", "middle", "right")


def tiny_graph(kind: int = TensorProto.UINT8, labels: int = 3) -> bytes:
    """Softmax over the sums of the columns: the label is the column with the most ink."""
    weights = np.tile(np.eye(3, labels, dtype=np.float32), (2, 1)) / 10
    nodes = [
        helper.make_node("Cast", ["x"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "row"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", kind, ["n", *SHAPE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", labels])],
        [
            helper.make_tensor("row", TensorProto.INT64, [2], [-1, 6]),
            helper.make_tensor("weights", TensorProto.FLOAT, [6, labels], weights.ravel()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def tiny_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1",
        "files": {"model.onnx": ""},
        "input": InputSpec(shape=SHAPE, dtype="uint8", low=0, high=255),
        "labels": LABELS,
        "lineage": Lineage(data="sha256:0", libraries={}, seed=0),
    }
    return Manifest(**(fields | changes))


def tiny_bundle(folder: Path, **changes: Any) -> Path:
    return write_bundle(folder, tiny_manifest(**changes), tiny_graph())


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    graph = tiny_graph()
    folder = write_bundle(tmp_path / "a" / "b", tiny_manifest(), graph)
    manifest = tiny_manifest(files={"model.onnx": digest_bytes(graph)})
    assert read_bundle(folder) == Bundle(folder, manifest, graph)
    assert [entry.name for entry in folder.parent.iterdir()] == ["b"]
    assert (folder.stat().st_mode & 0o777) == 0o755


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove_folder(folder: Path) -> None:
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()


def other_graph(folder: Path, graph: bytes) -> None:
    (folder / "model.onnx").write_bytes(graph)
    change_manifest(folder, files={"model.onnx": digest_bytes(graph)})


BROKEN = {
    "no folder": (remove_folder, "it is not a folder"),
    "no manifest": (lambda f: (f / "model.json").unlink(), "no readable model.json"),
    "no graph": (lambda f: (f / "model.onnx").unlink(), "no readable model.onnx"),
    "a folder as graph": (
        lambda f: ((f / "model.onnx").unlink(), (f / "model.onnx").mkdir()),
        "no readable model.onnx: Is a directory",
    ),
    "no json": (lambda f: (f / "model.json").write_text("{"), "model.json cannot be used"),
    "an unknown field": (lambda f: change_manifest(f, owner="me"), "owner: Extra inputs"),
    "another format": (lambda f: change_manifest(f, format="pickle"), "format: Input should be"),
    "a path out of it": (
        lambda f: change_manifest(f, files={"model.onnx": "", "../x": ""}),
        "plain name",
    ),
    "no graph named": (lambda f: change_manifest(f, files={"a": ""}), "must name model.onnx"),
    "labels twice": (lambda f: change_manifest(f, labels=["a", "a", "b"]), "labels must differ"),
    "a name for a shell": (lambda f: change_manifest(f, name="a b"), "name: String should match"),
    "other bytes": (
        lambda f: (f / "model.onnx").write_bytes(tiny_graph()[:-1] + b"x"),
        "damaged: model.onnx has other bytes",
    ),
    "no onnx": (lambda f: other_graph(f, b"hello"), "no ONNX graph that can be loaded"),
    "another type": (lambda f: other_graph(f, tiny_graph(TensorProto.FLOAT)), r"found tensor\(fl"),
    "more labels": (lambda f: other_graph(f, tiny_graph(labels=4)), r"found shape \(2, 4\)"),
    "another shape": (
        lambda f: change_manifest(
            f, input={"shape": [3, 2], "dtype": "uint8", "low": 0, "high": 255}
        ),
        "does not take the input that its manifest names",
    ),
    "a range that uint8 lacks": (
        lambda f: change_manifest(
            f, input={"shape": [2, 3], "dtype": "uint8", "low": 0, "high": 256}
        ),
        "uint8 holds 0..255",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bundle_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    folder = tiny_bundle(tmp_path / "bundle")
    Session.open(folder)
    spoil, words = BROKEN[case]
    spoil(folder)
    with pytest.raises(InputError, match=words) as refusal:
        Session.open(folder)
    assert "\n" not in str(refusal.value)


def test_writers_at_once_leave_one_whole_bundle_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    begin, failures = threading.Barrier(8), []

    def write() -> None:
        begin.wait()
        try:
            read_bundle(tiny_bundle(target))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_reader_never_sees_a_part_of_a_bundle(tmp_path: Path) -> None:
    graph = bytes(4 << 20)  # large enough that a copy takes its time
    for number in range(5):
        target = tmp_path / str(number)
        writer = threading.Thread(target=write_bundle, args=(target, tiny_manifest(), graph))
        writer.start()
        while not target.exists() and writer.is_alive():
            pass
        read_bundle(target)
        writer.join()


def test_a_whole_bundle_is_kept_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle")
    tiny_bundle(folder, version="2")
    assert read_bundle(folder).manifest.version == "1"
    (folder / "model.onnx").write_bytes(b"")
    tiny_bundle(folder, version="2")
    assert read_bundle(folder).manifest.version == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_nothing_but_a_bundle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("years")
    with pytest.raises(InputError, match="something else than a bundle; found thesis"):
        tiny_bundle(tmp_path / "home")
    (tmp_path / "file").write_text("a")
    with pytest.raises(InputError, match="is in the way"):
        tiny_bundle(tmp_path / "file")
    assert (tmp_path / "home" / "thesis").read_text() == "years"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "home"]
