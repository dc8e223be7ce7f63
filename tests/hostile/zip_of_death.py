"""Unpacks a small archive into gigabytes in its folder and in memory."""

import io
import zipfile
import zlib

packed = io.BytesIO()
with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("bomb", bytes(48 << 20))
written = 0
for number in range(100):
    try:
        with zipfile.ZipFile(packed) as archive, archive.open("bomb") as source, open(f"b{number}", "wb") as target:
            while piece := source.read(1 << 20):
                written += target.write(piece)
    except OSError:
        break
if written > 16 << 20:
    print("ESCAPED: unpacked", written)
bomb = zlib.compress(bytes(1 << 26))
kept = [zlib.decompress(bomb) for _ in range(64)]
print("ESCAPED: unpacked into memory")
