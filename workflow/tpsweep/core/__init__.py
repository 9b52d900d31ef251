"""What every room speaks of: cells, rows, failures, paths and files of a results folder."""
