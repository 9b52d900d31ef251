"""What Slurm's programs get of the environment that Snakemake was started in.

Every option of sbatch and srun is a variable as well, and so is every property of a job for the
programs in it: Snakemake started inside a job, or by somebody who has defaults of their own in the
shell, would submit other jobs than it says. All of them are left out, but what names the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping

FAMILIES = (
    "SLURM_",
    "SLURMD_",
    "SLURMCTLD_",
    "SLURMDBD_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SACCT_",
    "SCANCEL_",
    "SCONTROL_",
    "SINFO_",
    "SPANK_",
    "_SLURM_SPANK_OPTION_",
    "PMI_",
    "PMIX_",
)
KEPT = frozenset(["SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER", "SLURM_JWT"])
"""Which cluster, and who is asking."""
FOR_SRUN = (
    # Since Slurm 22.05 srun no longer takes the number over from sbatch.
    "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
    # A site that submits with --export=NONE would start the runner without its setup.
    "export SLURM_EXPORT_ENV=ALL",
)
"""Lines of a batch script, so that its srun starts the runner as the job was asked for."""


def is_slurms(name: str) -> bool:
    """Whether a variable would change what Slurm's programs do."""
    return name.startswith(FAMILIES) and name not in KEPT


def calm(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` as Slurm's programs get it."""
    return {name: value for name, value in environ.items() if not is_slurms(name)}


def left_out(environ: Mapping[str, str]) -> str:
    """What is left out, in one line; "" if nothing is.

    Those that a job sets for what runs in it are counted, all others are named.
    """
    names = sorted(name for name in environ if is_slurms(name))
    if not names:
        return ""
    job = environ.get("SLURM_JOB_ID")
    of_job = [name for name in names if job and not name.startswith(("SBATCH_", "SCANCEL_"))]
    said = [name for name in names if name not in of_job]
    if of_job:
        said.append(f"{len(of_job)} variables of job {job}")
    return f"not given to Slurm, for it would change the jobs: {', '.join(said)}"
