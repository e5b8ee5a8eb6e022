"""What else the machine did meanwhile, and what it is. Read from /proc."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.facts import Facts

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "numpy")
# A launch beside which the machine did this much else is marked as disturbed (shares of all CPU time).
MAX_STEAL = 0.02
MAX_OTHERS = 0.05


@dataclass(frozen=True)
class Usage:
    """How the CPUs' time was spent while one launch ran.

    Args:
        load: One-minute load average at its end.
        steal: Share taken away by the hypervisor.
        others: Share used by processes that do not belong to the launch.
        seconds: Its wall time.
    """

    load: float
    steal: float
    others: float
    seconds: float

    @property
    def is_disturbed(self) -> bool:
        """Whether the launch's numbers deserve less trust."""
        return self.steal > MAX_STEAL or self.others > MAX_OTHERS


class UsageMeter:
    """Measures from its creation to `read`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ticks = cpu_ticks(Path("/proc/stat").read_text())
        self._children = _children_s()

    def read(self) -> Usage:
        """Return the usage so far; the launch must have ended, or its own time counts as others'."""
        busy, steal, total = (
            now - then for now, then in zip(cpu_ticks(Path("/proc/stat").read_text()), self._ticks, strict=True)
        )
        ours = (_children_s() - self._children) * os.sysconf("SC_CLK_TCK")
        return Usage(
            load=round(os.getloadavg()[0], 2),
            steal=round(steal / max(1, total), 4),
            others=round(max(0.0, busy - ours) / max(1, total), 4),
            seconds=round(time.monotonic() - self._began, 1),
        )


def cpu_ticks(text: str) -> tuple[int, int, int]:
    """Return (busy, stolen, all) clock ticks of all CPUs from the text of /proc/stat.

    >>> cpu_ticks("cpu  10 1 5 80 2 0 1 4 0 0")
    (17, 4, 103)
    """
    user, nice, system, idle, waiting, hard, soft, steal = (int(field) for field in text.split()[1:9])
    busy = user + nice + system + hard + soft
    return busy, steal, busy + idle + waiting + steal


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def describe(facts: Facts) -> str:
    """Return hardware and versions in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return (
        f"one host, {facts.num_cores} CPUs ({model}), {memory_gb:.0f} GB, Linux {platform.release()}; "
        f"Python {platform.python_version()}, {', '.join(versions)}, {facts.mpi_found}"
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
