"""What the benchmarks' worker processes run."""
