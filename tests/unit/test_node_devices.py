"""GPUs: counted, given to one container each, and taken back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.problems import ConfigProblem
from aiinfra_lab.kube.node.provision.devices import Devices, count_gpus, device_env, within


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_gpus_are_counted_by_nvidia_smi(tmp_path):
    answer = '[ "$*" = "--query-gpu=index --format=csv,noheader" ] && printf "0\\n1\\n2\\n"'
    assert count_gpus(program(tmp_path, answer)) == 3


@pytest.mark.parametrize("script", ["echo 'No devices were found'; exit 6", "echo 0; exit 9"])
def test_a_driver_that_fails_has_no_gpus(tmp_path, script):
    assert count_gpus(program(tmp_path, script)) == 0


def test_a_missing_program_or_one_that_hangs_has_no_gpus(tmp_path):
    assert count_gpus(str(tmp_path / "absent")) == 0
    assert count_gpus(program(tmp_path, "exec sleep 60"), timeout=0.2) == 0


def test_a_node_has_no_negative_gpus():
    with pytest.raises(InputError, match="-1 GPUs"):
        Devices(-1)


@law(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"), st.integers(0, 4)), max_size=30
    )
)
def test_no_two_containers_have_the_same_gpu(steps):
    devices = Devices(5)
    held: dict[tuple[str, str], tuple[int, ...]] = {}
    for uid, container, n in steps:
        if n == 0:
            devices.release(uid)
            held = {key: gpus for key, gpus in held.items() if key[0] != uid}
            continue
        try:
            gpus = devices.assign(uid, container, n)
        except ConfigProblem:
            others = [gpu for key, gpus in held.items() if key != (uid, container) for gpu in gpus]
            assert len(others) + n > 5
            continue
        assert len(gpus) == n
        held[uid, container] = gpus
        everyone = [gpu for gpus in held.values() for gpu in gpus]
        assert len(set(everyone)) == len(everyone)
        assert set(everyone) <= set(range(5))


def test_a_container_that_is_started_again_has_the_same_gpus():
    devices = Devices(4)
    first = devices.assign("a", "x", 2)
    devices.assign("b", "x", 1)
    assert devices.assign("a", "x", 2) == first


def test_an_init_container_leaves_its_gpus_to_its_pod_alone():
    devices = Devices(1)
    assert devices.assign("a", "prepare", 1, init=True) == (0,)
    with pytest.raises(ConfigProblem, match=r"nvidia.com/gpu: 1 are asked for, and 0 of 1"):
        devices.assign("b", "train", 1)
    assert devices.assign("a", "train", 1) == (0,)
    devices.release("a")
    assert devices.assign("b", "train", 1) == (0,)


def test_what_was_given_before_the_restart_is_not_given_again():
    devices = Devices(2)
    devices.adopt("a", "x", [0])
    assert devices.assign("b", "x", 1) == (1,)
    assert devices.assign("a", "x", 1) == (0,)


def test_the_variables_name_the_gpus_in_nvidia_smis_order():
    assert device_env((2, 5)) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "2,5",
        "NVIDIA_VISIBLE_DEVICES": "2,5",
    }
    assert device_env(())["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [("0", "4"), ("1,0", "6,4"), (" 1 ", "6"), ("", ""), ("2", ""), ("0,2,1", "4"), ("-1", "")],
)
def test_a_choice_of_the_pod_counts_among_its_own_gpus(chosen, visible):
    assert within(chosen, (4, 6)) == visible
    assert within(chosen, ()) == ""
