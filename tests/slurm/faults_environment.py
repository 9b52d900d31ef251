"""Snakemake inside of jobs, and in shells with variables of Slurm. See ``faults``."""

from __future__ import annotations

import os
from pathlib import Path

from tests.slurm.case import HELD, Case
from tests.slurm.fault import fault
from tests.slurm.workflow import SITE, matrix

HOSTILE = {
    "SBATCH_ARRAY_INX": "0-3",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_OUTPUT": "/dev/null",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_MEM_PER_NODE": "100",
    "SCANCEL_STATE": "PENDING",
    "SQUEUE_STATES": "PENDING",
    "SLURM_CLUSTERS": "lab",
}
"""What does most harm; the variables that say which cluster and who asks are not among them."""
VARIABLES = Path(__file__).with_name("variables.txt")
NOT_TRIED = {"SLURM_CONF", "SLURM_JWT"}


def variables() -> list[str]:
    """All that the manual pages of Slurm's programs name."""
    lines = VARIABLES.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#") and line not in NOT_TRIED]


@fault
def every_variable_is_set(case: Case) -> None:
    """every documented variable of Slurm's programs is set in the shell; then Ctrl-C"""
    case.with_variables(**{**dict.fromkeys(variables(), "1"), **HOSTILE})
    case.begin()
    job = case.job(HELD)
    limit = case.call("squeue", "-h", "-o", "%l", "-j", job)
    assert limit == "10:00", limit
    case.interrupt()
    assert case.wait(60) != 0
    case.user, case.slurm = case.saw(r"not given to Slurm[^,]*, [^,]*, [^,]*"), case.state(job)
    case.cut_off = {HELD}
    case.with_variables()


def _inside(case: Case, *words: str) -> None:
    case.flow.write(matrix())
    case.process = case.flow.start(inside=words)
    assert case.wait(150) == 0
    case.user = case.saw(r"\d+ variables of job \d+")
    case.slurm = case.state(case.job(HELD))


@fault
def inside_salloc(case: Case) -> None:
    """Snakemake is started inside salloc --mem-per-cpu"""
    _inside(case, "salloc", "--quiet", "-p", "gpu-h100", "--mem-per-cpu=700M", "-t", "9")


def _inside_sbatch(case: Case, *options: str) -> None:
    script = case.flow.root / "main.sh"
    script.write_text('#!/bin/bash\nexec "$@" >> said.log 2>&1\n')
    words = ["sbatch", "--quiet", "--wait", "-p", "gpu-h100", "-t", "9", "-o", "/dev/null"]
    _inside(case, *words, *options, str(script))


@fault
def inside_sbatch(case: Case) -> None:
    """Snakemake is started inside sbatch"""
    _inside_sbatch(case, "--mem=700M")


@fault
def inside_an_array_element(case: Case) -> None:
    """Snakemake is started inside an array element, with a job name and memory per CPU"""
    _inside_sbatch(case, "--array=3", "-J", "mine", "--mem-per-cpu=700M")


@fault
def inside_sbatch_without_environment(case: Case) -> None:
    """Snakemake is started with SBATCH_EXPORT=NONE, at a site that submits with export: NONE"""
    case.with_variables(SBATCH_EXPORT="NONE")
    path = case.lab.env()["PATH"]
    site = SITE.replace("slurm: {mem: 300M}", "slurm: {mem: 300M, export: NONE}")
    site += f'environment: {{PATH: "{path}", TEST_WORKFLOW: "{case.flow.root}"}}\n'
    site += f'setup: ["export PYTHONPATH={os.environ.get("PYTHONPATH", "")}"]\n'
    case.begin(hold=(), site=site)
    assert case.finish() == 0
    case.user = case.saw(r"not given to Slurm[^\n]*")
    case.slurm = case.state(case.job(HELD))
