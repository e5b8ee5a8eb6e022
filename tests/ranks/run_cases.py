"""Run every case of cases.py on this rank and write the results as JSON: `run_cases.py FOLDER`.

One mpirun per world size runs them all, because importing TensorFlow takes longer than the cases.
"""

import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

import hvdtrain.keras as hk


def main() -> None:
    folder = Path(sys.argv[1])
    only = sys.argv[2:]
    world = hk.init()
    from tests.ranks import cases

    results = {}
    for name, case in cases.all_cases().items():
        if only and name not in only:
            continue
        shared = folder / name
        if world.rank == 0:
            shared.mkdir(exist_ok=True)
        world.comm.gather_json(name, name="next_case")
        print(f"rank {world.rank}: {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            results[name] = {"value": case(world.comm, shared)}
        except Exception:
            results[name] = {"error": traceback.format_exc()}
        print(f"rank {world.rank}: {name} took {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        (folder / f"rank_{world.rank}.json").write_text(json.dumps(results))
    (folder / f"done_{world.rank}").touch()
    world.comm.shutdown()


if __name__ == "__main__":
    tempfile.tempdir = None
    main()
