# The sweep and the site, checked before anything runs, and what the other rules look up in them.
import shlex
import sys
from pathlib import Path

from tpsweep.core import results_paths
from tpsweep.core.preflight_record import MARKERS, record_path
from tpsweep.core.preflight_record import MINUTES as PREFLIGHT_MINUTES
from tpsweep.core.workloads import WORKLOADS
from tpsweep.sweep.sweep import AGAIN, InputError, check_files, load_sweep

try:
    check_files(workflow.configfiles)
    SWEEP = load_sweep(config, Path.cwd())
except InputError as error:
    # One line and nothing else: the user's file is wrong, not the program.
    sys.exit(f"tpsweep: {error}")

if SWEEP.left_out:
    print(f"tpsweep: {SWEEP.left_out}", file=sys.stderr)

if SWEEP.part:
    print(f"tpsweep: {SWEEP.part}", file=sys.stderr)

if SWEEP.to_repeat:
    print(f"tpsweep: {SWEEP.to_repeat}", file=sys.stderr)

RESULTS = SWEEP.results
MANIFEST = f"{RESULTS}/{results_paths.MANIFEST}"


def word(text):
    """A constant as one word of a shell command, safe from the shell and from format()."""
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


# Constants of the commands below. They are not params: another interpreter, or another place of the
# same results, must not rerun a cell.
PYTHON = word(sys.executable)
ROOT = word(RESULTS)
MANIFEST_FILE = word(MANIFEST)


wildcard_constraints:
    model=r"[A-Za-z0-9._-]+",
    cell=r".+",
