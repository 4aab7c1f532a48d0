"""Make valid bytes invalid, as by accident and on purpose."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Mutate = Callable[[np.random.Generator, bytes], bytes]

NUMBERS = (
    b"-1", b"0", b"1", b"255", b"256", b"65536", b"4294967296", b"99999999999999999999999", b"1e999", b"-1e-320", b"nan",
    b"inf", b"null", b"true", b"[]", b"{}", b'""', b"0.5", b"1e18",
)  # fmt: skip
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
WHOLES = (
    b"",
    b"\0",
    b"\0" * 4096,
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"PK\x03\x04",
    b"PAR1PAR1",
    b"\x80\x04.",
    b"{}",
    b"[]",
)


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """Make one to three changes of any kind."""
    for _ in range(rng.integers(1, 4)):
        content = CHANGES[rng.integers(len(CHANGES))](rng, content)
    return content


def _place(rng: np.random.Generator, content: bytes) -> int:
    """Choose a position anywhere, half of the time near the beginning, where headers are."""
    end = len(content) if rng.random() < 0.5 else min(len(content), 256)
    return int(rng.integers(0, end + 1))


def _truncated(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: _place(rng, content)]


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    start = _place(rng, content)
    return content[:start] + content[start + int(rng.integers(1, 64)) :]


def _repeated(rng: np.random.Generator, content: bytes) -> bytes:
    start = _place(rng, content)
    return content[:start] + content[start : start + int(rng.integers(1, 64))] * int(rng.integers(2, 30)) + content[start:]


def _flipped(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if changed else 0):
        changed[min(_place(rng, content), len(changed) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _extreme(rng: np.random.Generator, content: bytes) -> bytes:
    width = int(rng.choice([1, 2, 4, 8]))
    number: int = EXTREMES[rng.integers(len(EXTREMES))] % 256**width
    start = _place(rng, content)
    return content[:start] + number.to_bytes(width, "little" if rng.random() < 0.5 else "big") + content[start + width :]


def _inserted(rng: np.random.Generator, content: bytes) -> bytes:
    start = _place(rng, content)
    new = rng.bytes(int(rng.integers(1, 20))) if rng.random() < 0.5 else bytes(int(rng.integers(1, 20)))
    return content[:start] + new + content[start:]


def _renumbered(rng: np.random.Generator, content: bytes) -> bytes:
    """Replace a number in a text by another number or by something else."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[:20000]))
    if not found:
        return content
    at = found[rng.integers(len(found))]
    return content[: at.start()] + NUMBERS[rng.integers(len(NUMBERS))] + content[at.end() :]


def _reworded(rng: np.random.Generator, content: bytes) -> bytes:
    """Replace a word of a text by another word."""
    found = list(re.finditer(rb"[A-Za-z_]{2,}", content[:20000]))
    if not found:
        return content
    at, other = found[rng.integers(len(found))], found[rng.integers(len(found))]
    return content[: at.start()] + other.group() + content[at.end() :]


def _replaced(rng: np.random.Generator, content: bytes) -> bytes:
    return WHOLES[int(rng.integers(len(WHOLES)))] if rng.random() < 0.2 else content


CHANGES: tuple[Mutate, ...] = (
    _truncated, _cut, _repeated, _flipped, _extreme, _inserted, _renumbered, _reworded, _replaced,
)  # fmt: skip


def mutated_png(rng: np.random.Generator, content: bytes) -> bytes:
    """Half of the time, repair the checksums, because otherwise no decoder would read further."""
    broken = mutated(rng, content)
    return with_checksums(broken) if rng.random() < 0.5 else broken


def with_checksums(content: bytes) -> bytes:
    """Return a PNG with correct chunk checksums, as far as its chunks can be recognised."""
    mended, at = [content[:8]], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        mended += [content[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join([*mended, content[at:]])


def mutated_tensors(rng: np.random.Generator, content: bytes) -> bytes:
    """Half of the time, change the header of a safetensors file, with a stated length that matches."""
    (length,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
    if rng.random() < 0.5 or not 0 < length < len(content):  # or it is another file, beside one of tensors
        return mutated(rng, content)
    header, tensors = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.7:  # what the description says, inside its quotes
        told = json.loads(header)
        described = told.get("__metadata__", {})
        for key in described:
            described[key] = _renumbered(rng, _reworded(rng, described[key].encode())).decode(errors="replace")
        header = json.dumps(told).encode()
    else:
        header = mutated(rng, header)
    return struct.pack("<Q", len(header)) + header + tensors


def mutated_packed(rng: np.random.Generator, content: bytes) -> bytes:
    """Half of the time, change the packed content and pack it again with correct checksums; for Parquet, the footer."""
    if rng.random() < 0.5:
        return mutated(rng, content)
    if content.startswith(b"PK"):
        return _mutated_zip(rng, content)
    if content.startswith(b"\x1f\x8b"):
        return gzip.compress(mutated(rng, gzip.decompress(content)), mtime=0)
    if content.startswith(b"PAR1"):
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        changed = mutated(rng, content[footer:-8])
        return content[:footer] + changed + len(changed).to_bytes(4, "little") + b"PAR1"
    return mutated(rng, content)


def _mutated_zip(rng: np.random.Generator, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = rng.integers(len(old.infolist()))
        for number, info in enumerate(old.infolist()):
            inside = old.read(info)
            new.writestr(info, mutated(rng, inside) if number == chosen else inside)
    return buffer.getvalue()
