"""Mounts things: proc, tmpfs, a bind of the root, the new way and the old."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

tried = [libc.mount(b"proc", b"/work", b"proc", 0, None), libc.mount(b"/", b"/work", None, 4096, None),
         libc.mount(b"t", b"/", b"tmpfs", 0, None), libc.umount2(b"/work", 2), libc.pivot_root(b".", b"."),
         libc.syscall(428, -100, b"/", 1), libc.syscall(430, b"tmpfs", 0), libc.syscall(442, -100, b"/", 0, None, 0)]
if any(each >= 0 for each in tried):
    print("ESCAPED: mounted", tried)
