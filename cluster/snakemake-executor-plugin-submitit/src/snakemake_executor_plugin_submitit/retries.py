"""``--retries 0`` as a user means it: none."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def drop_unwanted(workflow: Any, words: Sequence[str]) -> bool:
    """Have no rule tried again if the command line ``words`` says ``--retries 0``; whether it did.

    Snakemake takes 0 for "not given", and a rule's own ``retries`` goes before the option anyway.
    """
    if workflow.execution_settings.retries != 0 or not _says_none(words):
        return False
    for rule in workflow.rules:
        rule.restart_times = 0
    return True


def _says_none(words: Sequence[str]) -> bool:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-T", "--retries", "--restart-times", type=int)
    try:
        return bool(parser.parse_known_args(words)[0].retries == 0)
    except argparse.ArgumentError:  # Snakemake has understood it otherwise
        return False
