#!/usr/bin/env bash
# Finding: decompress() of Python's zstandard returns the first frame of a file of several, without an error.
# Seen with: zstandard 0.25.0 (PyPI; zstd 1.5.7) beside backports.zstd 1.8.0 (PyPI); November 2026.
# Input: two frames, one after the other, each with its size and checksum. RFC 8878, section 3, has it that such data means the frames' contents, joined; parallel compressors write it, and so does cat a.zst b.zst.
# Expected: all of the content, as zstd -d gives it and as the same library's stream_reader().read() does; else an error.
# Seen: decompress() and read_to_iter() give the first frame's content alone; decompressobj() too, and what is left is in unused_data.
# Matters: a dump that was compressed in parts comes back as its first part and looks whole. Read with stream_reader(), or decompress(..., allow_extra_data=False), which is an error there; compare the size with one that was written down.
set -euo pipefail

python=$(command -v python3) || { echo "needs python3" >&2; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv" || { echo "needs python3 with venv" >&2; exit 77; }
echo "installing zstandard 0.25.0 and backports.zstd 1.8.0"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0 backports.zstd==1.8.0 \
    || { echo "needs a package index" >&2; exit 77; }

cat >"$folder/finding.py" <<'PYTHON'
import io
import sys

import zstandard
from backports import zstd

parts = [b"first part\n" * 1000, b"second part\n" * 1000]
packed = b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in parts)
first, whole = len(parts[0]), len(b"".join(parts))
reader = zstandard.ZstdDecompressor()


def strictly():
    try:
        return len(reader.decompress(packed, allow_extra_data=False))
    except zstandard.ZstdError as error:
        return f"error: {error}"


def copied():
    target = io.BytesIO()
    reader.copy_stream(io.BytesIO(packed), target)
    return len(target.getvalue())


left = reader.decompressobj()
seen = [
    ("backports.zstd.decompress()", len(zstd.decompress(packed)), whole),
    ("stream_reader().read()", len(reader.stream_reader(io.BytesIO(packed)).read()), whole),
    ("copy_stream()", copied(), whole),
    ("decompress()", len(reader.decompress(packed)), first),
    ("read_to_iter()", sum(map(len, reader.read_to_iter(io.BytesIO(packed)))), first),
    ("decompressobj().decompress()", len(left.decompress(packed)), first),
    ("... unused_data begins a frame", left.unused_data[:4] == zstandard.FRAME_HEADER, True),
    ("decompress(allow_extra_data=False)", str(strictly()).split(":")[0], "error"),
]
print(f"zstandard {zstandard.__version__}, zstd {zstandard.ZSTD_VERSION}: {whole} bytes in two frames, {first} in the first")
changed = 0
for call, result, known in seen:
    same = result == known
    changed += not same
    print(f"  {call:36} {result}{'' if same else f'   CHANGED, was {known}'}")
sys.exit(1 if changed else 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
