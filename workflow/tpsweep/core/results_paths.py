"""Where things lie below a results root."""

from __future__ import annotations

MANIFEST = "matrix.parquet"
"""Every cell of the current matrix."""
FAILURES = "failures"
"""Folder of the failure records, one JSON file per cell."""
