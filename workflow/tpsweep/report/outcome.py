"""What came of a sweep, in a few lines: shown when Snakemake ends, well or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tpsweep.analysis import verdicts
from tpsweep.analysis.table import Record, Table, model_name
from tpsweep.core.axes import LAYOUT
from tpsweep.core.failure import in_words
from tpsweep.core.joined_rows import ROWS
from tpsweep.core.layout import Layout
from tpsweep.core.workloads import LATENCY
from tpsweep.report.page import PAGE
from tpsweep.tables import FOLDER, Summary

NEEDS = ("cells", "failures", "tp_pairs", "tp_comparison", "throughput", "serving")
"""The tables that it is made from."""
_PLACE = ("model", "gpu", *(axis.name for axis in LAYOUT))
MOST = 6
"""Lines of results, and of failures: more are on the page."""


def lines(folder: Path, tables: Mapping[str, Table], *, ended_well: bool) -> Iterator[str]:
    """The lines for people; ``tables``: those of ``NEEDS``."""
    summary = Summary.of(cell["state"] for cell in tables["cells"].records)
    yield f"{summary}" if ended_well else f"{summary}; the same command continues"
    yield from _few(_failures(tables["failures"].records))
    if not summary.measured:
        return
    yield from _few(_results(tables))
    yield f"page: {folder / PAGE}; tables: {folder / FOLDER}/; rows: {folder / ROWS}"


def _few(found: Iterable[str]) -> Iterator[str]:
    every = list(found)
    yield from (f"  {line}" for line in every[:MOST])
    if len(every) > MOST:
        yield f"  and {len(every) - MOST} more on the page"


def _failures(failed: list[Record]) -> Iterator[str]:
    """One line per reason, the most frequent first."""
    counts = Counter((f["type"], " ".join((f["message"] or "no message").split())) for f in failed)
    for (kind, message), count in counts.most_common():
        yield f"{count} failed: {in_words(kind, message)[:300]}"


def _results(tables: Mapping[str, Table]) -> Iterator[str]:
    pairs = [p for p in tables["tp_pairs"].records if p["workload"] == LATENCY]
    yield from _of_each(pairs, ("model", "gpu", "tp_from", "tp_to"), _speedup)
    compared = {(pair["model"], pair["gpu"]) for pair in pairs if pair["decode_speedup"]}
    alone = [x for x in tables["tp_comparison"].records if (x["model"], x["gpu"]) not in compared]
    yield from _of_each(alone, _PLACE, _decode)
    yield from _of_each(tables["throughput"].records, _PLACE, _offline)
    yield from _of_each(tables["serving"].records, _PLACE, _served)


def _of_each(
    records: list[Record], keys: tuple[str, ...], say: Callable[[list[Record]], str]
) -> Iterator[str]:
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record)
    for (_, gpu, *_), found in groups.items():
        if said := say(found):
            yield f"{model_name(found[0])} on {gpu}: {said}"


def _speedup(pairs: list[Record]) -> str:
    known = [pair for pair in pairs if pair["decode_speedup"] is not None]
    if not known:
        return ""
    first = known[0]
    by = Counter(verdicts.SHORT[pair["decode_speedup_verdict"]] for pair in known)
    judged = ", ".join(f"{count} {word}" for word, count in by.most_common() if word)
    speed = _range(known, "decode_speedup", ".2f")
    return (
        f"TP={first['tp_to']} decodes {speed} times as fast as TP={first['tp_from']}"
        f" ({_count(known)}: {judged or 'no verdict'})"
    )


def _decode(found: list[Record]) -> str:
    known = [record for record in found if record["tpot_ms"] is not None]
    if not known:
        return ""
    return (
        f"{Layout.of(known[0]).label} decodes at {_range(known, 'tpot_ms')} ms per token"
        f" ({_count(known)})"
    )


def _offline(found: list[Record]) -> str:
    known = [r for r in found if r["source"] == "measured" and r["output_tok_s"] is not None]
    if not known:
        return ""
    return (
        f"{Layout.of(known[0]).label} offline: {_range(known, 'output_tok_s', '.0f')} output"
        " tokens/s"
    )


def _served(found: list[Record]) -> str:
    known = [record for record in found if record["ttft_p50_ms"] is not None]
    if not known:
        return ""
    ttft, itl = (_range(known, name) for name in ("ttft_p50_ms", "itl_p50_ms"))
    rates = len({record["request_rate"] for record in known})
    layout = Layout.of(known[0]).label
    return f"{layout} serves {rates} rates with TTFT {ttft} ms, ITL {itl} ms (medians)"


def _range(records: list[Record], name: str, form: str = ".3g") -> str:
    values = [record[name] for record in records if record[name] is not None]
    if not values:
        return "n/a"
    # Never in exponents: from 1000 on three digits would be.
    ends = dict.fromkeys(
        format(value, form if value < 1000 else ".0f") for value in (min(values), max(values))
    )
    return " to ".join(ends)


def _count(records: list[Record]) -> str:
    batches = sorted({record["batch"] for record in records})
    ends = dict.fromkeys(map(str, (batches[0], batches[-1])))
    return f"batch {' to '.join(ends)}"
