"""Who listens where, read from /proc."""

import contextlib
import os
import socket
import struct
from pathlib import Path


def listening(pids: set[int]) -> dict[int, set[str]]:
    """Return the addresses on which each process listens; `::` stands for every IPv6 address but loopback."""
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[fields[9]] = address(fields[1].rsplit(":", 1)[0])
    found: dict[int, set[str]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link.startswith("socket:[") and link[8:-1] in sockets:
                        found.setdefault(pid, set()).add(sockets[link[8:-1]])
    return found


def address(text: str) -> str:
    if len(text) == 8:
        return socket.inet_ntoa(struct.pack("<I", int(text, 16)))
    return "::1" if text == "00000000000000000000000001000000" else "::"


def workers(run_path: Path) -> set[int]:
    """Return the ranks of a run."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if Path(words[0].decode()).name.startswith("python") and b"hvdtrain.train" in words:
                found |= {int(place.name)} if str(run_path).encode() in words else set()
    return found
