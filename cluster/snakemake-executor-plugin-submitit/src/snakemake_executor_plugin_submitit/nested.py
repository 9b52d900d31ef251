"""``python -m snakemake_executor_plugin_submitit.nested``: Snakemake for one job, without retries.

A job that runs in a nested Snakemake is tried again by the main process. The nested one reads the
same rules and would try it again itself, too: 6 times in all for ``retries: 2``. No option helps:
``--retries`` gives way to the rule's own word.
"""

from __future__ import annotations

import sys

from snakemake.cli import main
from snakemake.rules import Rule


def run_once() -> None:
    """Run Snakemake with the arguments of this program."""
    Rule.restart_times = property(lambda rule: 0, lambda rule, value: None)
    main(sys.argv[1:])


if __name__ == "__main__":
    run_once()
