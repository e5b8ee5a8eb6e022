"""hvdtrain: take a Keras 3 model from one machine to a whole cluster with Horovod.

Importing this package never imports TensorFlow; `hvdtrain.keras` does.
"""

from hvdtrain._version import __version__

__all__ = ["__version__"]
