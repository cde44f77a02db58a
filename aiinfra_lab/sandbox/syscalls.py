"""System calls that no submission needs, refused by the kernel (seccomp).

They are the ones that hold memory which no process seems to have (files in memory, System V
segments and queues), that look into or change other processes, that mount, and that have been
the doors of most escapes (bpf, io_uring, userfaultfd, keys, perf). The other walls stand without
this one; where the kernel or the processor is not known here, the report says so.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from aiinfra_lab.sandbox import system

# By name: the numbers on x86-64 and on 64-bit ARM (linux/arch/x86/entry/syscalls/syscall_64.tbl,
# linux/include/uapi/asm-generic/unistd.h); from 424 on all architectures share them.
REFUSED = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "syslog": (103, 116),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "quotactl": (179, 60),
}
# By machine: its column above, its AUDIT_ARCH, and the bit that marks another way of calling.
_MACHINES = {"x86_64": (0, 0xC000_003E, 0x4000_0000), "aarch64": (1, 0xC000_00B7, 0)}

# linux/bpf_common.h and linux/seccomp.h
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF_0000, 0x0005_0000 | errno.EPERM
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data


def program(machine: str) -> bytes:
    """The filter for ``machine``, as instructions of classic BPF.

    Raises
    ------
    OSError
        The system calls of that machine are not known here.
    """
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter for {machine}")
    column, architecture, other = _MACHINES[machine]
    numbers = sorted({pair[column] for pair in REFUSED.values()})
    tests = [(_JUMP_EQUAL, number) for number in numbers]
    if other:
        tests.insert(0, (_JUMP_SET, other))
    # The last instruction refuses; each test that holds jumps there.
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture, 0, len(tests) + 2),
        _instruction(_LOAD, _NUMBER),
    ]
    for index, (kind, value) in enumerate(tests):
        code.append(_instruction(kind, value, len(tests) - index, 0))
    code += [_instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)]
    return b"".join(code)


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def refuse() -> None:
    """Refuse them to this process and to all that it starts, with EPERM and for good.

    Raises
    ------
    OSError
        The kernel has no such filters, or the machine is not known here.
    """
    code = program(platform.machine())
    text = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(text))
    system.set_filter(head)
