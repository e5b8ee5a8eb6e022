"""Start and stop the Slurm of `tests.cluster.slurm` by hand."""

import argparse
import shutil
import sys
from pathlib import Path

from tests.cluster.slurm import Cluster, missing_programs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/tmp/hvdtrain-cluster"))
    options = parser.parse_args()
    cluster = Cluster(options.folder.resolve())
    if options.what == "down":
        print("stopping Slurm and its jobs, half a minute at most ...", file=sys.stderr, flush=True)
        cluster.down()
        shutil.rmtree(cluster.folder, ignore_errors=True)
        print("stopped; now: unset SLURM_CONF", file=sys.stderr)
        return
    missing = missing_programs()
    if missing:
        packages = "slurmctld slurmd slurm-client munge libpmix-dev"
        sys.exit(f"{', '.join(missing)}: not found. On Debian: apt-get install {packages}")
    if cluster.conf.exists():
        cluster.down()
    cluster.up()
    print(f"export SLURM_CONF={cluster.conf}")


if __name__ == "__main__":
    main()
