"""From a measured cell to its row: figures, floors, GPU state, provenance; refusals with reasons.

Everything that was measured or read comes in, a dict of ``tpsweep.core.schema``'s columns goes out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tpsweep.core.cell import Cell, Engine
from tpsweep.core.method import METHOD
from tpsweep.core.request import Request
from tpsweep.core.workloads import CAPTURE
from tpsweep.engine.nvml import LEAST_PHASE_SAMPLES, GpuGroup, GpuWindow, PhaseState
from tpsweep.engine.provenance import Host, Software
from tpsweep.engine.start_phases import StartPhases
from tpsweep.engine.vllm_api import LogFacts
from tpsweep.measure.measurement import Measurement, Times
from tpsweep.perfmodel import nvlink
from tpsweep.perfmodel.floors import floors_of
from tpsweep.perfmodel.memory import weights_of_rank
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.work import NoWorkError, work_of

_NVLINK = ("nvlink_sent_gb_s", "nvlink_received_gb_s")
SLACK = 0.8
"""A GPU that holds its share of the weights has at least this much of them in use."""


@dataclass(frozen=True)
class Nodes:
    """What an engine is spread over. Fields: columns of a row."""

    nodes: int = 1
    node_list: str | None = None
    network: str | None = None

    @property
    def note(self) -> str | None:
        """What of GPUs is not seen: the driver shows those of its own node."""
        return None if self.nodes == 1 else f"GPUs of the first of {self.nodes} nodes; no energy"


@dataclass(frozen=True)
class EngineRecord:
    """What was known once an engine was ready; ``start_s`` is process start to ready, ``ran`` the
    axes of ``axes.RAN`` as the engine says that it runs them (None: it does not say)."""

    engine_id: str
    start_s: float
    log_facts: LogFacts
    arguments: dict[str, Any]
    environment: dict[str, str]
    software: Software
    host: Host
    gpus: GpuGroup = field(repr=False)
    shape: Shape | None
    ran: Mapping[str, Any]
    phases: StartPhases
    nodes: Nodes = field(default_factory=Nodes)


@dataclass(frozen=True)
class Context:
    """Where in its session a cell was measured. Times are time.monotonic() seconds.

    ``utc_at_zero`` turns them into UTC; ``last_end`` is None for the engine's first cell.
    """

    request: Request
    order: int
    last_end: float | None
    ended: float
    utc_at_zero: datetime

    def utc(self, at: float) -> str:
        """A monotonic time as ISO 8601 UTC with milliseconds."""
        return (self.utc_at_zero + timedelta(seconds=at)).isoformat(timespec="milliseconds")


def make_row(
    cell: Cell,
    engine: EngineRecord,
    measured: Measurement,
    windows: Sequence[GpuWindow | None],
    context: Context,
) -> dict[str, Any]:
    """The row of a measured cell (columns of ``core.schema``); to be judged by ``refusals``."""
    row = {
        "cell_id": cell.cell_id,
        **cell.columns(),
        "warmups": cell.warmups,
        "repeats": cell.repeats,
        **measured.figures,
        **_gpu_state(engine, windows, measured.output_tokens),
        **_provenance(cell, engine, measured.times, context),
    }
    return {**row, **_floors(cell, engine.shape, row.get("tpot_ms"), row.get("prefill_ms"))}


def refusals(
    cell: Cell,
    engine: EngineRecord,
    windows: Sequence[GpuWindow | None],
    row: dict[str, Any],
) -> list[str]:
    """Why a row is refused, whatever its workload (measuring rules 2 to 4); empty if it may."""
    reasons = []
    for name, ran_size in engine.ran.items():
        size = getattr(cell.engine, name)
        if ran_size is not None and size != ran_size:
            reasons.append(f"{name}={size} was requested, {ran_size} ran")
    asked, ran = cell.engine.allreduce_backend, engine.log_facts.allreduce_backend
    if asked not in ("auto", "none") and ran != asked:
        reasons.append(f"all-reduce {asked} was requested, vLLM's log says {ran}")
    reasons += _idle_gpus(engine, cell, windows)
    for name, figure in (("decode_floor_ratio", "tpot_ms"), ("prefill_floor_ratio", "prefill_ms")):
        if row.get(name) is not None and row[name] < 1:
            reasons.append(
                f"{figure}={row[figure]:.3f} is faster than the hardware's floor "
                f"({name}={row[name]:.2f})"
            )
    return reasons


def _share(engine: Engine, shape: Shape | None) -> float:
    """Bytes of weights that a GPU must hold; 0 where we cannot say how many that is."""
    try:
        work = work_of(engine, shape) if shape else None
    except NoWorkError:
        work = None
    if work is None or work.no_floors:
        return 0.0
    stages = work.shape.stages(engine.pp)
    least = min(weights_of_rank(stage, work.dtype, engine) for stage in stages)
    return max(least - work.offloaded, 0.0)


def _idle_gpus(engine: EngineRecord, cell: Cell, windows: Sequence[GpuWindow | None]) -> list[str]:
    """Every GPU of the group must have worked and held its share of the weights."""
    share = _share(cell.engine, engine.shape)
    reasons = []
    for info, window in zip(engine.gpus.infos, windows, strict=True):
        if window is None:
            reasons.append(f"NVML gave no samples of {info.uuid}")
        elif window.utilisation_pct <= 0:
            reasons.append(f"{info.uuid} was idle during the cell")
        elif window.memory_used_b < SLACK * share:
            reasons.append(
                f"{info.uuid} held {window.memory_used_b / 1e9:.1f} GB, less than its share of "
                f"the weights ({share / 1e9:.1f} GB)"
            )
    return reasons


def _gpu_state(
    engine: EngineRecord, windows: Sequence[GpuWindow | None], output_tokens: int
) -> dict[str, Any]:
    group = engine.gpus
    if not group.infos or any(window is None for window in windows):
        return {"gpu_note": group.note or "NVML gave no samples during the cell"}
    known = [window for window in windows if window is not None]
    energies = [window.energy_j for window in known]
    seen_all = engine.nodes.nodes == 1
    energy = (
        sum(e for e in energies if e is not None) if seen_all and None not in energies else None
    )
    sent, received = ([getattr(w, name) for w in known] for name in _NVLINK)
    counted = None not in (*sent, *received)
    peak = nvlink.peak_gb_s(group.link, group.infos[0].name)
    return {
        "gpu_names": [info.name for info in group.infos],
        "gpu_uuids": [info.uuid for info in group.infos],
        "node_gpu_uuids": group.node_uuids,
        "gpu_power_limit_w": [info.power_limit_w for info in group.infos],
        "driver_version": group.infos[0].driver,
        "gpu_link": group.link,
        "gpu_utilisation_pct": [w.utilisation_pct for w in known],
        "gpu_memory_used_gb": [w.memory_used_b / 1e9 for w in known],
        "gpu_power_w": [w.power_w for w in known],
        "gpu_sm_clock_mhz": [w.sm_clock_mhz for w in known],
        "gpu_sm_clock_min_mhz": [w.sm_clock_min_mhz for w in known],
        **_phase_state(known),
        "gpu_mem_clock_mhz": [w.mem_clock_mhz for w in known],
        "gpu_temperature_c": [w.temperature_c for w in known],
        "energy_j": energy,
        "energy_j_per_tok": energy / output_tokens if energy and output_tokens else None,
        "gpu_nvlink_tx_gb_s": sent if counted else None,
        "gpu_nvlink_rx_gb_s": received if counted else None,
        "nvlink_share": max(*sent, *received) / peak if counted and peak else None,
        **({"gpu_note": engine.nodes.note} if engine.nodes.note else {}),
    }


def _phase_state(windows: Sequence[GpuWindow]) -> dict[str, Any]:
    """Clock and power by phase; null for a phase that is too short for NVML, with a note."""
    columns: dict[str, Any] = {}
    short = []
    for name in ("prefill", "decode"):
        states = [window.phases.get(name) or PhaseState(0) for window in windows]
        clocks = [state.sm_clock_mhz for state in states]
        power = [state.power_w for state in states]
        columns[f"gpu_sm_clock_{name}_mhz"] = None if None in clocks else clocks
        columns[f"gpu_power_{name}_w"] = None if None in power else power
        fewest = min(state.samples for state in states)
        if fewest < LEAST_PHASE_SAMPLES:
            short.append(f"{name}: {fewest} NVML samples, at least {LEAST_PHASE_SAMPLES} needed")
        elif None in power:
            short.append(f"{name}: the driver tells no power of the moment")
    columns["gpu_phase_note"] = "; ".join(short) or None
    return columns if any(window.phases for window in windows) else {}


def _provenance(cell: Cell, engine: EngineRecord, times: Times, context: Context) -> dict[str, Any]:
    gap = None if context.last_end is None else times.began - context.last_end
    return {
        **asdict(engine.software),
        **asdict(engine.host),
        **asdict(engine.nodes),
        "method": METHOD[cell.workload],
        "session_shuffled": cell.workload != CAPTURE,
        "nccl_version": engine.log_facts.nccl_version,
        "allreduce_backend_ran": engine.log_facts.allreduce_backend,
        "fusions_enabled": engine.log_facts.fusions,
        "graphs": engine.log_facts.graphs,
        "engine_args": json.dumps(engine.arguments, sort_keys=True),
        "engine_env": json.dumps(engine.environment, sort_keys=True),
        **{f"{name}_ran": size for name, size in engine.ran.items()},
        "kv_cache_tokens": engine.log_facts.kv_cache_tokens,
        "model_path": engine.arguments["model"],
        "model_digest": cell.engine.model.digest,
        "engine_id": engine.engine_id,
        "engine_start_s": engine.start_s,
        **asdict(engine.phases),
        "session_id": context.request.session_id,
        "session_order": context.order,
        "gap_s": gap,
        "started_at": context.utc(times.began),
        "measured_at": context.utc(times.measured),
        "ended_at": context.utc(context.ended),
        "log": _below_here(context.request.session_log),
        "synthetic": False,
    }


def _floors(
    cell: Cell, shape: Shape | None, tpot_ms: float | None, prefill_ms: float | None
) -> dict[str, Any]:
    floors = floors_of(cell, shape)

    def ratio(measured: float | None, floor: float | None) -> float | None:
        return measured / floor if measured is not None and floor else None

    return {
        "decode_floor_ms": floors.decode_ms,
        "decode_floor_kv_ms": floors.decode_kv_ms,
        "prefill_floor_ms": floors.prefill_ms,
        "decode_floor_ratio": ratio(tpot_ms, floors.decode_ms),
        "decode_floor_kv_ratio": ratio(tpot_ms, floors.decode_kv_ms),
        "prefill_floor_ratio": ratio(prefill_ms, floors.prefill_ms),
        "floor_note": floors.note,
    }


def _below_here(path: str) -> str:
    """A path relative to where Snakemake runs, if it is below it: it holds on another machine."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if path and Path(path).is_relative_to(here) else path
