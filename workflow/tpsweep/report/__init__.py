"""The page ``report.html`` of a results folder: one file that asks for nothing else."""
