"""Table ``communication``: one line per capture, where its decode and prefill steps went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import fmean

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    IDENTITY_ORDER,
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    digits,
    figure,
    identity,
    labels_of,
    sort_records,
    text,
)
from tpsweep.analysis.unprofiled import DecodeTime, DecodeTimes
from tpsweep.core import schema
from tpsweep.core.capture_report import Communication, Counts, Percentiles, PerRank, Phase
from tpsweep.core.manifest import LABELS
from tpsweep.core.schema import BOOL, FLOAT, INT, TEXT, Column
from tpsweep.core.workloads import CAPTURE

_FROM_ROWS = (
    "profiler_ran",
    "allreduce_backend_ran",
    "nvlink_share",
    "synthetic",
)
COLUMNS = (
    *schema.IDENTITY,
    *LABELS,
    Column("state", TEXT, "measured, failed, missing, infeasible or excluded"),
    Column("reason", TEXT, "why there is no row"),
    Column(
        "group",
        TEXT,
        "ranks that compute one part of the model: stage of a pipeline, copy; null: all of them",
    ),
    Column("profiler_ran", TEXT, "torch or nsys, with its version"),
    Column("self_check", TEXT, "ok or failed: collectives per step as the model has them"),
    Column("all_reduce_expected", INT, "per step: 2 x layers + 1; 0 at TP=1"),
    Column("all_reduce_per_step", INT, "found; null where steps or ranks differ"),
    Column("all_gather_per_step", INT, "found; null where steps or ranks differ"),
    Column("allreduce_backend_ran", TEXT, "first in the dispatch order of vLLM's log"),
    Column("allreduce_backend_seen", TEXT, "backends of the all-reduces in the capture"),
    Column("decode_steps", INT, "decode steps of the whole batch; all values are of these"),
    Column("early_steps", INT, "decode steps that recover from a prefill: in no figure"),
    Column("steady_from", INT, "so many decode steps after each prefill are early"),
    Column("partial_steps", INT, "prefill or decode steps of a part of the batch; not used"),
    Column("step_ms", FLOAT, "decode step under the profiler, median"),
    Column("transfer_us", FLOAT, "per all-reduce of a decode step: shortest rank's, median"),
    Column("transfer_lower_us", FLOAT, "the same of kernels that push: a lower bound"),
    Column("transfer_ms", FLOAT, "all-reduces of a step together; with transfer_lower_us at least"),
    Column("transfer_fraction_profiled", FLOAT, "transfer_ms as a share of step_ms"),
    Column("transfer_fraction", FLOAT, "transfer_ms / decode_ms: of the step without a profiler"),
    Column("decode_ms", FLOAT, "decode time of the matching latency cell, median over runs"),
    Column("decode_output_len", INT, "output length of that latency cell"),
    Column("compute_ms", FLOAT, "kernels other than collectives per decode step; mean of ranks"),
    Column("wait_ms_least", FLOAT, "per decode step, min over ranks"),
    Column("wait_ms_most", FLOAT, "per decode step, max over ranks"),
    Column("gap_ms_least", FLOAT, "time without a kernel per decode step, min over ranks"),
    Column("gap_ms_most", FLOAT, "the same, max over ranks"),
    Column("all_gather_ms", FLOAT, "of the logits, per decode step"),
    Column(
        "pipeline_ms",
        FLOAT,
        "send and receive between stages per decode step, the wait for the other stages included",
    ),
    Column("experts_ms", FLOAT, "dispatch and combine of experts per decode step"),
    Column("busbw_gb_s", FLOAT, "bus bandwidth of decode all-reduces (nccl-tests), median"),
    Column("link_share", FLOAT, "of the link's peak in one direction during them"),
    Column("nvlink_gb_s", FLOAT, "over the whole profiled run (NVML), mean of GPUs, sent"),
    Column("nvlink_share", FLOAT, "the largest GPU's, of the link's peak in one direction"),
    Column("prefill_steps", INT, "prefill steps in the capture"),
    Column("prefill_step_ms", FLOAT, "prefill step under the profiler, median"),
    Column("prefill_transfer_ms", FLOAT, "its all-reduces together"),
    Column("prefill_transfer_fraction_profiled", FLOAT, "the same as a share of the step"),
    Column("note", TEXT, "what is missing or wrong"),
    Column("synthetic", BOOL, "true: from invented files, never measured"),
)
NA = "n/a"
_NOT_ANALYSED: list[Communication | None] = [None]
WARNINGS = 3
"""Most warnings of the analysis that a note holds."""


def _share(name: str) -> View:
    heading = {
        "transfer_fraction_profiled": "Share of profiled step",
        "transfer_fraction": "Share of decode time",
        "link_share": "Share of link peak",
    }[name]
    least = _at_least if name.startswith("transfer") else _plainly
    return View(
        heading, lambda line: NA if line[name] is None else f"{least(line)}{100 * line[name]:.1f} %"
    )


def _at_least(line: Record) -> str:
    return "at least " if line["transfer_lower_us"] is not None else ""


def _plainly(_: Record) -> str:
    return ""


def _transfer_us(line: Record) -> str:
    if line["transfer_lower_us"] is not None:
        return f"at least {digits(line['transfer_lower_us'])}"
    return figure("transfer_us", NA)(line)


def _transfer_ms(line: Record) -> str:
    return NA if line["transfer_ms"] is None else _at_least(line) + digits(line["transfer_ms"])


def _decode_steps(line: Record) -> str:
    if not line["early_steps"]:
        return text("decode_steps", NA)(line)
    decode, early = line["decode_steps"], line["early_steps"]
    return f"{decode} of {decode + early}, without the first {line['steady_from']} of each batch"


VIEWS = (
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    View("State", text("state")),
    View("Profiler", text("profiler_ran"), once=True),
    View("Ranks", text("group"), once=True),
    View("Self-check", text("self_check", NA)),
    View("All-reduces (per step)", text("all_reduce_per_step", NA)),
    View("All-reduce seen", text("allreduce_backend_seen", NA)),
    View("Decode steps", _decode_steps),
    View("Partial steps", text("partial_steps", NA)),
    View("Transfer (us per all-reduce)", _transfer_us),
    View("Transfer (ms per step)", _transfer_ms),
    View("Profiled step (ms)", figure("step_ms", NA)),
    _share("transfer_fraction_profiled"),
    View("Decode (ms/token)", figure("decode_ms", NA)),
    _share("transfer_fraction"),
    View("Compute (ms)", figure("compute_ms", NA)),
    View("Wait, min over ranks (ms)", figure("wait_ms_least", NA)),
    View("Wait, max over ranks (ms)", figure("wait_ms_most", NA)),
    View("Gap, min over ranks (ms)", figure("gap_ms_least", NA)),
    View("Between stages (ms)", figure("pipeline_ms"), once=True),
    View("Experts' exchange (ms)", figure("experts_ms"), once=True),
    View("busbw (GB/s)", figure("busbw_gb_s", NA)),
    _share("link_share"),
    View("NVLink, whole run (GB/s)", figure("nvlink_gb_s", NA)),
    View("Note", text("note"), once=True),
)
LEGEND = (
    "Transfer: the shortest rank's duration of each all-reduce, paid by all ranks; the rest of a"
    " rank's own duration is its wait for the slowest. The more ranks, the lower this is biased.",
    "Share of decode time: of the matching latency cell, without a profiler. A profiler stretches"
    " steps and makes gaps and waits: compute, wait and gap are of the profiled step.",
    "Decode steps hold the whole batch. Up to method 1 requests came one by one, so that"
    " some steps hold a part of it: partial steps, which cost less and are in no figure. From"
    " method 2 on a batch is whole, and the first decode steps after a prefill are left out.",
)
EMPTY = "The matrix has no capture cells."


def build(source: Source) -> Table:
    """One line per capture cell of the manifest, measured or not, and group of ranks."""
    return Table(
        name="communication",
        title="Communication",
        columns=COLUMNS,
        views=VIEWS,
        records=_lines(source),
        legend=LEGEND,
        empty=EMPTY,
    )


def _lines(source: Source) -> list[Record]:
    """The table's records, in the order of the identity."""
    times = DecodeTimes(source)
    reports = source.results.communication
    found = [
        _line(cell, report, times)
        for cell in source.of(CAPTURE)
        for report in reports.get(cell["cell_id"], _NOT_ANALYSED)
    ]
    sort_records(found, (*IDENTITY_ORDER, "profiler_ran", "group"))
    return found


def _line(cell: Record, found: Communication | None, times: DecodeTimes) -> Record:
    line: Record = dict.fromkeys(column.name for column in COLUMNS)
    line |= {name: cell[name] for name in (*schema.IDENTITY_NAMES, "state", "reason")}
    line |= labels_of(cell)
    if cell["state"] != "measured":
        return line
    time = times.of(cell)
    sent = cell["gpu_nvlink_tx_gb_s"]
    line |= {
        **{name: cell[name] for name in _FROM_ROWS},
        "nvlink_gb_s": None if sent is None or not len(sent) else fmean(sent),
        "decode_ms": time.ms,
        "decode_output_len": time.output_len,
    }
    if found is not None:
        line |= _analysed(found, time.ms)
    made_up = (cell["synthetic"], time.synthetic, found is not None and found.synthetic)
    notes = _notes(line, found, time)
    return {**line, "synthetic": any(made_up), "note": "; ".join(notes) or None}


def _notes(line: Record, found: Communication | None, time: DecodeTime) -> list[str]:
    own = [time.note] if time.note else []
    if found is None:
        return ["not analysed", *own]
    ran, seen = line["allreduce_backend_ran"], found.backend.split("+")
    if not found.self_check.ok:
        own.insert(0, ": ".join(["the self-check failed, no times", *_unexpected(found)]))
    if ran is not None and ran not in seen:
        own.append(f"vLLM's log says all-reduce {ran}, the capture has {found.backend}")
    # The check's own warning is said above, in numbers.
    warnings = [words for words in found.warnings if not words.startswith("self-check failed")]
    if len(warnings) > WARNINGS:
        more = f"{len(warnings) - WARNINGS} more warnings in its report"
        warnings = [*warnings[:WARNINGS], more]
    return [*own, *warnings]


def _unexpected(found: Communication) -> Iterator[str]:
    """The collectives per step that are not what the model has, or differ between steps."""
    check = found.self_check
    for name, words in (("all_reduce", "all-reduces"), ("all_gather", "all-gathers")):
        seen = getattr(check.found, name)
        asked = getattr(check.expected, name) if check.expected else None
        if isinstance(seen, list) or (check.expected and seen != asked):
            counts = " or ".join(str(count) for count in _several(seen))
            yield f"{words} per step: {counts}" + ("" if asked is None else f", expected {asked}")


def _several(counts: int | list[int]) -> list[int]:
    return counts if isinstance(counts, list) else [counts]


def _analysed(found: Communication, decode_ms: float | None) -> Record:
    decode, prefill, check = found.phase("decode"), found.phase("prefill"), found.self_check
    if not check.ok:  # whatever the report says: what is not matched has no times
        decode, prefill = Phase(steps=decode.steps), Phase(steps=prefill.steps)
    transfer = decode.transfer_ms_per_step
    return {
        "group": found.group.label if found.group else None,
        "self_check": "ok" if check.ok else "failed",
        "all_reduce_expected": _one(check.expected, "all_reduce"),
        "all_reduce_per_step": _one(check.found, "all_reduce"),
        "all_gather_per_step": _one(check.found, "all_gather"),
        "allreduce_backend_seen": found.backend,
        "decode_steps": decode.steps,
        "early_steps": found.phase("early").steps,
        "steady_from": found.steady_from,
        "partial_steps": found.phase("partial").steps,
        "step_ms": _median(decode.step_ms),
        "transfer_us": _median(decode.transfer_us),
        "transfer_lower_us": _median(decode.transfer_lower_us),
        "transfer_ms": transfer,
        "transfer_fraction_profiled": decode.transfer_fraction_profiled,
        "transfer_fraction": transfer / decode_ms if decode_ms and transfer is not None else None,
        "compute_ms": _over_ranks(fmean, decode.compute_ms_per_step),
        "wait_ms_least": _over_ranks(min, decode.wait_ms_per_step),
        "wait_ms_most": _over_ranks(max, decode.wait_ms_per_step),
        "gap_ms_least": _over_ranks(min, decode.gap_ms_per_step),
        "gap_ms_most": _over_ranks(max, decode.gap_ms_per_step),
        "all_gather_ms": decode.all_gather_ms_per_step,
        "pipeline_ms": decode.pipeline_ms_per_step,
        "experts_ms": decode.experts_ms_per_step,
        "busbw_gb_s": decode.busbw_gb_s,
        "link_share": decode.link_share,
        **_prefill(prefill),
    }


def _prefill(phase: Phase) -> Record:
    return {
        "prefill_steps": phase.steps,
        "prefill_step_ms": _median(phase.step_ms),
        "prefill_transfer_ms": phase.transfer_ms_per_step,
        "prefill_transfer_fraction_profiled": phase.transfer_fraction_profiled,
    }


def _one(counts: Counts | None, name: str) -> int | None:
    found = getattr(counts, name) if counts else None
    return found if isinstance(found, int) else None


def _median(percentiles: Percentiles | None) -> float | None:
    return percentiles.p50 if percentiles else None


def _over_ranks(how: Callable[[Iterable[float]], float], ranks: PerRank | None) -> float | None:
    return how(ranks.values()) if ranks else None
