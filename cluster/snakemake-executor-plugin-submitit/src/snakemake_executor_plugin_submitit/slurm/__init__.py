"""Sessions as elements of Slurm job arrays."""
