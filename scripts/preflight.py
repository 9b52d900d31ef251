"""Look at the node that this runs on before its cells do (see ``tpsweep.measure.preflight``)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))

from tpsweep.measure.preflight_job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
