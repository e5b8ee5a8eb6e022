"""Compile our own TensorFlow operations. Optional: without them Horovod and Keras do all of it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hvdtrain.cache import cache_root
from hvdtrain.doctor.diagnose import diagnose
from hvdtrain.doctor.progress import Progress, run_logged
from hvdtrain.doctor.survey import Survey
from hvdtrain.native import SOURCES, library_path
from hvdtrain.signals import interruptible

# Not -march=native: one cache often serves nodes of different age.
# No product fused with a sum, so that results have the bits of TensorFlow's own operations.
OPTIONS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-w")
# One rank's mean is its own value: proves that this TensorFlow loads the library and finds the operation.
PROOF = """
import sys, tensorflow as tf
node_mean = tf.load_op_library(sys.argv[1]).hvdtrain_node_mean
result = node_mean(tensors=[tf.constant([1.5])], segment=sys.argv[2], rank=0, size=1, spin_us=0)
sys.exit(float(result.means[0][0]) != 1.5)
"""


def build_operations(survey: Survey, environ: Mapping[str, str], progress: Progress, *, is_forced: bool) -> Path | None:
    """Return the library, compiled for this TensorFlow if it is not there; None, and said why, if that fails."""
    library = library_path(str(survey.tensorflow["version"]), environ)
    if library.exists() and not is_forced:
        return library
    compiler = survey.tools.get("c++")
    if compiler is None:
        progress.say("no C++ compiler: ranks of one machine will average gradients through Horovod, which is slower")
        return None
    log = cache_root(environ) / "native" / "build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    progress.begin("compiling operations for TensorFlow")
    with interruptible(), tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as scratch:
        made = Path(scratch, library.name)
        steps = (
            [compiler, *OPTIONS, *map(str, SOURCES), "-o", str(made), *flags(survey)],
            [sys.executable, "-c", PROOF, str(made), f"/dev/shm/hvdtrain-proof-{os.getpid()}"],
        )
        for step in steps:
            if run_logged(step, log=log, environ=environ, cwd=None, progress=progress):
                progress.say(
                    "our operations do not build here, so gradients will go through Horovod\n"
                    f"{diagnose(log.read_text(errors='replace'))}\nlog:   {log}"
                )
                return None
        made.replace(library)
    progress.end()
    return library


def flags(survey: Survey) -> list[str]:
    """Return TensorFlow's own flags for operations that are compiled outside it."""
    return [*survey.tensorflow["compile_flags"], *survey.tensorflow["link_flags"]]
