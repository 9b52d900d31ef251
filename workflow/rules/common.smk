# The sweep and the site, checked before anything runs, and what the other rules look up in them.
import logging
import shlex
import sys
from pathlib import Path

from tpsweep.core import results_paths
from tpsweep.core.preflight_record import MARKERS, record_path
from tpsweep.core.preflight_record import MINUTES as PREFLIGHT_MINUTES
from tpsweep.core.workloads import WORKLOADS
from tpsweep.plan.readiness import obstacles
from tpsweep.sweep.run_lines import RunLines
from tpsweep.sweep.snakemake_profile import any_sweep, site_in_words
from tpsweep.sweep.sweep import AGAIN, InputError, check_files, load_sweep

IS_LINT = "--lint" in sys.argv or "-L" in sys.argv

# `--config only=...` on the command line replaces all of the profile's `config:`, its site, too.
if "site" not in config and (named := site_in_words(sys.argv)):
    config["site"] = named

try:
    check_files(workflow.configfiles)
    # The rules are the same for every sweep, so that `snakemake --lint` needs no profile.
    SWEEP = load_sweep(any_sweep() if IS_LINT and not config else config, Path.cwd())
except InputError as error:
    # One line and nothing else: the user's file is wrong, not the program.
    sys.exit(f"tpsweep: {error}")

# Only where it is decided whether to run: a nested Snakemake on a node has no account.
if workflow.is_main_process and not IS_LINT:
    FOUND = obstacles(SWEEP)
    for line in FOUND.warnings:
        print(f"tpsweep: {line}", file=sys.stderr)
    if FOUND.certain:
        sys.exit("\n".join(f"tpsweep: {line}" for line in FOUND.certain))

if SWEEP.left_out:
    print(f"tpsweep: {SWEEP.left_out}", file=sys.stderr)

if SWEEP.part:
    print(f"tpsweep: {SWEEP.part}", file=sys.stderr)

if SWEEP.to_repeat:
    print(f"tpsweep: {SWEEP.to_repeat}", file=sys.stderr)

RESULTS = SWEEP.results
MANIFEST = f"{RESULTS}/{results_paths.MANIFEST}"


def is_whole_sweep():
    """Whether the page was asked for, and not the preflights or one file alone."""
    targets = set(workflow.dag_settings.targets)
    return not targets or bool(targets & {"all", "report", f"{RESULTS}/report.html"})


# What Snakemake adds to a failure that was said already: a local rule's program says in one line what
# is wrong, and the end of a run how far it came.
SAID_ALREADY = (
    "RuleException:\nCalledProcessError in file ",
    "WorkflowError:\nAt least one job did not complete successfully",
)
SNAKEMAKE_LOG = logging.getLogger("snakemake.logging")
SNAKEMAKE_LOG.addFilter(lambda record: not record.getMessage().startswith(SAID_ALREADY))


def show_outcome():
    """What came of the sweep and where its page is, if the whole of it was asked for."""
    if is_whole_sweep() and not workflow.dryrun:
        shell(f"{PYTHON} -m tpsweep outcome {ROOT} || true")


if workflow.is_main_process and not IS_LINT:
    SNAKEMAKE_LOG.addHandler(RunLines(SNAKEMAKE_LOG, SWEEP, show_outcome))


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
