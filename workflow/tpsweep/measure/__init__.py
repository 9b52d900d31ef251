"""The daemon, its client and the workloads: from a cell to its row."""
