"""Measure one cell: a thin client of the session's engine (see ``tpsweep.measure.client``)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))

from tpsweep.measure.client import main

if __name__ == "__main__":
    sys.exit(main())
