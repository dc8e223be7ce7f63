"""Filters of system calls, assembled for the kernel's seccomp: what a program may not even ask for.

Flows in: how many processes a program may have. Flows out: the bytes of a BPF program (`struct sock_filter[]`), which
the kernel runs at each system call. A call that is refused fails as if it were not permitted or not there, so that a
library that can do without goes on. Numbers are of x86_64 and aarch64 (arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h); another machine has no filter, and `filter_bytes` says so.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable
from typing import NamedTuple

from codemill.errors import RunError

# In a filter, where the process id of the program itself stands; `template.py` puts it there.
OWN_PID = 0x7EADBEE1

_LOAD, _AND = 0x20, 0x54  # BPF_LD | BPF_W | BPF_ABS; BPF_ALU | BPF_AND | BPF_K
_EQUAL, _AT_LEAST, _RETURN = 0x15, 0x35, 0x06  # BPF_JMP | BPF_JEQ | BPF_K; BPF_JGE; BPF_RET | BPF_K
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 64-bit, little-endian
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*; column of the tables below

# name -> (number on x86_64, on aarch64; None = there is none)
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    # the network; socketpair stays, because asyncio needs it
    "socket": (41, 198), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "connect": (42, 203),
    # file systems and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "mknod": (133, None), "mknodat": (259, 33),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "sync": (162, 81), "syncfs": (306, 267),
    # what outlives a process, and memory that no limit counts
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "remap_file_pages": (216, 234), "mlockall": (151, 230), "vmsplice": (278, 75),
    "flock": (73, 32),
    # the kernel itself, and its younger and larger doors
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
    "landlock_create_ruleset": (444, 444), "seccomp": (317, 277), "execveat": (322, 281),
}  # fmt: skip
_FOR_TOOLS = ("tkill", "flock", "execveat")  # programs of many processes (compilers, Java, Node) may
# What changes a file that can only be read, or watches it: Landlock knows no rules for these.
_REFUSED_READING: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "inotify_init": (253, None),
    "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
}  # fmt: skip
_FORK: dict[str, tuple[int | None, int | None]] = {"fork": (57, None), "vfork": (58, None)}
_CLONE3 = (435, 435)  # where it is missing, libraries fall back to clone, whose flags a filter can read
_YOUNGEST = 451  # calls from here on are not in these tables; libraries do without
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPES, _AF_UNIX, _PR_SET_PDEATHSIG = 1, 5, 0xF, 1, 1
_TERMINAL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FION/FIOCLEX


class _Check(NamedTuple):
    """What an argument of a call must be, or must not be."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    error: int = errno.EPERM
    refused: bool = False


# Each call, with all that must hold for it.
_CHECKED: dict[str, tuple[tuple[int, int], tuple[_Check, ...]]] = {
    "prlimit64": ((302, 261), (_Check(0, (0,)),)),  # 0 = of oneself
    "sched_setaffinity": ((203, 122), (_Check(0, (0,)),)),
    "sched_setscheduler": ((144, 119), (_Check(0, (0,)),)),
    "sched_setattr": ((314, 274), (_Check(0, (0,)),)),
    # asyncio and Rust need pairs that stay connected; a pair of datagram sockets could send to addresses
    "socketpair": ((53, 199), (_Check(0, (_AF_UNIX,)), _Check(1, (_SOCK_STREAM, _SOCK_SEQPACKET), _SOCK_TYPES))),
    "prctl": ((157, 167), (_Check(0, (_PR_SET_PDEATHSIG,), refused=True),)),  # it dies with who watches it
    "clone": ((56, 220), (_Check(0, (0,), _NEW_NAMESPACES),)),
}
_CHECKED_SINGLE: dict[str, tuple[tuple[int, int], tuple[_Check, ...]]] = {
    "clone": ((56, 220), (_Check(0, (0,), _NEW_NAMESPACES),
                          _Check(0, (_CLONE_THREAD,), _CLONE_THREAD, errno.EAGAIN))),
    "kill": ((62, 129), (_Check(0, (OWN_PID,)),)),
    "tgkill": ((234, 131), (_Check(0, (OWN_PID,)),)),
    "socketpair": ((53, 199), (_Check(0, (_AF_UNIX,)), _Check(1, (_SOCK_STREAM,), _SOCK_TYPES))),
    "ioctl": ((16, 29), (_Check(1, _TERMINAL, error=errno.ENOTTY),)),
}  # fmt: skip


def filter_bytes(processes: int, reading: bool = False) -> bytes:
    """The filter for programs of at most so many processes.

    With one process there is no fork, and a signal reaches the program itself alone. reading: where files are only kept
    from being written, their owners, modes, times and attributes are too. Raises RunError where the machine is neither
    x86_64 nor aarch64.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise RunError(f"{machine}: system calls can be filtered on {known} alone; run this on one of these")
    audit, column = _ARCHITECTURES[machine]
    single = processes == 1
    code = [_step(_LOAD, _ARCH), _step(_EQUAL, audit, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, _NUMBER),
            _step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL),
            _step(_AT_LEAST, _YOUNGEST, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]  # fmt: skip
    refused = [numbers for name, numbers in _REFUSED.items() if single or name not in _FOR_TOOLS]
    code += _each([*refused, *(_REFUSED_READING.values() if reading else ())], column, errno.EPERM)
    code += _each([_CLONE3], column, errno.ENOSYS)
    if single:
        code += _each(_FORK.values(), column, errno.EAGAIN)
    for numbers, checks in (_CHECKED | (_CHECKED_SINGLE if single else {})).values():
        code += _checked(numbers[column], checks)
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One struct sock_filter."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _each(calls: Iterable[tuple[int | None, int | None]], column: int, error: int) -> list[bytes]:
    numbers = [each[column] for each in calls]
    return [
        step
        for number in numbers
        if number is not None
        for step in (_step(_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | error))
    ]


def _checked(number: int, checks: Iterable[_Check]) -> list[bytes]:
    """A call that is allowed where all checks of its arguments hold; of an argument, the lower 32 bits are looked at,
    which is all that the kernel takes of these."""
    inside = []
    for check in checks:
        refuse = _step(_RETURN, _ERRNO | check.error)
        inside += [_step(_LOAD, _FIRST_ARGUMENT + 8 * check.argument), _step(_AND, check.mask)]
        for left, value in zip(range(len(check.values), 0, -1), check.values, strict=True):
            inside += [_step(_EQUAL, value, 0, 1), refuse] if check.refused else [_step(_EQUAL, value, left, 0)]
        if not check.refused:
            inside.append(refuse)
    inside.append(_step(_RETURN, _ALLOW))
    return [_step(_EQUAL, number, 0, len(inside)), *inside]
