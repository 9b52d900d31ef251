"""Results folders of made-up cells: every row says that it is synthetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep import tables
from tpsweep.analysis.builder import build_tables
from tpsweep.analysis.table import Table
from tpsweep.cli.tables import BUILDERS
from tpsweep.core import manifest, results_paths, row_file
from tpsweep.core.failure import Failure
from tpsweep.results.load import load

Record = dict[str, Any]
SPREAD = (0.99, 0.993, 0.997, 1.0, 1.003, 1.007, 1.01)
"""Repeats of a start, around its median."""
THREE = (0.99, 1.0, 1.01)
"""Of a throughput cell."""


class Sweep:
    """A results folder made of synthetic cells."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest: list[Record] = []

    def add(
        self,
        tp: int,
        *,
        tpot: float | None = None,
        prefill: float = 100.0,
        rate: float | None = None,
        status: str = "planned",
        reason: str | None = None,
        measured: Record | None = None,
        **axes: Any,
    ) -> str:
        """One cell; with ``tpot`` (ms) or figures (``measured``) also its row.

        Samples stand at 0.99 to 1.01 of the times (``SPREAD``).
        """
        identity: Record = {
            "cell_id": f"{len(self.manifest):012x}",
            "workload": "latency",
            "site": "here",
            "gpu": "H200",
            "gpu_card": "H200",
            "gpus": tp * axes.get("pp", 1) * axes.get("replicas", 1) * axes.get("dp", 1),
            "model": "llama",
            "dtype": "bfloat16",
            "weights": "real",
            "tp": tp,
            "replicas": 1,
            "variant": "default",
            "allreduce_backend": "none" if tp == 1 else "auto",
            "vllm_version": "0.32.0",
            "batch": 1,
            "input_len": 512,
            "output_len": 128,
            "dataset": "random",
            "run": 1,
            **axes,
        }
        # These stand in the manifest only.
        beside = {name: identity.pop(name, None) for name in ("settings", "experts")}
        path = f"cells/{identity['workload']}/{identity['cell_id']}.parquet"
        self.manifest.append(
            {**identity, **beside, "path": path, "status": status, "reason": reason}
        )
        figures: Record = {"synthetic": True, **(measured or {})}
        if tpot is not None:
            rate = 1000 / tpot if rate is None else rate
            figures = {
                "tpot_ms_samples": [tpot * part for part in SPREAD],
                "prefill_ms_samples": [prefill * part for part in SPREAD],
                "tpot_ms": tpot,
                "prefill_ms": prefill,
                "output_tok_s": rate,
                **figures,
            }
        if tpot is not None or measured is not None:
            row_file.write_row({**identity, **figures}, self.root / path)
        return str(identity["cell_id"])

    def offline(self, tp: int, request_s: float | None = None, **axes: Any) -> str:
        """A throughput cell; with ``request_s`` also its row, of 100 output tokens a request."""
        measured = request_s and {
            "request_s": request_s,
            "request_s_samples": [request_s * part for part in THREE],
            "output_tok_s": request_s * 100,
            "output_tok_s_samples": [request_s * 100 * part for part in THREE],
            "total_tok_s": request_s * 600,
        }
        axes = {"workload": "throughput", "batch": None, "num_prompts": 1000, **axes}
        return self.add(tp, measured=measured, **axes)

    def online(
        self, tp: int, ttft: float | None = None, itl: float = 10.0, seeds: int = 3, **axes: Any
    ) -> str:
        """A serve cell; with ``ttft`` (ms) also its row.

        Seeds stand at 0.95 to 1.05 of the medians, p99 at 3 times TTFT.
        """
        parts = [0.95 + 0.1 * seed / (seeds - 1) for seed in range(seeds)] if seeds > 1 else [1.0]
        extra = axes.pop("measured", {})
        measured = ttft and {
            "ttft_p50_ms": ttft,
            "ttft_p50_ms_samples": [ttft * part for part in parts],
            "ttft_p99_ms": ttft * 3,
            "itl_p50_ms": itl,
            "itl_p50_ms_samples": [itl * part for part in parts],
            "request_s": 3.9,
            "request_s_samples": [3.9 * part for part in parts],
            "output_tok_s": 390.0,
            "output_tok_s_samples": [390.0 * part for part in parts],
            "goodput_request_s": 3.5,
            "saturated": "no",
            "max_in_flight": 7,
            **extra,
        }
        axes = {
            "workload": "serve",
            "batch": None,
            "num_prompts": 1000,
            "request_rate": 4.0,
            **axes,
        }
        return self.add(tp, measured=measured, **axes)

    def searched(self, tp: int, rates: Record | None = None, **axes: Any) -> str:
        """A capacity cell; with ``rates`` also its row: by SLO, the capacity and the rate above it
        that fails.

        Of 100 output tokens a request, found in 11 probes.
        """
        extra = axes.pop("measured", {})
        measured = rates and {
            "slos": json.dumps({name: {"ttft_p99_ms": 500.0} for name in rates}),
            "slo_names": list(rates),
            "capacity_request_s": [low for low, _ in rates.values()],
            "capacity_upper_request_s": [high for _, high in rates.values()],
            "capacity_verdicts": ["bracket"] * len(rates),
            "capacity_limits": ["ttft_p99_ms"] * len(rates),
            "capacity_notes": [None] * len(rates),
            "capacity_output_tok_s": [low and 100 * low for low, _ in rates.values()],
            "capacity_ttft_p50_ms": [80.0] * len(rates),
            "capacity_ttft_p99_ms": [450.0] + [None] * (len(rates) - 1),
            "capacity_tpot_p50_ms": [10.0] * len(rates),
            "capacity_tpot_p99_ms": [15.0] + [None] * (len(rates) - 1),
            "probe_request_s": [1.0] * 11,
            **extra,
        }
        axes = {"workload": "capacity", "batch": None, "num_prompts": 1000, **axes}
        return self.add(tp, measured=measured or None, **axes)

    def capture(self, tp: int, report: Record | None = None, **axes: Any) -> str:
        """A measured capture cell; ``report``: what the analysis is made to have said of it.

        ``report`` says itself that it is synthetic. ``profiler`` is its program, ``config`` the
        model's config.json, which stands beside a capture.
        """
        config = axes.pop("config", None)
        profiler = axes.pop("profiler", "torch 2.11.0")
        measured = {
            "profiler_ran": profiler,
            "allreduce_backend_ran": "none" if tp == 1 else "custom",
            "gpu_nvlink_tx_gb_s": [2.0, 4.0][:tp],
            "nvlink_share": 4 / 450,
            **axes.pop("measured", {}),
        }
        cell_id = self.add(tp, measured=measured, **{"workload": "capture", **axes})
        if report is not None:
            place = self.root / results_paths.capture_report(self.manifest[-1]["path"])
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps({"synthetic": True, **report}))
        if config is not None:
            beside = self.root / results_paths.capture_sidecar(self.manifest[-1]["path"])
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"model": config}))
        return cell_id

    def fail(self, cell_id: str, kind: str, message: str) -> None:
        Failure(cell_id, "latency", "", kind, message).write(self.root / "failures")

    def write_manifest(self) -> None:
        self.root.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(self.manifest, schema=manifest.SCHEMA)
        pq.write_table(table, self.root / "matrix.parquet")

    def tables(self) -> tables.Summary:
        self.write_manifest()
        return tables.write_tables(self.root, load(self.root), BUILDERS)

    def built(self) -> dict[str, Table]:
        """Every table, without a file."""
        self.write_manifest()
        return build_tables(load(self.root), BUILDERS)

    def read(self, name: str) -> list[Record]:
        lines: list[Record] = pq.read_table(self.root / "tables" / f"{name}.parquet").to_pylist()
        return lines

    def comparison(self) -> dict[tuple[str, int, int], Record]:
        self.tables()
        lines = self.read("tp_comparison")
        return {(line["allreduce_backend"], line["batch"], line["tp"]): line for line in lines}

    def markdown(self, name: str) -> str:
        return (self.root / "tables" / f"{name}.md").read_text("utf-8")


def report(tp: int, compute: float, transfer: float = 0.25, step: float = 4.0) -> Record:
    """What the analysis is made to have said of a capture of two layers, times in ms."""
    per_step = (5, 1) if tp > 1 else (0, 0)
    counts = {"all_reduce": per_step[0], "all_gather": per_step[1]}
    ranks = [str(rank) for rank in range(tp)]
    decode: Record = {
        "steps": 15,
        "step_ms": {"p50": step},
        "transfer_us": {"p50": 1e3 * transfer / 5} if tp > 1 else None,
        "transfer_ms_per_step": transfer if tp > 1 else 0.0,
        "transfer_fraction_profiled": transfer / step if tp > 1 else 0.0,
        "all_gather_ms_per_step": 0.01 if tp > 1 else 0.0,
        "compute_ms_per_step": dict.fromkeys(ranks, compute),
        "wait_ms_per_step": {rank: 0.1 * at for at, rank in enumerate(ranks)},
        "gap_ms_per_step": {rank: 0.3 + 0.1 * at for at, rank in enumerate(ranks)},
        "busbw_gb_s": 2.1 if tp > 1 else None,
        "link_share": 0.005 if tp > 1 else None,
    }
    return {
        "ranks": tp,
        "backend": "custom" if tp > 1 else "none",
        "self_check": {"expected": counts, "found": counts, "ok": True},
        "phases": {"decode": decode},
        "warnings": [],
    }
