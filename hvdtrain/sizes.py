"""Sizes in bytes as people write them: `64MiB`, `1KiB:64MiB`. Pure."""

from __future__ import annotations

import re

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
LARGEST = 2**30


def to_bytes(text: str) -> int:
    """Return the bytes of one size.

    Raises:
        ValueError: If it is none.

    >>> to_bytes("1KiB"), to_bytes("2 MB"), to_bytes("512")
    (1024, 2000000, 512)
    """
    found = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", text.lower())
    if not found or found.group(2) not in UNITS:
        raise ValueError(f"{text!r} is no size; write such as 512, 4KiB or 64MiB")
    return int(found.group(1)) * UNITS[found.group(2)]


def to_sizes(text: str, *, factor: int = 2) -> list[int]:
    """Return the sizes of a range `FIRST:LAST`, each `factor` times the one before, or of a list with commas.

    Raises:
        ValueError: If a size is not a multiple of 4 between 4 bytes and 1 GiB, or the range is empty.

    >>> to_sizes("1KiB:8KiB"), to_sizes("4, 64")
    ([1024, 2048, 4096, 8192], [4, 64])
    """
    if ":" in text:
        first, last = (to_bytes(part) for part in text.split(":", 1))
        sizes = [first] if 0 < first <= last else []
        while sizes and sizes[-1] * factor <= last:
            sizes.append(sizes[-1] * factor)
    else:
        sizes = sorted({to_bytes(part) for part in text.split(",")})
    wrong = next((size for size in sizes if size % 4 or not 4 <= size <= LARGEST), None)
    if not sizes or wrong is not None:
        which = f"{wrong} bytes" if wrong is not None else f"{text!r} is empty"
        raise ValueError(f"sizes are multiples of 4 bytes (one float32) from 4 bytes to 1 GiB; {which}")
    return sizes


def size_text(num_bytes: float) -> str:
    """Return a size in words.

    >>> size_text(1024), size_text(3 * 2**20), size_text(100)
    ('1 KiB', '3 MiB', '100 B')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.4g} {unit}"
    return f"{num_bytes:.4g} B"
