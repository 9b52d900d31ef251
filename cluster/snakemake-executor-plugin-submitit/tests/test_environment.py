"""What Slurm's programs get of the environment, without a Slurm."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.slurm.environment import calm, left_out

CHANGES = [
    "SBATCH_EXPORT",
    "SBATCH_WAIT",
    "SLURM_MEM_PER_CPU",
    "SRUN_CPUS_PER_TASK",
    "SALLOC_ACCOUNT",
    "SQUEUE_FORMAT",
    "SACCT_FEDERATION",
    "SCANCEL_INTERACTIVE",
    "SCONTROL_ALL",
    "PMI_FANOUT",
    "SLURMD_NODENAME",
    "_SLURM_SPANK_OPTION_x11",
]


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_jobs_is_left_out(name: str) -> None:
    assert calm({name: "1", "PATH": "/bin"}) == {"PATH": "/bin"}
    assert name in left_out({name: "1", "PATH": "/bin"})


def test_which_cluster_and_who_asks_stays() -> None:
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "a", "SLURM_JWT": "t", "HOME": "/"}
    assert calm(kept) == kept
    assert left_out(kept) == ""


def test_the_variables_of_a_job_are_counted_and_the_users_own_named() -> None:
    said = left_out({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SBATCH_WAIT": "1"})
    assert said == (
        "not given to Slurm, for it would change the jobs: SBATCH_WAIT, 2 variables of job 7"
    )
