"""Which GPUs an engine holds, and how they did while a cell was measured.

A sampler process (``python -m tpsweep.engine.nvml``) reads NVML several times a second
beside the engine and appends JSON lines; the daemon cuts out the window of each cell. NVML ignores
CUDA_VISIBLE_DEVICES, so GPUs are matched by UUID, which the CUDA driver gives for the visible ones
without making a context on them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tpsweep.core.method import LEAST_ENERGY_S
from tpsweep.perfmodel import nvlink

INTERVAL_S = 0.1
LEAST_PHASE_SAMPLES = 5
"""Of a phase, all its repeats together: over fewer the clock would be that of an instant."""
POWER_INSTANT = 186
"""NVML's field of the power at this moment; ``nvmlDeviceGetPowerUsage`` is the mean of the last
second on cards since Ampere, in which a phase of a tenth of that cannot be seen."""
_COUNTERS = ("energy_j", "nvlink_sent_kib", "nvlink_received_kib")
_LINKS = ("SYS", "NODE", "PHB", "PXB", "PIX")  # nvidia-smi's legend, slowest first; NV# is faster


class GpuError(RuntimeError):
    """A call to CUDA or NVML failed; the message says which."""


@dataclass(frozen=True)
class Sample:
    """One reading of one GPU. ``at`` is time.monotonic() seconds; units are in the names.

    Energy and NVLink traffic are counters since some time; a GPU that does not count its NVLink
    traffic has None. ``power_w`` is the driver's mean of the last second, ``power_now_w`` that of
    the moment, None where the driver does not tell it.
    """

    at: float
    uuid: str
    power_w: float
    energy_j: float
    memory_used_b: int
    utilisation_pct: float
    sm_clock_mhz: float
    mem_clock_mhz: float
    temperature_c: float
    nvlink_sent_kib: int | None = None
    nvlink_received_kib: int | None = None
    power_now_w: float | None = None


@dataclass(frozen=True)
class PhaseState:
    """One GPU in all prefills, or all decodes, of a cell; no values with under 5 samples."""

    samples: int
    sm_clock_mhz: float | None = None
    power_w: float | None = None


@dataclass(frozen=True)
class GpuInfo:
    """What does not change while an engine lives."""

    uuid: str
    name: str
    power_limit_w: float
    driver: str


@dataclass(frozen=True)
class GpuGroup:
    """The GPUs that an engine holds; none on a CPU, as ``note`` then says.

    ``node_uuids``: every GPU of the node that the driver shows. ``link``: the weakest in the group.
    """

    infos: list[GpuInfo] = field(default_factory=list)
    node_uuids: list[str] = field(default_factory=list)
    link: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class GpuWindow:
    """One GPU over one cell: counters and clocks over the kept repeats, maxima over the cell.

    ``energy_j`` is None over less than ``LEAST_ENERGY_S``, NVLink's GB/s (1e9 B) without counters.
    """

    uuid: str
    samples: int
    utilisation_pct: float
    memory_used_b: int
    power_w: float
    energy_j: float | None
    sm_clock_mhz: float
    sm_clock_min_mhz: float
    mem_clock_mhz: float
    temperature_c: float
    nvlink_sent_gb_s: float | None = None
    nvlink_received_gb_s: float | None = None
    phases: Mapping[str, PhaseState] = field(default_factory=dict)


def visible_uuids() -> list[str]:
    """UUIDs (``GPU-…``) of the GPUs that CUDA shows to this process, in CUDA's order.

    Raises ``GpuError`` where there is no driver or no GPU.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise GpuError(f"no CUDA driver: {error}") from error

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            raise GpuError(f"{name} returned {code}")

    call("cuInit", 0)
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    found = []
    for index in range(count.value):
        raw = (ctypes.c_ubyte * 16)()
        call("cuDeviceGetUuid_v2", ctypes.byref(raw), ctypes.c_int(index))
        found.append(f"GPU-{uuid.UUID(bytes=bytes(raw))}")
    return found


def describe(uuids: Sequence[str]) -> list[GpuInfo]:
    """Name, power limit and driver of each GPU, from NVML."""
    import pynvml

    pynvml.nvmlInit()
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    handles = [pynvml.nvmlDeviceGetHandleByUUID(u) for u in uuids]
    return [
        GpuInfo(
            u,
            str(pynvml.nvmlDeviceGetName(h)),
            pynvml.nvmlDeviceGetEnforcedPowerLimit(h) / 1e3,
            driver,
        )
        for u, h in zip(uuids, handles, strict=True)
    ]


def node_uuids() -> list[str]:
    """UUIDs of all GPUs of the node that NVML shows, in its order, whatever CUDA may use.

    One that is lost, or of another job and closed to this one, is left out: the engine can run.
    """
    import pynvml

    pynvml.nvmlInit()
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        with contextlib.suppress(pynvml.NVMLError):
            found.append(str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))))
    return found


def weakest_link(uuids: Sequence[str]) -> str | None:
    """The slowest link class between any two of the GPUs (``NV18``, ``PIX``, …); None for one GPU.

    From ``nvidia-smi topo -m``; raises ``GpuError`` if that cannot be read.
    """
    if len(uuids) < 2:
        return None
    import pynvml

    pynvml.nvmlInit()
    indexes = [
        pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(identity)) for identity in uuids
    ]
    try:
        text = subprocess.run(
            ["nvidia-smi", "topo", "-m"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise GpuError(f"nvidia-smi topo -m: {error}") from error
    return weakest_of(link_matrix(text), indexes)


def link_matrix(text: str) -> dict[tuple[int, int], str]:
    """Parse ``nvidia-smi topo -m``: (GPU index, GPU index) -> link class."""
    lines = [line.replace("\x1b[4m", "").replace("\x1b[0m", "") for line in text.splitlines()]
    header = next((line.split() for line in lines if line.split()[:1] == ["GPU0"]), [])
    columns = [int(word[3:]) for word in header if word[:3] == "GPU" and word[3:].isdigit()]
    matrix = {}
    for words in (line.split() for line in lines):
        if words and words[0][:3] == "GPU" and words[0][3:].isdigit() and len(words) > len(columns):
            row = int(words[0][3:])
            matrix.update({(row, c): words[1 + i] for i, c in enumerate(columns) if c != row})
    return matrix


def weakest_of(matrix: dict[tuple[int, int], str], indexes: Sequence[int]) -> str | None:
    """The slowest link class among the pairs of ``indexes``; None if the matrix lacks them."""

    def rank(link: str) -> tuple[int, int]:
        if link in _LINKS:
            return (0, _LINKS.index(link))
        return (1, int(link[2:]) if link[2:].isdigit() else 0)

    links = [matrix.get((a, b)) for a in indexes for b in indexes if a < b]
    known = [link for link in links if link is not None]
    return min(known, key=rank) if known and len(known) == len(links) else None


def window(
    samples: Sequence[Sample],
    identity: str,
    begin: float,
    measured: float,
    end: float,
    phases: Mapping[str, Iterable[tuple[float, float]]] | None = None,
) -> GpuWindow | None:
    """One GPU's samples from ``begin`` (first warm-up) to ``end``, kept repeats from ``measured``.

    ``phases``: begins and ends of each phase, by its name. Times are time.monotonic() seconds.
    Counters are read at both ends of the kept part, linearly between their two neighbouring
    samples. None if fewer than two samples fall inside.
    """
    own = [s for s in samples if s.uuid == identity]
    cell = [s for s in own if begin <= s.at <= end]
    kept = [s for s in cell if s.at >= measured] or cell
    if len(cell) < 2:
        return None
    energy, sent, received = (_counted(own, name, measured, end) for name in _COUNTERS)
    return GpuWindow(
        uuid=identity,
        samples=len(kept),
        utilisation_pct=max(s.utilisation_pct for s in cell),
        memory_used_b=max(s.memory_used_b for s in cell),
        power_w=statistics.fmean(s.power_w for s in kept),
        energy_j=energy if end - measured >= LEAST_ENERGY_S else None,
        sm_clock_mhz=statistics.median(s.sm_clock_mhz for s in kept),
        sm_clock_min_mhz=min(s.sm_clock_mhz for s in kept),
        mem_clock_mhz=statistics.median(s.mem_clock_mhz for s in kept),
        temperature_c=max(s.temperature_c for s in cell),
        nvlink_sent_gb_s=_gb_s(sent, end - measured),
        nvlink_received_gb_s=_gb_s(received, end - measured),
        phases={name: phase_state(kept, spans) for name, spans in (phases or {}).items()},
    )


def phase_state(samples: Sequence[Sample], spans: Iterable[tuple[float, float]]) -> PhaseState:
    """One GPU's samples inside any of ``spans`` (begin, end), which may be short: pooled."""
    spans = list(spans)
    inside = [s for s in samples if any(begin <= s.at <= end for begin, end in spans)]
    if len(inside) < LEAST_PHASE_SAMPLES:
        return PhaseState(len(inside))
    power = [s.power_now_w for s in inside if s.power_now_w is not None]
    return PhaseState(
        samples=len(inside),
        sm_clock_mhz=statistics.median(s.sm_clock_mhz for s in inside),
        power_w=statistics.fmean(power) if len(power) == len(inside) else None,
    )


def _counted(samples: Sequence[Sample], counter: str, begin: float, end: float) -> float | None:
    """A counter's increase from ``begin`` to ``end``; None if the GPU does not count."""
    if any(getattr(sample, counter) is None for sample in samples):
        return None
    return _counter_at(samples, counter, end) - _counter_at(samples, counter, begin)


def _counter_at(samples: Sequence[Sample], counter: str, at: float) -> float:
    before = max((s for s in samples if s.at <= at), key=lambda s: s.at, default=samples[0])
    after = min((s for s in samples if s.at >= at), key=lambda s: s.at, default=samples[-1])
    first, last = float(getattr(before, counter)), float(getattr(after, counter))
    if after.at <= before.at:
        return first
    return first + (at - before.at) / (after.at - before.at) * (last - first)


def _gb_s(kib: float | None, seconds: float) -> float | None:
    return None if kib is None or seconds <= 0 else kib * 1024 / 1e9 / seconds


class Sampler:
    """The sampler process of one engine: starts at once, read at any time, ends with ``stop``."""

    def __init__(self, uuids: Sequence[str], file: Path) -> None:
        self._file = file
        self._position = 0
        file.touch()
        command = [sys.executable, "-m", "tpsweep.engine.nvml", "--file", str(file), *uuids]
        self._process = subprocess.Popen(command)

    def read(self) -> list[Sample]:
        """Samples since the last call. Raises ``GpuError`` if the process has died."""
        if self._process.poll() is not None:
            raise GpuError(f"the NVML sampler ended with {self._process.returncode}")
        with self._file.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        return [Sample(**json.loads(line)) for line in whole.splitlines()]

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


def _read_nvml(uuids: Sequence[str], file: Path) -> None:
    import pynvml

    pynvml.nvmlInit()
    handles = {identity: pynvml.nvmlDeviceGetHandleByUUID(identity) for identity in uuids}
    with file.open("a", encoding="utf-8", buffering=1) as out:
        while True:
            for identity, gpu in handles.items():
                traffic = nvlink.counters(gpu)
                sample = Sample(
                    at=time.monotonic(),
                    uuid=identity,
                    power_w=pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
                    energy_j=pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
                    memory_used_b=pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
                    utilisation_pct=pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
                    sm_clock_mhz=pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
                    mem_clock_mhz=pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
                    temperature_c=pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
                    nvlink_sent_kib=traffic[0] if traffic else None,
                    nvlink_received_kib=traffic[1] if traffic else None,
                    power_now_w=_power_now(gpu),
                )
                out.write(json.dumps(asdict(sample)) + "\n")
            time.sleep(INTERVAL_S)


def _power_now(gpu: Any) -> float | None:
    """Watts at this moment; None where the driver does not tell them."""
    import pynvml

    try:
        (found,) = pynvml.nvmlDeviceGetFieldValues(gpu, [POWER_INSTANT])
    except pynvml.NVMLError:
        return None
    return found.value.uiVal / 1e3 if found.nvmlReturn == pynvml.NVML_SUCCESS else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Read NVML until ended; JSON lines.")
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("uuids", nargs="+")
    options = parser.parse_args()
    _read_nvml(options.uuids, options.file)
