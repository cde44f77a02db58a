"""What containers see: volumes at their paths, and the machine otherwise, which stays as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from runtime_host import Desk, alive, all_gone, child, connected

from aiinfra_lab.kube.runtime import namespaces
from aiinfra_lab.kube.runtime.spec import Mount

KIND = "from aiinfra_lab.kube.runtime import namespaces\nnamespaces.probe = lambda: {!r}"
POSSIBLE = namespaces.probe() if sys.platform == "linux" else "none"


@pytest.fixture(scope="module", params=["root", "user"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    if POSSIBLE == "none" or (request.param == "root" and POSSIBLE == "user"):
        pytest.skip(f"no mount namespace of the kind {request.param} here")
    folder = tmp_path_factory.mktemp(f"mounts-{request.param}") / "rt"
    with child(folder, patch=KIND.format(request.param)):
        yield folder


@pytest.fixture
async def desk(folder: Path) -> AsyncIterator[Desk]:
    async for desk in connected(folder):
        assert desk.runtime.isolated
        yield desk
        for state in await desk.runtime.list():
            await desk.runtime.stop(state.id, 0)
            await desk.ended(state.id)
            await desk.runtime.remove(state.id)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume/inner").mkdir(parents=True)
    (tmp_path / "volume/file").write_text("in the volume\n")
    return tmp_path / "volume"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_folder_at_a_path_that_exists(desk: Desk, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/own").touch()
    there = str(tmp_path / "there")
    mount = Mount(source=volume, target=there)
    _, text = await desk.finish("a", f"ls {there}; echo new > {there}/made", mounts=(mount,))
    assert text.split() == ["file", "inner"]
    assert (volume / "made").read_text() == "new\n"
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["own"]


async def test_target_at_the_root_that_does_not_exist(desk: Desk, volume: Path) -> None:
    before = names(Path("/"))
    mount = Mount(source=volume, target="/no-such/deep/folder")
    script = (
        "cat /no-such/deep/folder/file; ls -a / | tail -n +3; echo x > /no-such/deep/folder/made"
    )
    _, text = await desk.finish("a", script, mounts=(mount,))
    first, *seen = text.splitlines()
    assert first == "in the volume"
    assert sorted(seen) == sorted([*before, "no-such"])
    assert (volume / "made").exists()
    assert names(Path("/")) == before


async def test_root_keeps_links_mounts_and_writes(desk: Desk, volume: Path, tmp_path: Path) -> None:
    links = {p.name: str(p.readlink()) for p in Path("/").iterdir() if p.is_symlink()}
    mount = Mount(source=volume, target="/no-such")
    script = (
        "for f in /*; do test -L $f && echo ${f#/}=$(readlink $f); done;"
        f"test -e /proc/self/status && test -c /dev/null && echo through > {tmp_path}/written"
    )
    state, text = await desk.finish("a", script, mounts=(mount,))
    assert state.exit_code == 0
    assert dict(line.split("=") for line in text.splitlines()) == links
    assert (tmp_path / "written").read_text() == "through\n"


async def test_target_below_a_folder_of_the_machine(
    desk: Desk, volume: Path, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    (host / "sub").mkdir(parents=True)
    (host / "sub/deep").write_text("deep")
    (host / "file").write_text("file")
    (host / "link").symlink_to("sub/deep")
    (host / "dangling").symlink_to("nowhere")
    os.mkfifo(host / "fifo")
    host.chmod(0o751)
    mount = Mount(source=volume, target=f"{host}/new/data", read_only=True)
    script = (
        f"cd {host}; ls; cat sub/deep file link new/data/file; readlink dangling; stat -c %a .;"
        "test -p fifo && echo fifo; echo changed > sub/deep; echo private > only-here"
    )
    _, text = await desk.finish("a", script, mounts=(mount,))
    assert text.splitlines() == [
        *sorted(["dangling", "fifo", "file", "link", "new", "sub"]),
        "deepfiledeepin the volume", "nowhere", "751", "fifo",
    ]  # fmt: skip
    assert (host / "sub/deep").read_text() == "changed\n"
    assert names(host) == ["dangling", "fifo", "file", "link", "sub"]


async def test_read_only_is_read_only(desk: Desk, volume: Path) -> None:
    mounts = (
        Mount(source=volume, target="/frozen", read_only=True),
        Mount(source=volume, target="/open"),
    )
    script = "exec 2>&1; touch /frozen/x; touch /open/y; echo z >> /frozen/file; ls /frozen"
    _, text = await desk.finish("a", script, mounts=mounts)
    assert text.count("Read-only file system") == 2
    assert text.splitlines()[-3:] == ["file", "inner", "y"]
    assert (volume / "file").read_text() == "in the volume\n"


async def test_file_over_a_file_and_where_none_is(desk: Desk, volume: Path) -> None:
    hosts = Path("/etc/hosts").read_text()
    mounts = (
        Mount(source=volume / "file", target="/etc/hosts"),
        Mount(source=volume / "file", target="/etc/no-such-file.conf", read_only=True),
    )
    await desk.run(
        "a", "cat /etc/hosts /etc/no-such-file.conf; read x < /etc/passwd; sleep 100", mounts=mounts
    )
    assert await desk.line("a", 1) == "in the volume"
    # Written in place, as the agent does when siblings come and go.
    (volume / "file").write_text("changed\n")
    assert (await desk.runtime.execute("a", ["cat", "/etc/hosts"])).output == b"changed\n"
    assert Path("/etc/hosts").read_text() == hosts
    assert not Path("/etc/no-such-file.conf").exists()


async def test_nested_targets_in_any_order(desk: Desk, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second/two").write_text("2\n")
    mounts = (
        Mount(source=volume / "file", target="/data/sub/single"),
        Mount(source=tmp_path / "second", target="/data/sub", read_only=False),
        Mount(source=tmp_path / "second", target="/data/inner"),
        Mount(source=volume, target="/data"),
    )
    _, text = await desk.finish(
        "a", "cd /data; ls; cat sub/two inner/two sub/single", mounts=mounts
    )
    assert text.splitlines() == ["file", "inner", "sub", "2", "2", "in the volume"]


async def test_target_in_a_read_only_volume_that_lacks_it(
    desk: Desk, volume: Path, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    mounts = (
        Mount(source=volume, target="/data", read_only=True),
        Mount(source=tmp_path / "second", target="/data/absent"),
    )
    script = "exec 2>&1; cat /data/file; touch /data/inner/x; touch /data/absent/y"
    _, text = await desk.finish("a", script, mounts=mounts)
    assert text.startswith("in the volume\n")
    assert "Read-only" in text
    assert (tmp_path / "second/y").exists()
    assert names(volume) == ["file", "inner"]


async def test_target_behind_a_link(desk: Desk, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "real")
    mount = Mount(source=volume, target=f"{tmp_path}/way/run/secrets")
    _, text = await desk.finish("a", f"cat {tmp_path}/real/run/secrets/file", mounts=(mount,))
    assert text == "in the volume\n"
    assert names(tmp_path / "real") == []


async def test_target_behind_a_link_into_a_volume(desk: Desk, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "way").symlink_to("/no-such/inner")
    mounts = (
        Mount(source=tmp_path / "second", target=f"{tmp_path}/way/made"),
        Mount(source=volume, target="/no-such"),
    )
    await desk.finish("a", "touch /no-such/inner/made/here /no-such/inner/kept", mounts=mounts)
    assert names(volume / "inner") == ["kept", "made"]
    assert names(tmp_path / "second") == ["here"]


@pytest.mark.skipif(POSSIBLE != "root", reason="needs root's namespaces")
@pytest.mark.parametrize("kind", ["root", "user"])
async def test_what_is_forbidden_on_a_volume_stays_forbidden(tmp_path: Path, kind: str) -> None:
    # In a user namespace the kernel refuses a mount that forbids less than its source.
    (tmp_path / "strict").mkdir()
    patch = KIND.format(kind) + (
        "\nfrom aiinfra_lab.sandbox import system"
        "\nsystem.unshare(system.CLONE_NEWNS)"
        "\nsystem.mount('none', '/', flags=system.MS_REC | system.MS_PRIVATE)"
        f"\nsystem.mount('tmpfs', '{tmp_path}/strict', 'tmpfs', system.MS_NOSUID | system.MS_NODEV)"
    )
    folder = tmp_path / "rt"
    with child(folder, patch=patch):
        async for desk in connected(folder):
            mount = Mount(source=tmp_path / "strict", target="/no-such", read_only=True)
            script = "grep ' /no-such ' /proc/self/mounts"
            state, text = await desk.finish("a", script, mounts=(mount,))
            assert state.exit_code == 0, state.message
            assert {"ro", "nosuid", "nodev"} <= set(text.split()[3].split(","))


@pytest.mark.skipif(POSSIBLE != "root", reason="needs root's namespaces")
async def test_mounts_do_not_spread_where_the_machine_shares_its_own(
    tmp_path: Path, volume: Path
) -> None:
    patch = (
        "from aiinfra_lab.sandbox import system\n"
        "system.unshare(system.CLONE_NEWNS)\n"
        "system.mount('none', '/', flags=system.MS_REC | 1 << 20)\n"  # MS_SHARED
    )
    folder = tmp_path / "rt"
    (tmp_path / "there").mkdir()
    with child(folder, patch=patch):
        async for desk in connected(folder):
            mounts = (
                Mount(source=volume, target="/no-such"),
                Mount(source=volume, target=str(tmp_path / "there")),
            )
            state = await desk.run("a", "sleep 100", mounts=mounts)
            assert state.status == "running", state.message
            seen = Path(f"/proc/{desk.runtime.pid}/mounts").read_text()
            assert "no-such" not in seen
            assert str(tmp_path) not in seen


async def test_working_folder_that_does_not_exist_is_made(desk: Desk) -> None:
    _, text = await desk.finish("a", "pwd; touch here; ls", cwd="/no-such/work")
    assert text.split() == ["/no-such/work", "here"]
    assert not Path("/no-such").exists()


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("absent", "/data", "does not exist"),
        ("volume", "/etc/passwd", "a folder cannot be mounted there"),
        ("volume/file", "/etc", "a file cannot be mounted there"),
        ("volume", "/etc/passwd/below", "is a file"),
        ("volume", "/", "at /"),
    ],
)
async def test_mount_that_cannot_be_made_is_a_start_error(
    desk: Desk, volume: Path, source: str, target: str, sentence: str
) -> None:
    mount = Mount(source=volume.parent / source, target=target)
    state = await desk.run("a", "true", mounts=(mount,))
    assert (state.status, state.reason, state.exit_code) == ("exited", "StartError", 128)
    assert sentence in state.message


async def test_mounts_are_seen_by_their_container_alone(desk: Desk, volume: Path) -> None:
    mount = Mount(source=volume, target="/no-such")
    await desk.run("a", "sleep 100", mounts=(mount,))
    _, text = await desk.finish("b", "ls / /no-such; grep -c no-such /proc/self/mounts")
    assert "No such file" in text
    assert not Path("/no-such").exists()
    assert "no-such" not in Path("/proc/self/mounts").read_text()


async def test_execute_sees_the_mounts(desk: Desk, volume: Path) -> None:
    mounts = (Mount(source=volume, target="/no-such"),)
    state = await desk.run("a", "sleep 100", mounts=mounts, cwd="/no-such/inner")
    done = await desk.runtime.execute(
        "a", ["sh", "-c", "pwd; cat ../file; ls /proc/self/root/no-such"]
    )
    assert done.output.split(b"\n")[:2] == [b"/no-such/inner", b"in the volume"]
    assert done.exit_code == 0
    # It is in the namespace itself, by which its orphans are known; not only at its root.
    spaces = ["readlink", "/proc/self/ns/mnt", f"/proc/{state.pid}/ns/mnt"]
    own, container = (await desk.runtime.execute("a", spaces)).output.split()
    assert own == container


async def test_container_can_make_a_namespace_of_its_own(desk: Desk, volume: Path) -> None:
    # A root that was only changed by chroot would forbid it, and with it every sandbox.
    mount = Mount(source=volume, target="/no-such")
    state, text = await desk.finish("a", "unshare -Urm cat /no-such/file", mounts=(mount,))
    assert (state.exit_code, text) == (0, "in the volume\n")


async def test_daemon_without_its_environment_is_known_by_its_namespace(desk: Desk) -> None:
    script = "env -i /bin/sh -c '/usr/bin/setsid /bin/sleep 104 & echo $!'; exit 1"
    await desk.run("other", "sleep 100")  # else what nobody claims is ended anyway
    state, text = await desk.finish("a", script)
    assert state.exit_code == 1
    assert not alive(int(text))


@pytest.fixture
def without(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "rt"
    with child(folder, patch=KIND.format("none")):
        yield folder


async def test_without_a_namespace_volumes_are_not_mounted(without: Path, volume: Path) -> None:
    async for desk in connected(without):
        assert not desk.runtime.isolated
        mount = Mount(source=volume, target="/no-such")
        _, text = await desk.finish("a", "ls /no-such || echo none", mounts=(mount,))
        assert "none" in text.splitlines()
        state = await desk.run("b", "true", cwd="/no-such")
        assert (state.reason, state.exit_code) == ("StartError", 128)
        assert "/no-such" in state.message
        await desk.run("c", "sleep 100; :")
        done = await desk.runtime.execute("c", ["sh", "-c", "echo $PPID"])
        assert int(done.output) == desk.runtime.pid


async def test_what_only_linux_has_can_be_missing(tmp_path: Path) -> None:
    # As on macOS, where this was never run: no adopting of orphans, no list of children.
    patch = KIND.format("none") + (
        "\nfrom aiinfra_lab.kube.runtime import family, containers, __main__ as program"
        "\nfamily.own_children = containers.own_children = lambda: None"
        "\nfamily.descendants = lambda pid: []"
        "\nprogram.prctl = lambda *_: False"
    )
    folder = tmp_path / "rt"
    with child(folder, patch=patch):
        async for desk in connected(folder):
            script = "setsid sleep 102 & echo $!; sh -c 'setsid sleep 103 & echo $!'; exit 3"
            state, text = await desk.finish("a", script)
            assert state.exit_code == 3
            await all_gone([int(pid) for pid in text.split()])
            await desk.run("b", "sleep 100")
            done = await desk.runtime.execute(
                "b", ["sh", "-c", "setsid sleep 9 & echo $!; sleep 9"], timeout=0.3
            )
            await all_gone([int(done.output)])
            assert (await desk.state("b")).status == "running"


LOOK = (
    "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
)


async def test_kernel_kills_it_with_the_runtime(desk: Desk) -> None:
    # PR_GET_PDEATHSIG: a new user, or a user namespace, undoes what was set before.
    program = (sys.executable, "-I", "-S", "-c", LOOK)
    assert (await desk.finish("a", program))[1] == "9\n"
    await desk.run("b", "sleep 100")
    assert (await desk.runtime.execute("b", program)).output == b"9\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may choose a user")
async def test_kernel_kills_another_users_with_the_runtime(without: Path) -> None:
    async for desk in connected(without):
        program = ("/usr/bin/python3", "-I", "-S", "-c", LOOK)
        if not Path(program[0]).exists():
            pytest.skip("no Python that another user may run")
        assert (await desk.finish("a", program, user=1234))[1] == "9\n"


async def test_new_root_does_not_show_how_it_was_made(
    desk: Desk, folder: Path, volume: Path
) -> None:
    mount = Mount(source=volume, target="/no-such")
    _, text = await desk.finish(
        "a", f"ls {folder}/root; grep -c {folder}/root /proc/self/mounts", mounts=(mount,)
    )
    assert text == "0\n"


async def test_orphan_that_hid_is_ended_with_the_last_container(without: Path) -> None:
    # No namespace and no mark: nobody can tell whose it is, until there is only one.
    flag = without.parent / "flag"
    hidden = f"echo $$; echo > {flag}; exec /bin/sleep 104"
    script = (
        f"env -i /usr/bin/setsid /bin/sh -c '{hidden}' &"
        f"until test -e {flag}; do sleep 0.01; done; exit 1"
    )
    async for desk in connected(without):
        await desk.run("other", "sleep 100")
        _, text = await desk.finish("a", script)
        assert alive(int(text))
        await desk.runtime.stop("other", 0)
        await all_gone([int(text)])
