"""Table ``choices``: what is known of the load that each layout carries, for the page's choice.

One line per engine and source: rates that were measured, a search for an SLO, the expectation. With
them the page answers as ``tpsweep recommend`` does, whatever the rate and the limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tpsweep.analysis.recommend.evidence import EXPECTED, RATES, SEARCHED, Evidence, gather
from tpsweep.analysis.recommend.expected import Expectation
from tpsweep.analysis.recommend.inputs import Inputs
from tpsweep.analysis.recommend.offers import Candidates, errors_of, unmeasured
from tpsweep.analysis.recommend.question import NodeClass, Traffic, label_of, place_of
from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    NA,
    SYNTHETIC,
    Record,
    Table,
    View,
    digits,
    figure,
    model_name,
    text,
)
from tpsweep.core.cell import Engine
from tpsweep.core.manifest import MODEL_LABEL
from tpsweep.core.schema import BOOLS, FLOAT, FLOATS, INT, INTS, TEXT, TEXTS, Column
from tpsweep.core.slo import LIMITS
from tpsweep.results.load import records

COLUMNS = (
    Column("model", TEXT, "the model's name in the config"),
    MODEL_LABEL,
    Column("input_len", INT, "tokens of a prompt"),
    Column("output_len", INT, "tokens of an answer"),
    Column("gpu", TEXT, "the site's name of the node class"),
    Column("gpu_card", TEXT, "its card"),
    Column("layout", TEXT, "layout and node class, and what of the engine is not the default"),
    Column("engine", INT, "its number: lines of one engine have the same"),
    Column("place", INT, "the same number: an expectation does not tell them apart"),
    Column("gpus", INT, "GPUs of an engine"),
    Column("per_node", INT, "GPUs of a node; null: not known"),
    Column("gpu_hour_usd", FLOAT, "price of an hour of one GPU; null without"),
    Column("known", TEXT, f"{RATES}: measured, {SEARCHED}: by a search for the SLO, {EXPECTED}"),
    Column("slo", TEXT, "what was searched for: its name in the config"),
    Column("slo_limits", TEXT, "its limits as JSON"),
    Column("slos", TEXT, "all that the model's rows name, with their limits, as JSON"),
    Column("capacity_request_s", FLOAT, "what the search confirmed, the lowest of the starts"),
    Column("fails_at_request_s", FLOAT, "the lowest rate that the search saw fail; null: none"),
    Column("starts", INT, "engine starts of the search"),
    Column("remarks", TEXTS, "what weakens the search's answer"),
    Column("problem", TEXT, "why nothing can be expected, or the engine cannot run"),
    Column("busy_from_request_s", FLOAT, "from here on the HTTP server is too busy to expect"),
    Column("request_rates", FLOATS, "requests/s, rising; the lists below have an item for each"),
    Column("rate_starts", INTS, "engine starts at the rate"),
    Column("saturated", BOOLS, "whether one of them was saturated"),
    Column("unsure", BOOLS, "whether a run was too short to exclude it"),
    Column("unknown", TEXTS, "percentiles that not every start has enough requests for"),
    Column("watts", FLOATS, "mean power of the engine's GPUs"),
    *(
        Column(name, FLOATS, f"{name[:-3]} of the worst start, or what is expected")
        for name in LIMITS
    ),
    Column("tpot_errors", FLOATS, "expected over measured median TPOT, of each row"),
    Column("rows", INT, "rows that say something of a load"),
    Column("engine_ids", TEXTS, "their engine starts"),
    Column("weights", TEXTS, "theirs"),
    SYNTHETIC,
)


def _ends(name: str) -> Any:
    """The first and the last of a list."""

    def show(record: Record) -> str:
        known = [one for one in record[name] or () if one is not None]
        values = [known[0], known[-1]] if known else []
        return " to ".join(map(digits, dict.fromkeys(values))) if values else NA

    return show


VIEWS = (
    View("Model", model_name),
    View("Prompt", text("input_len"), once=True),
    View("Answer", text("output_len"), once=True),
    View("Layout", text("layout")),
    View("GPUs", text("gpus")),
    View("Known", text("known")),
    View("SLO", text("slo_limits")),
    View("Capacity (requests/s)", figure("capacity_request_s", "")),
    View("Rates (requests/s)", _ends("request_rates")),
    View("TTFT p99 (ms)", _ends("ttft_p99_ms")),
    View("TPOT p99 (ms)", _ends("tpot_p99_ms")),
    View("Problem", text("problem")),
)
LEGEND = (
    "What `tpsweep recommend` and the page answer from. Rates: measured, of the worst engine start."
    " Searched: what a search for the SLO confirmed. Expected: by docs/expectation.md, never"
    " measured. The data files have every rate and percentile.",
)
EMPTY = "No row says for which load: nothing to choose from."


def build(source: Source) -> Table:
    """The engines of every model that has rows."""
    rows = source.measured
    prices = {
        line["gpu"]: line["gpu_hour_usd"]
        for line in records(source.results.manifest, ["gpu", "gpu_hour_usd"])
        if line["gpu_hour_usd"] is not None
    }
    inputs = Inputs(rows, prices, source.results.folders)
    names = {row["model"]: row.get("model_label") for row in inputs.own}
    lines: list[Record] = []
    for model, label in names.items():
        traffic = inputs.traffic(model)
        if traffic is not None:
            own = {"model": model, "model_label": label, "slos": json.dumps(inputs.slos)}
            nothing = dict.fromkeys(column.name for column in COLUMNS)
            lines += ({**nothing, **own, **line} for line in _of_model(inputs, model, traffic))
    return Table("choices", "Load that layouts carry", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _of_model(inputs: Inputs, model: str, traffic: Traffic) -> Iterator[Record]:
    evidence = gather(inputs.rows, model, traffic)
    shape = inputs.shape(model)
    candidates = Candidates(evidence, inputs.others(model), inputs.classes, shape)
    known = {id(one.engine): one for one in evidence.values()}
    places: dict[Any, int] = {}
    # In the order in which `recommend` takes them for layouts that were not measured.
    for number, engine in enumerate(unmeasured(candidates)):
        found = known.get(id(engine), Evidence(engine))
        head = _head(engine, inputs.classes.get(engine.gpu), traffic, found)
        head["engine"] = number
        head["place"] = places.setdefault(place_of(engine), len(places))
        expectation = Expectation(engine, traffic, shape)
        yield from ({**head, **line} for line in _measured(found))
        yield {**head, **_expected(expectation), "tpot_errors": errors_of(found, expectation)}


def _head(engine: Engine, known: NodeClass | None, traffic: Traffic, evidence: Evidence) -> Record:
    used = evidence.used
    return {
        "input_len": traffic.input_len,
        "output_len": traffic.output_len,
        "gpu": engine.gpu,
        "gpu_card": engine.gpu_card,
        "layout": label_of(engine),
        "gpus": engine.gpus,
        "per_node": known.per_node if known else None,
        "gpu_hour_usd": known.gpu_hour_usd if known else None,
        "rows": len(used),
        "engine_ids": sorted({row.get("engine_id") or row["cell_id"] for row in used}),
        "weights": sorted({row["weights"] for row in used}),
        "synthetic": any(row["synthetic"] for row in used),
    }


def _measured(evidence: Evidence) -> Iterator[Record]:
    """A line of the rates, and one of each SLO that a search answered."""
    rates = evidence.rates
    if rates:
        yield {
            "known": RATES,
            "rate_starts": [one.starts for one in rates],
            "saturated": [one.is_saturated for one in rates],
            "unsure": [one.is_unsure for one in rates],
            "unknown": [" ".join(sorted(one.unknown)) for one in rates],
            "watts": [one.watts for one in rates],
            **_percentiles({one.rate: one.percentiles for one in rates}),
        }
    for slo in evidence.slos:
        capacity = evidence.of_search(slo)
        if capacity is not None:
            yield {
                "known": SEARCHED,
                "slo": slo.name,
                "slo_limits": json.dumps(slo.by_name),
                "capacity_request_s": capacity.request_s,
                "fails_at_request_s": capacity.fails_at,
                "starts": capacity.starts,
                "remarks": list(capacity.remarks),
                **_percentiles(evidence.latencies(slo)),
            }


def _expected(expectation: Expectation) -> Record:
    loads = expectation.loads
    return {
        "known": EXPECTED,
        "problem": expectation.problem,
        "busy_from_request_s": expectation.busy_from if loads else None,
        **_percentiles({load.rate: load.percentiles for load in loads}),
    }


def _percentiles(known: Mapping[float, Mapping[str, float]]) -> Record:
    found: Record = {"request_rates": list(known)}
    return found | {name: [values.get(name) for values in known.values()] for name in LIMITS}
