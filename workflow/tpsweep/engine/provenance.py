"""Where and with what a row was measured: versions, host, job. Read once per engine start."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tpsweep


@dataclass(frozen=True)
class Software:
    """Versions as imported; ``cuda_version`` is None on a CPU build. Fields: columns of a row."""

    vllm_version_ran: str
    torch_version: str
    cuda_version: str | None
    tpsweep_version: str


@dataclass(frozen=True)
class Host:
    """Node, processor, and Slurm's job id (``<array>_<index>`` for an array element).

    Fields: columns of a row.
    """

    hostname: str
    cpu_model: str | None
    slurm_job_id: str | None


def software() -> Software:
    """That of this process."""
    import torch
    import vllm

    return Software(
        vllm_version_ran=str(vllm.__version__),
        torch_version=str(torch.__version__),
        cuda_version=torch.version.cuda,
        tpsweep_version=tpsweep.__version__,
    )


def host(environment: Mapping[str, str]) -> Host:
    """The host of this process; ``environment`` says what Slurm calls it."""
    array, index = (environment.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    return Host(
        hostname=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        cpu_model=_cpu_model(),
        slurm_job_id=f"{array}_{index}" if array and index else environment.get("SLURM_JOB_ID"),
    )


def usable_cpus() -> set[int]:
    """Processors that this process may run on."""
    return os.sched_getaffinity(0)


def _cpu_model() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
