"""Peak resident memory of one stretch of a process, from Linux's own high-water mark.

`ru_maxrss` cannot be reset: it would show what making the data took for a moment, the same for every arm and model.
"""

from __future__ import annotations

from pathlib import Path


def reset_peak() -> None:
    """Let the high-water mark start again from the present size (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_rss_mb() -> float:
    """Return the most memory this process has held since `reset_peak`, in MB."""
    return peak_of(Path("/proc/self/status").read_text())


def peak_of(status: str) -> float:
    """Return VmHWM in MB from the text of /proc/PID/status.

    >>> peak_of("Name: x\\nVmHWM:     2048 kB\\n")
    2.0
    """
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
