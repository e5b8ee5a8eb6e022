"""The version, alone in a module so that setup.cfg can read it without importing the package's dependencies."""

__version__ = "0.1.0"
