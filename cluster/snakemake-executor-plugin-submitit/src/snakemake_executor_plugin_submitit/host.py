"""The GPUs of the machine that this program runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

QUERY = ["--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
QUERY_LIMIT_S = 60


@dataclass(frozen=True)
class HostGpu:
    """One GPU: ``index`` and ``uuid`` as nvidia-smi has them, memory in GiB."""

    index: str
    uuid: str
    name: str
    memory_gib: float


def host_gpus() -> list[HostGpu]:
    """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows; none without nvidia-smi."""
    gpus = parse_query(_nvidia_smi())
    allowed = visible_devices()
    if allowed is None:
        return gpus
    return [gpu for gpu in gpus if any(_is_named(gpu, device) for device in allowed)]


def device_pool() -> list[str]:
    """What may be handed out as CUDA_VISIBLE_DEVICES: its entries if set, else all indexes."""
    allowed = visible_devices()
    return allowed if allowed is not None else [gpu.index for gpu in host_gpus()]


def visible_devices() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES; None where it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def parse_query(text: str) -> list[HostGpu]:
    """GPUs from nvidia-smi's lines ``index, uuid, name, MiB``; other lines are ignored.

    nvidia-smi reports its own troubles ("No devices were found") on the same stream.
    """
    fields = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return [
        HostGpu(f[0], f[1], f[2], float(f[3]) / 1024)
        for f in fields
        if len(f) == 4 and f[3].replace(".", "", 1).isdigit()
    ]


def _is_named(gpu: HostGpu, device: str) -> bool:
    """CUDA takes an index, or a UUID that may be shortened."""
    return device == gpu.index or (device.startswith("GPU-") and gpu.uuid.startswith(device))


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *QUERY], capture_output=True, text=True, timeout=QUERY_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
