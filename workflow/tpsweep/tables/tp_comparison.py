"""Table ``tp_comparison``: what more GPUs per model bring, one line per TP.

Lines are compared within a series: cells whose identity differs in ``tp``, ``gpus``, ``replicas``
and ``run`` only. TP=1 has no all-reduce: its line stands in the series of every backend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np

from tpsweep import row, stats
from tpsweep.results import Results, records
from tpsweep.row import BOOL, FLOAT, INT, TEXT, Column
from tpsweep.tables.table import IDENTITY_VIEWS, Record, Table, View, figure, sort_key, text

_LINE = ("tp", "replicas", "gpus")
_NOT_KEY = ("cell_id", "run", "allreduce_backend", *_LINE)
KEY = tuple(name for name in row.IDENTITY_NAMES if name not in _NOT_KEY)
"""What every line of a series has in common, the all-reduce backend apart."""

NO_ALLREDUCE = "none"
DECODE, PREFILL = "tpot_ms_samples", "prefill_ms_samples"
_COMPARED = {
    "driver": "driver_version",
    "vLLM": "vllm_version_ran",
    "torch": "torch_version",
    "CUDA": "cuda_version",
    "GPUs": "gpu_names",
    "CPU": "cpu_model",
}
_FROM_ROWS = (
    *(DECODE, PREFILL, "output_tok_s", "prefill_chunked", "allreduce_backend_ran", "synthetic"),
    *_COMPARED.values(),
)


def _speedup_columns(name: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_speedup", FLOAT, f"baseline's {name} time / this line's"),
        Column(f"{name}_speedup_lo", FLOAT, "95 % interval"),
        Column(f"{name}_speedup_hi", FLOAT, "95 % interval"),
        Column(f"{name}_speedup_kind", TEXT, "between runs, or within session"),
        Column(f"{name}_verdict", TEXT, "what the interval allows to say"),
    )


COLUMNS = (
    *(column for column in row.IDENTITY if column.name in KEY),
    Column("allreduce_backend", TEXT, "of the series; its TP=1 line ran without all-reduce"),
    Column("tp", INT, "tensor-parallel size"),
    Column("replicas", INT, "engines side by side"),
    Column("gpus", INT, "tp x replicas"),
    Column("state", TEXT, "measured, or why the line or some of its runs have no figures"),
    Column("runs", INT, "runs measured"),
    Column("runs_planned", INT, "runs asked for"),
    Column("tpot_ms", FLOAT, "decode time per output token: median of the run medians"),
    Column("tpot_ms_lo", FLOAT, "95 % interval of the kind interval_kind"),
    Column("tpot_ms_hi", FLOAT, "95 % interval of the kind interval_kind"),
    Column("prefill_ms", FLOAT, "median of the run medians"),
    Column("prefill_ms_lo", FLOAT, "95 % interval of the kind interval_kind"),
    Column("prefill_ms_hi", FLOAT, "95 % interval of the kind interval_kind"),
    Column("interval_kind", TEXT, "between runs, or within session"),
    Column("output_tok_s", FLOAT, "median over runs; prefill is in it"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("per_gpu_ratio", FLOAT, "output_tok_s_per_gpu / that of the baseline"),
    Column("split_output_tok_s", FLOAT, "computed: the baseline on as many GPUs, batch split"),
    Column("baseline_tp", INT, "smallest measured TP of the series"),
    *_speedup_columns("decode"),
    *_speedup_columns("prefill"),
    Column("note", TEXT, "what else differs between the lines of the series"),
    Column("synthetic", BOOL, "true: from made-up rows, never measured"),
)

_SHORT = {
    None: "",
    stats.SIGNIFICANT: "significant",
    stats.NOT_SIGNIFICANT: "not significant",
    stats.DIFFERS_WITHIN: "differs (within session)",
    stats.SAME_WITHIN: "no difference (within session)",
    stats.UNDECIDED: "undecided",
}
VIEWS = (
    *IDENTITY_VIEWS,
    View("State", text("state")),
    View("Runs", lambda record: f"{record['runs']}/{record['runs_planned']}"),
    View("Decode (ms/token)", figure("tpot_ms")),
    View("Prefill (ms)", figure("prefill_ms")),
    View("Intervals", text("interval_kind"), once=True),
    View("Output (tok/s)", figure("output_tok_s")),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu")),
    View("Per GPU (ratio to baseline)", figure("per_gpu_ratio")),
    View("Baseline engines, batch split (tok/s, computed)", figure("split_output_tok_s")),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("Decode speed-up", figure("decode_speedup")),
    View("Decode verdict", lambda record: _SHORT[record["decode_verdict"]]),
    View("Prefill speed-up", figure("prefill_speedup")),
    View("Prefill verdict", lambda record: _SHORT[record["prefill_verdict"]]),
    View("Note", text("note"), once=True),
)
LEGEND = (
    "Values are medians of the run medians, with 95 % intervals. Speed-up: the time of the"
    " baseline (smallest measured TP of the same series) divided by the line's.",
    f"Between runs: at least {stats.MIN_RUNS} engine starts a side; only then can a difference be"
    f" significant. Within session: {stats.DIFFERS_WITHIN.split('; ')[1]}.",
    "Batch split: as many engines of the baseline's TP as fit on the same GPUs, each with its"
    " share of the batch; computed from that batch's line, not measured.",
)


@dataclass(frozen=True)
class Line:
    """The runs of one TP in one series: ``cells`` of the manifest, rows' columns included."""

    tp: int
    replicas: int
    gpus: int
    cells: list[Record]

    @cached_property
    def measured(self) -> list[Record]:
        """Its cells that have a row."""
        return [cell for cell in self.cells if cell["state"] == "measured"]

    @property
    def state(self) -> str:
        """``measured``, or what kept the line, or some of its runs, from being so."""
        holes = dict.fromkeys(_hole(cell) for cell in self.cells if cell["state"] != "measured")
        if not holes:
            return "measured"
        share = [f"{len(self.measured)}/{len(self.cells)} runs measured"] if self.measured else []
        return "; ".join([*share, *holes])

    def runs(self, samples: str) -> list[stats.Samples]:
        """The samples of each measured run that has usable ones."""
        return [cell[samples] for cell in self.measured if _usable(cell[samples])]

    @cached_property
    def output_tok_s(self) -> float | None:
        """Median over the measured runs."""
        found = [c["output_tok_s"] for c in self.measured if c["output_tok_s"] is not None]
        return median(found) if found else None


@dataclass(frozen=True)
class Series:
    """Lines that are compared: ``key`` holds the values of ``KEY``, lines rise in TP."""

    key: tuple[Any, ...]
    backend: str
    lines: list[Line]

    @cached_property
    def baseline(self) -> Line | None:
        """The smallest measured TP."""
        return next((line for line in self.lines if line.measured), None)

    def place(self, batch: int | None) -> tuple[Any, ...]:
        """Identifies the series with this batch in place of its own."""
        at = KEY.index("batch")
        return (*self.key[:at], batch, *self.key[at + 1 :], self.backend)

    @property
    def batch(self) -> int | None:
        """Sequences in the static batch; None for other workloads."""
        found: int | None = self.key[KEY.index("batch")]
        return found


def build(results: Results) -> Table:
    """Every TP of every series that the manifest has, measured or not; captures are left out."""
    series = list(_series(_cells(results)))
    throughput = {
        (one.place(one.batch), line.tp, line.replicas): line.output_tok_s
        for one in series
        for line in one.lines
    }
    lines = [record for one in series for record in _records(one, throughput)]
    lines.sort(key=lambda record: sort_key(record, (*KEY, "allreduce_backend", *_LINE)))
    return Table("tp_comparison", "TP comparison", COLUMNS, VIEWS, lines, LEGEND)


def _cells(results: Results) -> Iterator[Record]:
    """The manifest's cells with what the comparison needs of their rows."""
    by_id = {line["cell_id"]: line for line in records(results.rows, ("cell_id", *_FROM_ROWS))}
    names = (*row.IDENTITY_NAMES, "state", "failure_type", "reason")
    for cell in records(results.manifest, names):
        # Captures are profiled, and profiled is not unprofiled (measuring rule 6).
        if cell["workload"] != "capture":
            yield {**cell, **by_id.get(cell["cell_id"], {})}


def _series(cells: Iterator[Record]) -> Iterator[Series]:
    by_key: dict[tuple[Any, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        by_key[tuple(cell[name] for name in KEY)][cell["allreduce_backend"]].append(cell)
    for key, by_backend in by_key.items():
        without = by_backend.pop(NO_ALLREDUCE, [])
        for backend, found in (by_backend or {NO_ALLREDUCE: []}).items():
            yield Series(key, backend, _lines([*without, *found]))


def _lines(cells: list[Record]) -> list[Line]:
    by_size: dict[tuple[int, int, int], list[Record]] = defaultdict(list)
    for cell in cells:
        by_size[cell["tp"], cell["replicas"], cell["gpus"]].append(cell)
    return [Line(*size, found) for size, found in sorted(by_size.items())]


def _records(
    series: Series, throughput: dict[tuple[tuple[Any, ...], int, int], float | None]
) -> Iterator[Record]:
    baseline = series.baseline
    differences = _differences(series.lines)
    for line in series.lines:
        record: Record = {
            **dict(zip(KEY, series.key, strict=True)),
            "allreduce_backend": series.backend,
            "tp": line.tp,
            "replicas": line.replicas,
            "gpus": line.gpus,
            "state": line.state,
            "runs": len(line.measured),
            "runs_planned": len(line.cells),
            "interval_kind": None,
            "baseline_tp": baseline.tp if baseline else None,
            "note": "; ".join([*differences, *_warnings(line)]) or None,
            "synthetic": any(cell["synthetic"] for cell in line.measured),
        }
        record |= _interval(line, DECODE, "tpot_ms") | _interval(line, PREFILL, "prefill_ms")
        record |= _speedup(baseline, line, DECODE, "decode")
        record |= _speedup(baseline, line, PREFILL, "prefill")
        record |= _rates(series, line, throughput)
        yield record


def _interval(line: Line, samples: str, name: str) -> Record:
    runs = line.runs(samples)
    if not runs:
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    found = stats.median_of_runs(runs)
    kind = {} if found.lo is None else {"interval_kind": found.kind}
    return {name: found.value, f"{name}_lo": found.lo, f"{name}_hi": found.hi, **kind}


def _speedup(baseline: Line | None, line: Line, samples: str, name: str) -> Record:
    names = [column.name for column in _speedup_columns(name)]
    if baseline is None or line is baseline:
        return dict.fromkeys(names)
    before, after = baseline.runs(samples), line.runs(samples)
    if not before or not after:
        return dict.fromkeys(names)
    found = stats.speedup(before, after)
    values = (found.value, found.lo, found.hi, found.kind, found.verdict)
    return dict(zip(names, values, strict=True))


def _rates(
    series: Series, line: Line, throughput: dict[tuple[tuple[Any, ...], int, int], float | None]
) -> Record:
    """Throughput, per GPU, and beside the baseline's on as many GPUs (measuring rule 9)."""
    rate, baseline = line.output_tok_s, series.baseline
    per_gpu = None if rate is None else rate / line.gpus
    ratio = split = None
    if baseline is not None and line is not baseline:
        if per_gpu is not None and baseline.output_tok_s:
            ratio = per_gpu / (baseline.output_tok_s / baseline.gpus)
        engines, rest = divmod(line.gpus, baseline.gpus)
        if series.batch is not None and engines > 1 and rest == 0 and series.batch % engines == 0:
            place = series.place(series.batch // engines)
            share = throughput.get((place, baseline.tp, baseline.replicas))
            split = None if share is None else share * engines
    return {
        "output_tok_s": rate,
        "output_tok_s_per_gpu": per_gpu,
        "per_gpu_ratio": ratio,
        "split_output_tok_s": split,
    }


def _differences(lines: list[Line]) -> list[str]:
    """Provenance in which the measured lines differ, so that it could explain the difference."""
    parallel = [line for line in lines if line.tp > 1]
    found = [_difference(label, name, lines) for label, name in _COMPARED.items()]
    found.append(_difference("all-reduce that ran", "allreduce_backend_ran", parallel))
    return [difference for difference in found if difference]


def _difference(label: str, name: str, lines: list[Line]) -> str:
    sizes: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        for value in dict.fromkeys(_plain(cell[name]) for cell in line.measured):
            if value:
                sizes[value].append(line.tp)
    if len(sizes) < 2:
        return ""
    each = ", ".join(
        f"{value} (TP={'/'.join(map(str, dict.fromkeys(tps)))})" for value, tps in sizes.items()
    )
    return f"{label} differs: {each}"


def _warnings(line: Line) -> Iterator[str]:
    if any(cell["weights"] == "dummy" for cell in line.measured):
        yield "dummy weights: prefill and joules are not those of real data"
    if any(cell["prefill_chunked"] for cell in line.measured):
        yield "prefill was chunked"
    for samples, label in ((DECODE, "decode"), (PREFILL, "prefill")):
        given = sum(cell[samples] is not None and len(cell[samples]) > 0 for cell in line.measured)
        if given > len(line.runs(samples)):
            yield f"{label} samples of {given - len(line.runs(samples))} run(s) are not positive"


def _hole(cell: Record) -> str:
    if cell["state"] == "failed":
        return f"failed: {cell['failure_type']}"
    return f"{cell['state']}: {cell['reason']}" if cell["reason"] else str(cell["state"])


def _usable(samples: Any) -> bool:
    if samples is None or len(samples) == 0:
        return False
    return bool(np.all(np.isfinite(samples) & (samples > 0)))


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else ", ".join(sorted(set(value)))
