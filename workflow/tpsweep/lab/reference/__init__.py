"""Published figures of others, beside which one's own can be put: typed, checked, never mixed in.

A reference data set is ``<name>.csv`` (one figure per line) and ``<name>.yaml`` beside it (what it
is, where it is from). The package brings one: ``data/reference/pace.csv``.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "data" / "pace.csv"
"""The public figures of the lab write-up that the project grew out of."""
