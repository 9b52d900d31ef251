"""Look at the node that this runs on before its cells do (see ``tpsweep.measure.preflight``)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))

from tpsweep.core.preflight_record import Request
from tpsweep.measure.preflight import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check a node class before its cells.")
    parser.add_argument("--request", required=True, help="what is asked, as JSON")
    parser.add_argument("--models", required=True, nargs="+", type=Path, help="their markers")
    parser.add_argument("--results", required=True, type=Path, help="the results root")
    parser.add_argument("--output", required=True, type=Path, help="written if all is well")
    options = parser.parse_args()
    asked = Request.from_json(options.request)
    sys.exit(run(asked, options.models, options.results, options.output))
