"""The environment of Slurm's programs, over all that their manual pages name."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.slurm.environment import KEPT, calm
from tests.slurm.faults_environment import NOT_TRIED, VARIABLES, variables

PAGES = Path("/usr/share/man/man1")
PROGRAMS = ("sbatch", "srun", "salloc", "squeue", "sacct", "scancel", "scontrol")
SECTION = re.compile(r'^\.SH "?([^"\n]*)"?\n(.*?)(?=^\.SH |\Z)', re.M | re.S)
NAME = re.compile(r"\\fB([A-Z][A-Z0-9]*_[A-Z0-9_]+)\\fR")


def test_every_documented_variable_is_left_out_but_those_that_name_the_cluster() -> None:
    names = [*variables(), *NOT_TRIED]
    assert len(names) > 300
    assert set(calm(dict.fromkeys(names, "1"))) == KEPT & set(names)


def test_the_list_is_that_of_the_manual_pages_here() -> None:
    pages = [PAGES / f"{program}.1.gz" for program in PROGRAMS]
    if not all(page.exists() for page in pages):
        pytest.skip("no manual pages of Slurm here")
    found: set[str] = set()
    for page in pages:
        text = gzip.decompress(page.read_bytes()).decode("utf-8")
        for title, part in SECTION.findall(text):
            if "ENVIRONMENT" in title:
                found |= set(NAME.findall(part))
    assert found - set(VARIABLES.read_text("utf-8").split()) == set()
