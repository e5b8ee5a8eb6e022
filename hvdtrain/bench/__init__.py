"""Benchmarks: drivers that start workers, pair their numbers and print tables. Nothing here imports TensorFlow."""
