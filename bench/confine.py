"""What a process gives up, for good, before it runs code that is not trusted: memory, processes, sockets, signals."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

# The numbers of system calls that are refused, by processor; from the tables of Linux.
_FORKS = {"x86_64": (57, 58), "aarch64": ()}  # fork, vfork; clone is looked into
_NUMBERS = {
    "x86_64": {
        "execve": 59, "execveat": 322, "socket": 41, "connect": 42, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "memfd_create": 319, "memfd_secret": 447, "unshare": 272, "setns": 308, "mount": 165,
        "umount2": 166, "pivot_root": 155, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "shmget": 29, "open_by_handle_at": 304,
        "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "pidfd_open": 434, "pidfd_send_signal": 424,
    },
    "aarch64": {
        "execve": 221, "execveat": 281, "socket": 198, "connect": 203, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "memfd_create": 279, "memfd_secret": 447, "unshare": 97, "setns": 268, "mount": 40,
        "umount2": 39, "pivot_root": 41, "keyctl": 219, "add_key": 217, "request_key": 218, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "shmget": 194, "open_by_handle_at": 265,
        "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "pidfd_open": 434, "pidfd_send_signal": 424,
    },
}  # fmt: skip
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_…
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_THREAD = 0x00010000  # CLONE_THREAD
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38


def known() -> bool:
    """Whether the system calls of this processor are known here."""
    return platform.system() == "Linux" and platform.machine() in _ARCHES


def confine(memory: int) -> None:
    """Allow so many bytes more than are taken now, one process, no sockets and no signals; there is no way back."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    _refuse(_filter(platform.machine()))


def _filter(machine: str) -> bytes:
    """The program by which the kernel refuses system calls: threads may be made, processes not."""
    refused = [*_FORKS[machine], *_NUMBERS[machine].values()]
    load, equal, at_least, bits, back = 0x20, 0x15, 0x35, 0x45, 0x06
    last = len(refused) + 5  # from the first of these to the line that refuses

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    program = [
        line(load, 4), line(equal, _ARCHES[machine], 1, 0), line(back, _KILL),
        line(load, 0), line(at_least, 0x40000000, last + 1, 0),  # numbers of other tables
    ]  # fmt: skip
    program += [line(equal, number, last - k, 0) for k, number in enumerate(refused)]
    program += [
        line(equal, _CLONE3, 0, 1), line(back, _ERRNO | _ENOSYS),  # libraries then take clone, which can be looked into
        line(equal, _CLONE[machine], 0, 2), line(load, 16), line(bits, _THREAD, 0, 1),
        line(back, _ALLOW), line(back, _ERRNO | _EPERM),
    ]  # fmt: skip
    return b"".join(program)


def _refuse(program: bytes) -> None:
    """Put the program into force for every thread of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    lines = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))

    given = Program(len(program) // 8, ctypes.addressof(lines))
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "prctl")
    if libc.syscall(_SECCOMP[platform.machine()], 1, 1, ctypes.byref(given)):  # SET_MODE_FILTER, for all threads
        raise OSError(ctypes.get_errno(), "seccomp")
