"""Who may import whom: TensorFlow stays in the workers, and the pure modules never look at the machine."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "hvdtrain"
HEAVY = ("tensorflow", "keras", "horovod", "mpi4py")
WORKER = ("train/", "keras.py", "workshop/")
# Finds out in a process of its own whether the heavy packages import at all; its module level imports none of them.
PROGRAMS = ("doctor/probe.py",)
PURE = ("scaling.py", "plan.py", "timeline.py", "launch/", "study/")
IMPURE = ("os", "time", "datetime", "socket", "subprocess", "platform", "shutil", "importlib")


def place(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def files_in(*places: str) -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if place(file).startswith(places)]


def files_outside(*places: str) -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if not place(file).startswith(places)]


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import at any depth, with what `from` takes and import_module's text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module or ""]).strip(".")
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from ((node.lineno, str(arg.value)) for arg in node.args if isinstance(arg, ast.Constant))


def offences(file: Path, forbidden: tuple[str, ...]) -> list[str]:
    package = ".".join(file.parent.relative_to(PROJECT).parts)
    names = imported(ast.parse(file.read_text(encoding="utf-8")), package)
    return [
        f"{place(file)}:{line}: {name}"
        for line, name in names
        if any(name == bad or name.startswith(bad + ".") for bad in forbidden)
    ]


def test_only_workers_import_tensorflow():
    found = [text for file in files_outside(*WORKER, *PROGRAMS) for text in offences(file, HEAVY)]
    assert found == []


def test_nothing_else_imports_the_workers():
    forbidden = ("hvdtrain.train", "hvdtrain.keras", "hvdtrain.workshop")
    found = [text for file in files_outside(*WORKER, *PROGRAMS) for text in offences(file, forbidden)]
    assert found == []


def test_pure_modules_do_not_look_at_the_machine():
    files = files_in(*PURE)
    assert len(files) > 5
    assert [text for file in files for text in offences(file, IMPURE)] == []


def test_the_walk_sees_every_kind_of_import():
    source = (
        "import os.path\n"
        "def f():\n"
        "    from tensorflow import keras\n"
        "    from . import train\n"
        "    from ..train import comm\n"
        "    import importlib; importlib.import_module('horovod.tensorflow')\n"
    )
    names = {name for _, name in imported(ast.parse(source), "hvdtrain.cli")}
    assert {"os.path", "tensorflow.keras", "hvdtrain.cli.train", "hvdtrain.train.comm", "horovod.tensorflow"} <= names
    assert any(offences(file, HEAVY) for file in files_in(*WORKER)), "the walk must find the imports that are there"


@pytest.mark.parametrize(
    "module",
    ["hvdtrain", "hvdtrain.train.background", "hvdtrain.train.failure", "hvdtrain.doctor.probe", "hvdtrain.jobs"],
)
def test_imports_without_tensorflow(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == []
