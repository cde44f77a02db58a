"""Volumes: what their folders hold, how they change, and what a subPath may reach."""

import os
import random
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from node_builders import CORE, FakeApi, make_container, make_pod

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.kube.node.problems import ConfigProblem, VolumeProblem
from aiinfra_lab.kube.node.provision import volumes as volumes_module
from aiinfra_lab.kube.node.provision.mounting import mounts, working_folder
from aiinfra_lab.kube.node.provision.payload import Owner, Payload
from aiinfra_lab.kube.node.provision.projection import File, write_projection
from aiinfra_lab.kube.node.provision.sources import Sources
from aiinfra_lab.kube.node.provision.tokens import Tokens
from aiinfra_lab.kube.node.provision.volumes import Volume, Volumes
from aiinfra_lab.kube.runtime.spec import Mount

CAPACITY = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def api():
    return FakeApi()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def volumes(api, clock, tmp_path):
    tokens = Tokens(api, clock=clock, draw=random.Random(7))
    payload = Payload(Sources(api, "the CA"), tokens, CAPACITY)
    return Volumes(api, payload, tmp_path / "volumes.txt")


async def fill(volumes, tmp_path, volume, owner=Owner(), pod=None):  # noqa: B008
    pod = pod or make_pod(volumes=[{"name": "v", **volume}])
    return (await volumes.fill(pod, tmp_path / "volumes", owner))["v"]


def contents(folder):
    """Every file as a container sees it: path, text."""
    return {
        str(path.relative_to(folder)): path.read_bytes().decode()
        for top in folder.iterdir()
        if not top.name.startswith("..")
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file()
    }


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# A projection: contents that change all at once.

NAMES = st.sampled_from(["a", "b", "d/x", "d/y", "e/f/g"])
PROJECTIONS = st.dictionaries(NAMES, st.text(max_size=4), max_size=5)


@law(deadline=None, max_examples=30)
@given(st.lists(PROJECTIONS, min_size=1, max_size=5))
def test_a_folder_shows_exactly_the_last_projection(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("projection")
    for texts in history:
        files = {name: File(text.encode()) for name, text in texts.items()}
        write_projection(folder, files)
        assert contents(folder) == texts
        shown = {name.partition("/")[0] for name in texts}
        assert {path.name for path in folder.iterdir() if path.name[:2] != ".."} == shown
        assert not write_projection(folder, files)


def test_no_reader_ever_misses_a_file_that_stays(tmp_path):
    stays = {"a": File(b"same"), "d/x": File(b"same")}
    write_projection(tmp_path, stays)
    missed, reads, over = [], 0, threading.Event()

    def read():
        nonlocal reads
        while not over.is_set():
            reads += 1
            for name in ("a", "d/x"):
                try:
                    if (tmp_path / name).read_bytes() != b"same":
                        missed.append(name)
                except OSError as error:
                    missed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(100):
            write_projection(tmp_path, stays | {f"b{turn % 3}": File(b"%d" % turn)})
    finally:
        over.set()
        reader.join()
    assert reads > 10
    assert not missed


def test_who_followed_the_link_before_the_change_still_finds_the_old_files(tmp_path):
    def age(*names):
        for name in names:
            os.utime(tmp_path / name, (1e9, 1e9))

    def generations():
        return sorted(path.name for path in tmp_path.glob("..2*"))

    write_projection(tmp_path, {"a": File(b"1")})
    first = (tmp_path / "..data").readlink()
    age(first)  # it was right for a long time
    write_projection(tmp_path, {"a": File(b"2")})
    second = (tmp_path / "..data").readlink()
    write_projection(tmp_path, {"a": File(b"3")})
    third = (tmp_path / "..data").readlink()
    assert (tmp_path / first / "a").read_bytes() == b"1"
    assert (tmp_path / second / "a").read_bytes() == b"2"
    age(first, third)
    assert not write_projection(tmp_path, {"a": File(b"3")})
    assert generations() == sorted(map(str, [second, third]))
    age(second)
    write_projection(tmp_path, {"a": File(b"4")})
    assert generations() == sorted(map(str, [third, (tmp_path / "..data").readlink()]))


def test_two_files_never_come_from_two_versions(tmp_path):
    write_projection(tmp_path, {"a": File(b"1"), "b": File(b"1")})
    data = tmp_path / "..data"
    seen = data.readlink()
    write_projection(tmp_path, {"a": File(b"2"), "b": File(b"2")})
    assert data.readlink() != seen
    assert {p.readlink() for p in (tmp_path / "a", tmp_path / "b")} == {
        Path("..data/a"),
        Path("..data/b"),
    }


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "..data", "..", "", "."])
def test_a_file_cannot_leave_its_volume(tmp_path, name):
    with pytest.raises(VolumeProblem, match="invalid path"):
        write_projection(tmp_path / "v", {name: File(b"")})
    assert not (tmp_path / "v").exists()


def test_a_file_cannot_lie_in_another_file(tmp_path):
    with pytest.raises(VolumeProblem, match="below a file"):
        write_projection(tmp_path, {"a": File(b""), "a/b": File(b"")})


def test_a_changed_mode_alone_is_a_change(tmp_path):
    assert write_projection(tmp_path, {"a": File(b"1", 0o600)})
    assert mode(tmp_path / "a") == 0o600
    assert write_projection(tmp_path, {"a": File(b"1", 0o440)})
    assert mode(tmp_path / "a") == 0o440


# ConfigMaps, Secrets, the downward API, tokens.


async def test_a_config_map_is_a_file_for_each_key(api, volumes, tmp_path):
    api.config_map("cm", {"blob": b"\xc3\xa4"}, **{"app.conf": "x=1\n"})
    found = await fill(volumes, tmp_path, {"configMap": {"name": "cm", "defaultMode": 0o440}})
    assert found.read_only
    assert contents(found.path) == {"app.conf": "x=1\n", "blob": "ä"}
    assert mode(found.path / "blob") == 0o440


async def test_items_choose_paths_and_modes(api, volumes, tmp_path):
    api.secret("s", key=b"1", other=b"2")
    items = [{"key": "key", "path": "deep/er/name", "mode": 0o400}]
    found = await fill(volumes, tmp_path, {"secret": {"secretName": "s", "items": items}})
    assert contents(found.path) == {"deep/er/name": "1"}
    assert mode(found.path / "deep/er/name") == 0o400


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
        ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "k", "path": "k"}]}},
            "configmap references non-existent config key: k",
        ),
        (
            {"secret": {"secretName": "s", "items": [{"key": "k", "path": "k"}]}},
            "references non-existent secret key: k",
        ),
        ({"nfs": {"server": "x"}}, "a volume of the kind nfs"),
        ({"projected": {"sources": [{"clusterTrustBundle": {}}]}}, "source clusterTrustBundle"),
        (
            {"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}},
            "unsupported fieldPath: status.podIP",
        ),
    ],
)
async def test_what_is_missing_or_unknown_is_said(api, volumes, tmp_path, volume, sentence):
    api.config_map("cm", other="1")
    api.secret("s", other=b"1")
    with pytest.raises(VolumeProblem) as problem:
        await fill(volumes, tmp_path, volume)
    assert str(problem.value).startswith('MountVolume.SetUp failed for volume "v" : ')
    assert sentence in str(problem.value)


async def test_what_is_optional_may_be_missing(api, volumes, tmp_path):
    found = await fill(volumes, tmp_path, {"configMap": {"name": "no", "optional": True}})
    assert contents(found.path) == {}
    api.config_map("no", a="1")
    items = [{"key": "b", "path": "b"}]
    later = {"configMap": {"name": "no", "optional": True, "items": items}}
    assert contents((await fill(volumes, tmp_path, later)).path) == {}


async def test_a_volume_that_nobody_mounts_is_not_made(volumes, tmp_path):
    pod = make_pod(volumes=[{"name": "v", "nfs": {}}], containers=[make_container()])
    assert await volumes.fill(pod, tmp_path, Owner()) == {}


def service_account(**token):
    ca = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607, **token}},
        {"configMap": ca},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"projected": {"sources": sources, "defaultMode": 420}}


async def test_the_service_accounts_folder(api, volumes, tmp_path):
    found = await fill(volumes, tmp_path, service_account(audience="vault"))
    assert contents(found.path) == {"token": "token-1", "ca.crt": "the CA", "namespace": "lab"}
    path, body = api.calls[-1]
    assert path == f"{CORE}/serviceaccounts/default/token"
    assert body["spec"] == {
        "audiences": ["vault"],
        "expirationSeconds": 3607,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p"},
    }


async def test_a_token_is_renewed_at_four_fifths_of_its_life(api, volumes, clock, tmp_path):
    pod = make_pod(volumes=[{"name": "v", **service_account()}])
    token = (await fill(volumes, tmp_path, {}, pod=pod)).path / "token"
    clock.advance(0.8 * 3600 - 11)
    assert await volumes.refresh(pod, tmp_path / "volumes", Owner()) == []
    assert token.read_text() == "token-1"
    clock.advance(11)
    api.away = True
    assert await volumes.refresh(pod, tmp_path / "volumes", Owner()) == []
    assert token.read_text() == "token-1"  # as long as it is valid
    api.away, api.lives_until = False, "2026-01-01T02:00:00Z"
    assert await volumes.refresh(pod, tmp_path / "volumes", Owner()) == []
    renewed = token.read_text()
    assert renewed not in ("token-1", "")


async def test_the_renewals_of_pods_that_began_together_are_spread(api, clock):
    tokens = Tokens(api, clock=clock, draw=random.Random(7))
    pods = [make_pod(f"p{n}") for n in range(20)]
    for pod in pods:
        await tokens.token(pod)
    clock.advance(0.8 * 3600 - 5)
    before = len(api.calls)
    for pod in pods:
        await tokens.token(pod)
    assert 2 < len(api.calls) - before < 18


async def test_an_expired_token_is_not_kept(api, clock):
    tokens = Tokens(api, clock=clock)
    await tokens.token(make_pod())
    clock.advance(3601)
    api.away = True
    with pytest.raises(VolumeProblem, match="failed to fetch token: nobody answers"):
        await tokens.token(make_pod())


async def test_a_long_token_is_renewed_after_a_day(api, clock):
    api.lives_until = "2026-02-01T00:00:00Z"
    tokens = Tokens(api, clock=clock)
    await tokens.token(make_pod(), seconds=31 * 86400)
    clock.advance(86400)
    await tokens.token(make_pod(), seconds=31 * 86400)
    assert len(api.calls) == 2


async def test_fields_and_resources_as_files(volumes, tmp_path):
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
    ]
    pod = make_pod(volumes=[{"name": "v", "downwardAPI": {"items": items}}])
    pod["metadata"]["labels"] = {"b": 'say "x"', "a": "1"}
    found = await fill(volumes, tmp_path, {}, pod=pod)
    assert contents(found.path) == {"labels": 'a="1"\nb="say \\"x\\""', "cpu": "4"}
    pod["metadata"]["labels"] = {"a": "2"}
    await volumes.refresh(pod, tmp_path / "volumes", Owner())
    assert (found.path / "labels").read_text() == 'a="2"'


async def test_a_refresh_brings_new_contents_and_keeps_the_old_when_there_are_none(
    api, volumes, tmp_path
):
    api.config_map("cm", a="1", b="1")
    pod = make_pod(volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    found = await fill(volumes, tmp_path, {}, pod=pod)
    api.config_map("cm", a="2", c="2")
    assert await volumes.refresh(pod, tmp_path / "volumes", Owner()) == []
    assert contents(found.path) == {"a": "2", "c": "2"}
    api.objects.clear()
    problems = await volumes.refresh(pod, tmp_path / "volumes", Owner())
    assert problems == ['MountVolume.SetUp failed for volume "v" : configmap "cm" not found']
    assert contents(found.path) == {"a": "2", "c": "2"}


@root_only
async def test_files_of_a_pod_with_a_user_and_a_group_are_theirs(api, volumes, tmp_path):
    api.secret("s", key=b"1")
    pod = make_pod(
        volumes=[
            {"name": "t", **service_account()},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "e", "emptyDir": {}},
        ]
    )
    found = await volumes.fill(pod, tmp_path / "volumes", Owner(1234, 5678))
    token, key = found["t"].path / "token", found["s"].path / "key"
    assert (token.stat().st_uid, token.stat().st_gid, mode(token)) == (1234, 5678, 0o640)
    assert (key.stat().st_gid, mode(key)) == (5678, 0o440)
    assert found["e"].path.stat().st_gid == 5678
    assert mode(found["e"].path) == 0o2777
    alone = await volumes.fill(pod, tmp_path / "other", Owner(1234))
    assert mode(alone["t"].path / "token") == 0o600


# Folders.


async def test_an_empty_dir_is_one_folder_for_all_and_stays(volumes, tmp_path):
    found = await fill(volumes, tmp_path, {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    assert mode(found.path) == 0o777
    (found.path / "x").write_text("1")
    again = await fill(volumes, tmp_path, {"emptyDir": {}})
    assert contents(again.path) == {"x": "1"}


@pytest.mark.parametrize(
    ("kind", "exists", "outcome"),
    [
        ("", "", "folder"),
        ("", "file", "file"),
        ("", "folder", "folder"),
        ("Directory", "folder", "folder"),
        ("Directory", "", "is not a directory"),
        ("Directory", "file", "is not a directory"),
        ("DirectoryOrCreate", "", "folder"),
        ("DirectoryOrCreate", "file", "is not a directory"),
        ("File", "file", "file"),
        ("File", "", "is not a file"),
        ("File", "folder", "is not a file"),
        ("FileOrCreate", "", "file"),
        ("FileOrCreate", "folder", "is not a file"),
        ("Socket", "file", "is not a socket file"),
        ("Ghost", "file", "Ghost is an invalid volume type"),
    ],
)
async def test_types_of_host_paths(volumes, tmp_path, kind, exists, outcome):
    path = tmp_path / "on-the-host"
    if exists == "file":
        path.write_text("")
    elif exists:
        path.mkdir()
    volume = {"hostPath": {"path": str(path), "type": kind}}
    if outcome in ("file", "folder"):
        found = await fill(volumes, tmp_path, volume)
        assert found == Volume(path)
        assert path.is_file() == (outcome == "file")
        assert path.exists()
    else:
        with pytest.raises(VolumeProblem, match=outcome):
            await fill(volumes, tmp_path, volume)


async def test_a_host_path_that_cannot_be_made_is_said(volumes, tmp_path):
    (tmp_path / "file").write_text("")
    volume = {"hostPath": {"path": str(tmp_path / "file" / "below")}}
    with pytest.raises(VolumeProblem, match=r'"v" : (Not a directory|File exists)'):
        await fill(volumes, tmp_path, volume)


def claim(api, phase="Bound", volume_name="pv", uid="claim-uid", **source):
    path = f"{CORE}/persistentvolumeclaims/data"
    spec = {"volumeName": volume_name} if volume_name else {}
    api.objects[path] = {"metadata": {"uid": "claim-uid"}, "spec": spec, "status": {"phase": phase}}
    api.objects["/api/v1/persistentvolumes/pv"] = {"spec": {"claimRef": {"uid": uid}, **source}}
    return {"persistentVolumeClaim": {"claimName": "data"}}


async def test_a_claim_is_its_volumes_folder(api, volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(volumes_module, "CLAIMS", tmp_path / "provisioned")
    own, made = tmp_path / "own", tmp_path / "provisioned" / "u1"
    own.mkdir()
    made.mkdir(parents=True)
    assert await fill(volumes, tmp_path, claim(api, local={"path": str(own)})) == Volume(own)
    wanted = claim(api, hostPath={"path": str(made)})
    assert await fill(volumes, tmp_path, wanted) == Volume(made)
    wanted["persistentVolumeClaim"]["readOnly"] = True
    assert await fill(volumes, tmp_path, wanted) == Volume(made, read_only=True)
    # Only what the provisioner made may be removed by whoever reads this.
    assert (tmp_path / "volumes.txt").read_text() == f"{made}\n"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"phase": "Pending", "hostPath": {"path": "/x"}}, "PVC is not bound"),
        ({"volume_name": "", "hostPath": {"path": "/x"}}, "PVC is not bound"),
        ({"volume_name": "gone"}, "failed to fetch PVC from API server"),
        ({"uid": "other", "hostPath": {"path": "/x"}}, "bound to another claim"),
        ({"nfs": {}}, "cannot mount volume pv; needed a persistent volume of the kind hostPath"),
        ({"volumeMode": "Block", "hostPath": {"path": "/x"}}, "volumeMode Block"),
        ({"local": {"path": "/no/such/folder"}}, "path /no/such/folder does not exist"),
    ],
)
async def test_a_claim_that_cannot_be_mounted_says_why(api, volumes, tmp_path, fields, sentence):
    with pytest.raises(VolumeProblem) as problem:
        await fill(volumes, tmp_path, claim(api, **fields))
    assert "error processing PVC lab/data: " in str(problem.value)
    assert sentence in str(problem.value)


async def test_a_claim_that_is_not_there(volumes, tmp_path):
    with pytest.raises(VolumeProblem, match="failed to fetch PVC from API server"):
        await fill(volumes, tmp_path, {"persistentVolumeClaim": {"claimName": "none"}})


def test_a_tree_is_removed_with_what_took_its_rights_away_and_without_what_it_links_to(tmp_path):
    code = """
import os, sys
from pathlib import Path
from aiinfra_lab.kube.node.provision.volumes import remove_tree
tree = Path(sys.argv[1])
if os.geteuid() == 0:  # to root no right is denied
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
(tree / "locked/deep/er").mkdir(parents=True)
(tree / "locked/deep/er/file").write_text("1")
(tree / "link").symlink_to("../kept")
for path, mode in [("locked/deep/er", 0), ("locked/deep", 0o300), ("locked", 0o500)]:
    (tree / path).chmod(mode)
remove_tree(tree)
assert not tree.exists()
"""
    # Not below tmp_path, where another user than root could not come.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "kept").mkdir()
        (folder / "kept" / "file").write_text("1")
        (folder / "kept").chmod(0o755)
        command = [sys.executable, "-c", code, str(folder / "tree")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert (folder / "kept" / "file").read_text() == "1"


# Mounts.


def mounted(volume, *, variables=None, **fields):
    container = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/data", **fields}]}
    ((name, mount),) = mounts(container, {"v": volume}, variables or {})
    assert name == "v"
    return mount


def test_a_mount_is_read_only_by_its_volume_or_by_itself(tmp_path):
    assert not mounted(Volume(tmp_path)).read_only
    assert mounted(Volume(tmp_path), readOnly=True).read_only
    assert mounted(Volume(tmp_path, read_only=True)).read_only
    assert mounted(Volume(tmp_path), mountPath="rel/x/").target == "/rel/x"


def test_a_sub_path_is_followed_and_made(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("there")
    for sub, source in [("there", "there"), ("file", "file"), ("link", "there"), ("a/b/", "a/b")]:
        assert mounted(Volume(tmp_path), subPath=sub).source == tmp_path.resolve() / source
    assert (tmp_path / "a" / "b").is_dir()
    made = mounted(Volume(tmp_path), subPathExpr="runs/$(POD)", variables={"POD": "p"})
    assert made.source == tmp_path.resolve() / "runs/p"


@pytest.mark.parametrize(
    "sub", ["../x", "a/../../x", "/etc", "out", "out/x", "far/x", "loop", "f/x"]
)
def test_a_sub_path_cannot_leave_its_volume(tmp_path, sub):
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "secret").mkdir()
    (volume / "out").symlink_to("../secret")
    (volume / "far").symlink_to(tmp_path / "secret")
    (volume / "loop").symlink_to("loop")
    (volume / "f").write_text("")
    with pytest.raises(ConfigProblem, match=r'subPath ".*" of volumeMount "v"'):
        mounted(Volume(volume), subPath=sub)
    assert not any((tmp_path / "secret").iterdir())


def test_a_sub_path_by_a_variable_cannot_leave_either(tmp_path):
    with pytest.raises(ConfigProblem, match="a path within the volume"):
        mounted(Volume(tmp_path), subPathExpr="$(X)", variables={"X": "../../etc"})
    with pytest.raises(ConfigProblem, match="missing value for X"):
        mounted(Volume(tmp_path), subPathExpr="$(X)")


async def test_a_sub_path_of_a_config_map_is_its_present_file(api, volumes, tmp_path):
    api.config_map("cm", a="1")
    found = await fill(volumes, tmp_path, {"configMap": {"name": "cm"}})
    assert mounted(found, subPath="a").source.read_text() == "1"
    with pytest.raises(ConfigProblem, match='volume "v" has no "b"'):
        mounted(found, subPath="b")
    api.config_map("cm", a="1", b="2")
    await fill(volumes, tmp_path, {"configMap": {"name": "cm"}})
    assert mounted(found, subPath="b").source.read_text() == "2"


def test_what_a_mount_cannot_be(tmp_path):
    with pytest.raises(ConfigProblem, match="Bidirectional"):
        mounted(Volume(tmp_path), mountPropagation="Bidirectional")
    with pytest.raises(ConfigProblem, match='cannot find volume "v"'):
        list(mounts({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}, {}, {}))


def test_without_mounts_a_container_starts_in_the_innermost_folder_that_would_be_there(tmp_path):
    seen = [
        (name, Mount(source=tmp_path / name, target=target))
        for name, target in [("out", "/no-such"), ("in", "/no-such/in"), ("not", "/no-such/inner")]
    ]
    for wished, folder in [
        ("/no-such/in/x", "in/x"),
        ("/no-such/in/../y", "out/y"),
        ("/no-such", "out"),
        ("/no-suchlike", "own"),
    ]:
        assert working_folder(wished, seen, tmp_path / "own") == str(tmp_path / folder)
    assert working_folder(str(tmp_path), seen, tmp_path / "own") == str(tmp_path)
