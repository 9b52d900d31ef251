"""What can be set, and what Snakemake must know of this executor."""

# No ``from __future__ import annotations``: Snakemake reads the settings' types as they are.

import sys
from dataclasses import dataclass, field
from typing import Optional

from snakemake_interface_executor_plugins.settings import (  # type: ignore[import-untyped]
    CommonSettings,
    ExecutorSettingsBase,
)

from .configfiles import missing


@dataclass
class ExecutorSettings(ExecutorSettingsBase):  # type: ignore[misc]
    """What can be given as ``--submitit-...`` or in a profile as ``submitit-...``."""

    site: Optional[str] = field(  # noqa: UP045 (Snakemake takes this spelling only)
        default=None,
        metadata={"help": "The site file: GPUs, limits, Slurm flags.", "required": True},
    )
    logdir: str = field(
        default=".snakemake/submitit",
        metadata={"help": "Where results of cells, logs and sessions.jsonl go."},
    )
    gather_seconds: float = field(
        default=1.0,
        metadata={"help": "How long to wait for more ready jobs before sessions are formed."},
    )
    parallel: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "Sessions at a time (Slurm: of each array); overrides the site's own."},
    )
    qos: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "The QOS to submit under, one of the site's qos_limits."},
    )
    detach: bool = field(
        default=False,
        metadata={"help": "Ctrl-C leaves Slurm jobs running; the same command follows them again."},
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the sbatch scripts of the jobs that are ready; submit nothing."},
    )
    progress: str = field(
        default="auto",
        metadata={"help": "Jobs done and time left: auto (a block on a terminal), plain, none."},
    )
    progress_seconds: float = field(
        default=60.0,
        metadata={"help": "Least time between two plain lines of progress."},
    )

    def __post_init__(self) -> None:
        """Before Snakemake reads its config files: what it would end with a traceback for."""
        if said := missing(sys.argv):
            sys.exit(said)


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)
