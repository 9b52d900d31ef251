"""Tables ``reference`` and ``reference_findings``: one's own figures beside published ones.

A ratio here is not a verdict: published figures come without intervals, and mostly without the
versions and settings that made them. The note says what is known to differ. What depends on the
output length is compared at one length: if the rows have another one than the publication, a static
batch's value is recomputed from prefill and decode, and without that there is no ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tpsweep.analysis.series import HEAD, ORDER, TAIL, Line, Series, Source, dummy_note
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    NA,
    NOTE,
    Record,
    Table,
    View,
    figure,
    identity,
    sort_key,
    text,
)
from tpsweep.core.schema import FLOAT, INT, TEXT, Column
from tpsweep.core.workloads import LATENCY, SERVE, THROUGHPUT
from tpsweep.lab.reference.checks import CHECKS, examine
from tpsweep.lab.reference.figure import Figure
from tpsweep.lab.reference.reading import Reference


@dataclass(frozen=True)
class Own:
    """One's own quantity: ``words`` for its columns, ``of`` a line as measured.

    ``from_batch`` makes it of milliseconds of a whole static batch, sequences and output tokens:
    at another length it is recomputed so. ``has_length``: it depends on the output length.
    """

    words: str
    of: Callable[[Line], float | None]
    from_batch: Callable[[float, int, int], float] | None = None
    has_length: bool = True


def _column(name: str) -> Callable[[Line], float | None]:
    return lambda line: line.median(name)


def _per_token(line: Line) -> float | None:
    whole, tokens = line.median("e2e_ms"), line.cells[0]["output_len"]
    return None if whole is None or not tokens else whole / tokens


_OUTPUT = _column("output_tok_s")
OWN: dict[tuple[str, str], Own] = {
    (LATENCY, "batch_latency"): Own("e2e_ms", _column("e2e_ms"), lambda ms, _, __: ms),
    (LATENCY, "per_token_latency"): Own(
        "e2e_ms / output_len", _per_token, lambda ms, _, tokens: ms / tokens
    ),
    (LATENCY, "throughput"): Own(
        "output_tok_s", _OUTPUT, lambda ms, batch, tokens: 1e3 * batch * tokens / ms
    ),
    (THROUGHPUT, "throughput"): Own("output_tok_s", _OUTPUT),
    (THROUGHPUT, "offline_throughput"): Own("request_s", _column("request_s")),
    (SERVE, "ttft_p50"): Own("ttft_p50_ms", _column("ttft_p50_ms"), has_length=False),
    (SERVE, "itl_p50"): Own("itl_p50_ms", _column("itl_p50_ms"), has_length=False),
    (SERVE, "throughput"): Own("output_tok_s", _OUTPUT),
}
"""By workload and published metric: what of one's own is the same quantity."""

COLUMNS = (
    *HEAD,
    Column("metric", TEXT, "as published"),
    Column("unit", TEXT, "of own and reference"),
    Column("own", FLOAT, "median over runs, at the reference's output length if it states one"),
    Column("own_is", TEXT, "columns of the rows that own comes from"),
    Column("reference", FLOAT, "the published value, as printed"),
    Column("ratio", FLOAT, "own / reference; null where the two are not the same quantity"),
    Column("reference_node", TEXT, "what the publication says of the machine"),
    Column("reference_output_len", INT, "output tokens as published; null: not stated"),
    Column("reference_table", TEXT, "table of the publication"),
    Column("source", TEXT, "the reference data set"),
    *TAIL,
)
VIEWS = (
    *(view for view in IDENTITY_VIEWS if view.heading not in ("GPUs", "Replicas", "Requests")),
    identity("Settings", "settings"),
    View("State", text("state")),
    View("Figure", lambda record: f"{record['metric']} ({record['unit']})"),
    View("Own", figure("own", NA)),
    View("Reference", figure("reference", NA)),
    View("Own / reference", figure("ratio", NA)),
    View("Reference's node", text("reference_node"), once=True),
    View("Reference's table", text("reference_table")),
    View("Source", text("source"), once=True),
    NOTE,
)
EMPTY = "No cell of the matrix has the model, node class, TP and batch of a reference figure."
FINDING_COLUMNS = (
    Column("check", TEXT, "id of the check, see docs/reference.md"),
    Column("question", TEXT, "what the check asks"),
    Column("finding", TEXT, "the values that cannot all be right"),
    Column("figures", INT, "number of values concerned"),
    Column("source", TEXT, "the reference data set"),
)
FINDING_VIEWS = (
    View("Finding", text("finding")),
    View("Check", text("check")),
    View("Source", text("source"), once=True),
)


def build(source: Source, reference: Reference) -> Table:
    """Every reference figure beside every line of the matrix, measured or not, that it is of."""
    found = [
        (one, _record(series, line, one, reference))
        for workload in dict.fromkeys(workload for workload, _ in OWN)
        for series in source.series(workload)
        for line in series.lines
        for one in reference.figures
        if _is_of(one, line, reference)
    ]
    order = (*ORDER, "reference_table", "reference_node", "metric")
    lines = sorted((record for _, record in found), key=lambda record: sort_key(record, order))
    alone = len(reference.figures) - len({one for one, _ in found})
    legend = (
        f"Reference: {reference.title}. {reference.about} Source: {reference.source}.",
        "Ratios have no verdict: published values have no intervals. Paired on model, node"
        " class, TP, batch and request rate; a length or setting that is not published may differ.",
        f"Own values: {_definitions()}; medians over runs. At another output length than the rows'"
        " own, a static batch takes prefill_ms + (output tokens - 1) x tpot_ms.",
        f"{alone} of {len(reference.figures)} reference figures have no cell in this matrix.",
        *_without_rate(reference),
    )
    return Table(
        "reference", "Compared with published values", COLUMNS, VIEWS, lines, legend, EMPTY
    )


def build_findings(reference: Reference) -> Table:
    """Inconsistencies in the reference data set."""
    lines = [
        {
            "check": finding.check,
            "question": CHECKS[finding.check][0],
            "finding": finding.says,
            "figures": len(finding.figures),
            "source": reference.name,
        }
        for finding in examine(reference)
    ]
    title = "Contradictions in the published values"
    empty = "No contradictions found."
    return Table("reference_findings", title, FINDING_COLUMNS, FINDING_VIEWS, lines, (), empty)


def _definitions() -> str:
    columns = {metric: own.words for (_, metric), own in OWN.items()}
    return ", ".join(f"{metric} from {words}" for metric, words in columns.items())


def _without_rate(reference: Reference) -> list[str]:
    count = sum(one.workload == SERVE and one.request_rate is None for one in reference.figures)
    said = f"{count} served values state no request rate: they are set beside no cell."
    return [said] if count else []


def _is_of(one: Figure, line: Line, reference: Reference) -> bool:
    cell = line.cells[0]
    card = reference.cards[one.gpu].name
    return (
        (one.workload, one.metric) in OWN
        and line.layout.is_tp_alone
        and (one.workload, one.model, one.tp) == (cell["workload"], cell["model"], line.tp)
        and (one.gpu == cell["gpu"] or card == cell["gpu_card"])
        and one.batch == cell["batch"]
        and one.request_rate == cell["request_rate"]
        and (one.workload != SERVE or one.request_rate is not None)
    )


def _record(series: Series, line: Line, one: Figure, reference: Reference) -> Record:
    own = OWN[one.workload, one.metric]
    value, words, length = own.of(line), own.words, line.cells[0]["output_len"]
    same, warnings = not own.has_length or one.output_len == length, []
    if not same:
        stated = "not stated" if one.output_len is None else str(one.output_len)
        warnings.append(f"output tokens: own {length}, reference {stated}")
        again = _at_length(own, line, one.output_len)
        if again is not None:
            same, value = True, again
            words = f"{own.words}, recomputed from prefill_ms and tpot_ms"
    warnings += dummy_note(line)
    return {
        **series.record(line, *warnings),
        "metric": one.metric,
        "unit": one.unit,
        "own": value,
        "own_is": words,
        "reference": one.value,
        "ratio": value / one.value if value is not None and same else None,
        "reference_node": one.node,
        "reference_output_len": one.output_len,
        "reference_table": one.table,
        "source": reference.name,
    }


def _at_length(own: Own, line: Line, tokens: int | None) -> float | None:
    """The quantity at another output length, from prefill and decode; None if that cannot be."""
    prefill, tpot, batch = line.median("prefill_ms"), line.median("tpot_ms"), line.cells[0]["batch"]
    if own.from_batch is None or tokens is None or prefill is None or tpot is None:
        return None
    return own.from_batch(prefill + (tokens - 1) * tpot, batch, tokens)
