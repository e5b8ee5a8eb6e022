"""A whole Slurm on one machine, for tests and for trying hvdtrain without a cluster."""
