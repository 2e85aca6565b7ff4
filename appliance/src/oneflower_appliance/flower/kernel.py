"""What confines a process: namespaces, mounts, capabilities and a filter of system calls, asked of Linux itself.

Sources: user_namespaces(7), pid_namespaces(7), mount_setattr(2), pivot_root(2), capset(2), seccomp(2). The numbers are
those of x86-64; on another processor `demand` refuses.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_USER, _NEW_PID, _NEW_NET, _NEW_MOUNTS, _NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x20000, 0x08000000
_PIVOT_ROOT, _CAPSET, _MOUNT_SETATTR = 155, 126, 442
_SOCKET, _SOCKETPAIR, _PRCTL, _IO_URING_SETUP, _X32 = 41, 53, 157, 425, 0x40000000
# add_key, request_key, keyctl (the user's keys), shmget (memory that belongs to no process), bpf, perf_event_open,
# userfaultfd: what no app needs.
_REFUSED = (248, 249, 250, 29, 321, 298, 323)
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
_NO_SUID, _NO_DEVICES, _READ_ONLY = 2, 4, 1  # of mount(2), and of mount_setattr(2)
_AT_RECURSIVE, _DETACH = 0x8000, 2
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_CAPABILITIES = 64  # more than there are
_CAPABILITY_VERSION = 0x20080522
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_ARCHITECTURE = 0xC000003E  # x86-64
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF: ld, jeq, jge, ret
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # offsets in struct seccomp_data; of arguments, their lower half


def demand() -> None:
    """Raise `OSError` unless this is Linux on x86-64."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise OSError("only Linux on x86-64 is supported")


def _done(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def leave_namespaces(*, network: bool) -> None:
    """Move this process, which has one thread, into namespaces of its own, as the same user. Raises `OSError`.

    Its children are in a process namespace of their own. With `network` it keeps only a loopback of its own.
    """
    user, group = os.geteuid(), os.getegid()
    flags = _NEW_USER | _NEW_PID | _NEW_MOUNTS | _NEW_IPC | (_NEW_NET if network else 0)
    _done(_LIBC.unshare(flags), "no namespaces of its own")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    if network:
        with socket.socket() as asked:
            fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP) + bytes(22))


def die_with_parent(signal_number: int) -> None:
    """Make the kernel end this process when its parent ends."""
    _done(_LIBC.prctl(_SET_PDEATHSIG, signal_number, 0, 0, 0), "no signal at the end of the parent")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _done(done, f"{target} cannot be mounted")


def own_mounts() -> None:
    """Keep what is mounted from now on from other mount namespaces."""
    _mount("none", "/", "none", _RECURSIVE | _PRIVATE)


def forbid_namespaces() -> None:
    """Keep the processes of this user namespace from making more of them, in which they would have rights again."""
    Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")


def memory_folder(path: str, size: int = 0) -> None:
    """Mount a folder in memory: of at most `size` bytes, 0 for half of the machine's memory."""
    _mount("tmpfs", path, "tmpfs", _NO_SUID | _NO_DEVICES, f"mode=0755{f',size={size}' if size else ''}")


def processes(path: str) -> bool:
    """Mount a /proc that shows this process namespace only. Returns whether the kernel allows it here."""
    try:
        _mount("proc", path, "proc", _NO_SUID | _NO_DEVICES)
    except OSError:
        return False
    return True


def bind(source: str, target: str) -> None:
    """Mount a file or a folder, with all below it, at another place, too."""
    _mount(source, target, "none", _BIND | _RECURSIVE)


def read_only(path: str, *, below: bool = True) -> None:
    """Make a mount read-only, and all `below` it."""
    wanted = struct.pack("=QQQQ", _READ_ONLY | _NO_SUID, 0, 0, 0)
    done = _LIBC.syscall(_MOUNT_SETATTR, -100, path.encode(), _AT_RECURSIVE if below else 0, wanted, len(wanted))
    _done(done, f"{path} cannot be made read-only")


def new_root(path: str) -> None:
    """Make a mount the root, and give up everything outside of it."""
    os.chdir(path)
    _done(_LIBC.syscall(_PIVOT_ROOT, b".", b"."), "no root of its own")
    _done(_LIBC.umount2(b".", _DETACH), "the old root stays")
    os.chdir("/")


def give_up_rights(*, network: bool) -> None:
    """Give up all capabilities, for good, and what could undo a confinement. With `network`, sockets of other kinds."""
    for number in range(_CAPABILITIES):
        _LIBC.prctl(_CAPBSET_DROP, number, 0, 0, 0)  # fails for those that do not exist
    _done(_LIBC.syscall(_CAPSET, struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)), "capabilities stay")
    _done(_LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "new rights stay possible")
    _LIBC.prctl(_SET_DUMPABLE, 1, 0, 0, 0)
    code = _filter(network=network)
    program = ctypes.create_string_buffer(code, len(code))
    said = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(program))
    _done(_LIBC.prctl(_SET_SECCOMP, 2, said, 0, 0), "system calls cannot be filtered")


def _filter(*, network: bool) -> bytes:
    """Return a program that refuses system calls that would undo a confinement.

    They are: another processor's calls, io_uring (it does other calls unseen), those in `_REFUSED`, switching off the
    end with the parent, and hiding from the guard. With `network`, sockets other than of the namespaces (AF_VSOCK leads
    out of a virtual machine) are refused.
    """
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    code = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _ARCHITECTURE), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL),
    ]  # fmt: skip
    for number in _REFUSED:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    code += [
        (_EQUAL, 0, 1, _IO_URING_SETUP), (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
        (_EQUAL, 0, 5, _PRCTL), (_LOAD, 0, 0, _FIRST), (_EQUAL, 1, 0, _SET_PDEATHSIG), (_EQUAL, 0, 1, _SET_DUMPABLE),
        (_RETURN, 0, 0, _ERROR | errno.EPERM), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    if network:
        rest = len(families) + 2
        code += [(_EQUAL, 1, 0, _SOCKET), (_EQUAL, 0, rest + 1, _SOCKETPAIR), (_LOAD, 0, 0, _FIRST)]
        code += [(_EQUAL, len(families) - place, 0, family) for place, family in enumerate(families)]
        code += [(_RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    code += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *one) for one in code)
