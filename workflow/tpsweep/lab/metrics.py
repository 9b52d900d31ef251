"""Table ``metrics``: the lab's list of metrics, a line per metric, TP and batch or rate.

Every value is that of another table, which ``source`` names. Of the batches there are the smallest
and the largest that every TP of the model has measured: at equal batch, or nothing is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis.series import KEY, Source
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    SYNTHETIC,
    Record,
    Table,
    View,
    digits,
    labels_of,
    sort_key,
    text,
)
from tpsweep.core.axes import BY_NAME, LAYOUT, READ, Group
from tpsweep.core.manifest import LABELS
from tpsweep.core.schema import FLOAT, IDENTITY, INT, TEXT, Column
from tpsweep.tables import crossover

NEEDS = ("tp_comparison", "communication", "serving", "crossover")
_OWN = (Group.TASK, Group.ARRIVALS, Group.BATCH, Group.LAYOUT, Group.SIZE)
_SUBJECT = (
    *("site", "gpu", "gpu_card", "model", "model_revision", "dtype", "weights", "vllm_version"),
    *("variant", "allreduce_backend", "input_len", "output_len"),
    *(axis.name for axis in READ if axis.added and axis.group not in _OWN),
)


@dataclass(frozen=True)
class Metric:
    """A metric of the list: where its value is, and in which unit; ``factor`` converts."""

    name: str
    unit: str
    column: str
    factor: float = 1.0


LATENCY = (
    Metric("decode latency", "ms/token", "tpot_ms"),
    Metric("prefill latency", "ms", "prefill_ms"),
    Metric("throughput at equal batch", "tok/s", "output_tok_s"),
    Metric("throughput per GPU at equal batch", "tok/s", "output_tok_s_per_gpu"),
)
CAPTURE = (
    Metric("all-reduce, transfer", "us", "transfer_us"),
    Metric("communication, of decode time", "%", "transfer_fraction", 100),
    Metric("communication, of the profiled step", "%", "transfer_fraction_profiled", 100),
    Metric("NVLink during an all-reduce", "GB/s", "busbw_gb_s"),
    Metric("NVLink during an all-reduce, of the peak", "%", "link_share", 100),
    Metric("NVLink over the profiled run", "GB/s", "nvlink_gb_s"),
    Metric("NVLink over the profiled run, of the peak", "%", "nvlink_share", 100),
)
LINK = (
    Metric("NVLink in decode", "GB/s", "nvlink_decode_gb_s"),
    Metric("NVLink in decode, of the peak", "%", "nvlink_decode_share", 100),
)
"""By the counters of static batches without a profiler; of lines whose GPUs count."""
SERVING = (
    Metric("TTFT p50", "ms", "ttft_p50_ms"),
    Metric("TTFT p99", "ms", "ttft_p99_ms"),
    Metric("ITL p50", "ms", "itl_p50_ms"),
)
LOWER_BOUND = ("transfer_us", "transfer_fraction", "transfer_fraction_profiled")
"""Where kernels push, all that is known of a transfer is that it took so long at least."""
CROSSOVER = "crossover batch"
NAMES = (*(m.name for m in (*LATENCY, *CAPTURE, *LINK, *SERVING)), CROSSOVER)
_IDENTITY = {column.name: column for column in IDENTITY}
OTHER_SIZES = tuple(axis.name for axis in LAYOUT if axis.name != "tp")
COLUMNS = (
    *(_IDENTITY[name] for name in _SUBJECT),
    *LABELS,
    Column("metric", TEXT, "of the lab's list"),
    Column("unit", TEXT, "of value, lo and hi"),
    Column("tp", TEXT, "tensor-parallel size; a pair for a crossover"),
    *(column for column in IDENTITY if column.name in OTHER_SIZES),
    Column("batch", INT, "static batch; null for serving and crossovers"),
    Column("request_rate", FLOAT, "offered requests/s; null for static batches"),
    Column("run", INT, "of a capture; null where runs are pooled"),
    Column("profiler_ran", TEXT, "of a capture that is measured"),
    Column("value", FLOAT, "null: not measured; see said"),
    Column("lo", FLOAT, "lower end of its interval or range"),
    Column("hi", FLOAT, "upper end"),
    Column("starts", TEXT, "how many there are, if too few for an interval between them"),
    Column("said", TEXT, "the crossover, or why there is no value"),
    Column("source", TEXT, "the table that the value is from"),
    SYNTHETIC,
)


def _value(record: Record) -> str:
    if record["value"] is None:
        return str(record["said"] or "n/a")
    known = [record["starts"]]
    if record["lo"] is not None:
        known.append(f"{digits(record['lo'])} to {digits(record['hi'])}")
    words = "; ".join(filter(None, known))
    ends = f" ({words})" if words else ""
    unit = f" {record['unit']}" if record["unit"] else ""
    said = f"; {record['said']}" if record["said"] else ""
    return f"{digits(record['value'])}{ends}{unit}{said}"


_OWN_HEADINGS = {axis.heading for axis in READ if axis.group in _OWN}
VIEWS = (
    *(view for view in IDENTITY_VIEWS if view.heading not in _OWN_HEADINGS),
    View("Metric", text("metric")),
    View("TP", text("tp")),
    *(View(BY_NAME[name].heading, text(name), once=True) for name in OTHER_SIZES),
    View("Batch", text("batch")),
    View("Rate (requests/s)", text("request_rate")),
    View("Run", text("run"), once=True),
    View("Profiler", text("profiler_ran"), once=True),
    View("Value", _value),
    View("Table", text("source")),
)
LEGEND = (
    "Batches: the smallest and the largest that every measured TP of the model has. Communication:"
    " transfer alone; what a rank waits for the others is no part of it. Crossover: by sequences"
    " per node, beside smaller engines on the same GPUs.",
)
EMPTY = "The matrix is empty."


def build(_: Source, compared: Table, captures: Table, served: Table, crossovers: Table) -> Table:
    """Every metric of every model and node class that the matrix has cells for."""
    lines = [
        *_of_batches(compared.records, LATENCY, "tp_comparison"),
        *_of_batches(_counted(compared.records), LINK, "tp_comparison"),
        *_of_batches(captures.records, CAPTURE, "communication"),
        *_of_serving(served.records),
        *_of_crossovers(crossovers.records),
    ]
    lines.sort(key=_order)
    return Table("metrics", "Metrics", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _of_batches(lines: list[Record], metrics: tuple[Metric, ...], source: str) -> Iterator[Record]:
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for line in lines:
        groups[tuple(line[name] for name in _SUBJECT if name in line)].append(line)
    for group in groups.values():
        chosen = _equal_batches(group)
        for line in group:
            # At TP=1 nothing is communicated: a line of nothing says nothing.
            if line["batch"] in chosen and not (source == "communication" and line["tp"] == 1):
                yield from (_record(line, metric, source) for metric in metrics)


def _counted(lines: list[Record]) -> list[Record]:
    return [line for line in lines if line["nvlink_decode_gb_s"] is not None]


def _equal_batches(group: list[Record]) -> set[int]:
    """Smallest and largest batch at which every TP is measured; of all batches if there is none."""
    measured: dict[int, set[int]] = defaultdict(set)
    for line in group:
        if line["state"] == "measured" or line.get("runs"):
            measured[line["tp"]].add(line["batch"])
    common = set.intersection(*measured.values()) if measured else set()
    batches = common or {line["batch"] for line in group}
    return {min(batches), max(batches)}


def _of_serving(lines: list[Record]) -> Iterator[Record]:
    for line in lines:
        yield from (_record(line, metric, "serving") for metric in SERVING)


def _of_crossovers(lines: list[Record]) -> Iterator[Record]:
    for line in lines:
        if line["metric"] != crossover.METRICS[crossover.EQUAL]:
            continue
        found = _record({**line, "batch": None}, Metric(CROSSOVER, "", "none"), "crossover")
        why = f": {line['why']}" if line["why"] else ""
        is_open = line["crossover"] == "undecided"
        significant = f"{'' if is_open else 'significant: '}{line['crossover']}{why}"
        pair = f"{line['tp_from']} to {line['tp_to']}"
        yield {
            **found,
            "tp": pair,
            **dict.fromkeys(OTHER_SIZES),
            "said": "; ".join(filter(None, (line["observed"], significant))),
        }


def _record(line: Record, metric: Metric, source: str) -> Record:
    value = line.get(metric.column)
    lo, hi = (line.get(f"{metric.column}_{end}") for end in ("lo", "hi"))
    starts = line.get(f"{metric.column}_starts")
    said = None if value is not None else _absent(line)
    if starts and source != "serving":  # an interval within one start says nothing of the next
        lo = hi = None
    if metric.column in LOWER_BOUND and line["transfer_lower_us"] is not None:
        value = line["transfer_lower_us"] if metric.column == "transfer_us" else value
        said = said if value is None else "at least"
    return {
        **{name: line.get(name) for name in _SUBJECT},
        **labels_of(line),
        "metric": metric.name,
        "unit": metric.unit,
        "tp": str(line.get("tp", "")),
        **{name: line.get(name) for name in OTHER_SIZES},
        "batch": line["batch"],
        "request_rate": line.get("request_rate"),
        "run": line.get("run"),
        "profiler_ran": line.get("profiler_ran"),
        "value": _times(value, metric.factor),
        "lo": _times(lo, metric.factor),
        "hi": _times(hi, metric.factor),
        "starts": starts,
        "said": said,
        "source": source,
        "synthetic": line["synthetic"],
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _absent(line: Record) -> str:
    state = str(line.get("state") or "n/a")
    if state != "measured":
        return state
    if "self_check" in line and line["self_check"] != "ok":
        return "not analysed" if line["self_check"] is None else "the self-check failed"
    return "n/a"


def _order(record: Record) -> tuple[object, ...]:
    subject = [name for name in KEY if name in _SUBJECT]
    place = ("allreduce_backend", *(axis.name for axis in LAYOUT), "batch", "request_rate", "run")
    return (
        sort_key(record, subject),
        NAMES.index(record["metric"]),
        sort_key(record, place),
    )
