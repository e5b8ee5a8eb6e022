"""The worker: from here on TensorFlow is imported. Start it with `python -m hvdtrain.train RUN_DIR`.

Importing this package alone does not import TensorFlow; its modules do.
"""
