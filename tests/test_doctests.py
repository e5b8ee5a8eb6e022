"""The examples in docstrings say what really happens."""

import doctest
import importlib

import pytest

from tests.test_layering import WORKER, files_outside, place

MODULES = ["hvdtrain." + place(file).removesuffix(".py").replace("/", ".") for file in files_outside(*WORKER)]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith(("__init__", "__main__"))])
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
