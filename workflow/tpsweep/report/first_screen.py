"""The page's first screen: per model which layout is fast and which is cheap, and how sure that is.

From the tables alone. Static batches of one setting answer; a model without them has no headline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis import verdicts
from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, Table, digits, joined, model_name
from tpsweep.core.layout import Layout

MOST, MOST_SLOS = 4, 3
"""Models that have a headline, and SLOs of a model: more are below."""
_FREE = ("batch", "gpu", "gpu_card")
_SETTING = tuple(name for name in (*KEY, "allreduce_backend") if name not in _FREE)
_PER_GPU = "output_tok_s_per_gpu"


@dataclass(frozen=True)
class Sentence:
    """``asked``: what it answers; ``sure``: how sure it is."""

    asked: str
    text: str
    sure: str


@dataclass(frozen=True)
class Headline:
    """A model's sentences, and what they rest on."""

    model: str
    sentences: tuple[Sentence, ...]
    trust: str


@dataclass(frozen=True)
class _Choice:
    """A layout on a node class: its line at the smallest batch, and that with most per GPU."""

    light: Record
    full: Record

    @property
    def label(self) -> str:
        """``TP=2 on H200``."""
        return f"{Layout.of(self.light).label} on {self.light['gpu']}"


def headlines(tables: Mapping[str, Table]) -> list[Headline]:
    """Of each model with a measured decode, at most ``MOST``."""
    lines = [
        line
        for line in tables["tp_comparison"].own.records
        if line["tpot_ms"] is not None and line[_PER_GPU] is not None
    ]
    groups: dict[Any, list[Record]] = defaultdict(list)
    for line in lines:
        groups[tuple(line[name] for name in _SETTING)].append(line)
    best: dict[str, list[Record]] = {}
    for group in groups.values():
        known = best.get(group[0]["model"], [])
        if _weight(group) > _weight(known):
            best[group[0]["model"]] = group
    telling = sorted(best.values(), key=lambda group: -_weight(group)[0])[:MOST]
    found = [_headline(group, tables) for group in telling]
    return [headline for headline in found if headline is not None]


def _weight(group: list[Record]) -> tuple[int, bool, int]:
    """The setting that tells most: layouts, the default variant, lines."""
    layouts = {(line["gpu"], Layout.of(line)) for line in group}
    return len(layouts), bool(group) and group[0]["variant"] == "default", len(group)


def _headline(group: list[Record], tables: Mapping[str, Table]) -> Headline | None:
    by_layout: dict[Any, list[Record]] = defaultdict(list)
    for line in group:
        by_layout[line["gpu"], Layout.of(line)].append(line)
    # Alike for all: the smallest batch that every layout has.
    common = set.intersection(*({ln["batch"] for ln in own} for own in by_layout.values()))
    if not common:
        return None
    batch = min(common)
    choices = [
        _Choice(
            next(line for line in own if line["batch"] == batch),
            max(own, key=lambda line: line[_PER_GPU]),
        )
        for own in by_layout.values()
    ]
    fast = sorted(choices, key=lambda one: one.light["tpot_ms"])
    full = sorted(choices, key=lambda one: -one.full[_PER_GPU])
    pairs = tables["tp_pairs"].own.records
    return Headline(
        model_name(group[0]),
        (_latency(fast, pairs), _throughput(full), *_slos(group[0]["model"], tables)),
        _trust(group, tables),
    )


def _latency(fast: list[_Choice], pairs: list[Record]) -> Sentence:
    best, *others = fast
    asked, batch = "Lowest latency", best.light["batch"]
    said = f"{best.label}: {digits(best.light['tpot_ms'])} ms per token at batch {batch}"
    if not others:
        return Sentence(asked, said, f"The only layout measured, {_starts(best.light)}.")
    second = others[0]
    against = f"{second.label}: {digits(second.light['tpot_ms'])}"
    return Sentence(asked, f"{said}; {against}", f"{_confidence(best.light, second.light, pairs)}.")


def _throughput(full: list[_Choice]) -> Sentence:
    best, *others = full
    asked, value, batch = "Most throughput per GPU", best.full[_PER_GPU], best.full["batch"]
    said = f"{best.label}: {digits(value)} output tok/s per GPU at batch {batch}"
    if not others:
        return Sentence(asked, said, f"The only layout measured, {_starts(best.full)}.")
    second = others[0].full
    against = f"{others[0].label}: {digits(second[_PER_GPU])} at batch {second['batch']}"
    return Sentence(asked, f"{said}; {against}", f"{_starts(best.full, second)}: not tested.")


def _slos(model: str, tables: Mapping[str, Table]) -> Iterator[Sentence]:
    """One for each SLO that a search asked for: most requests/s per GPU."""
    lines: dict[str, list[Record]] = defaultdict(list)
    for line in tables["capacity"].own.records if "capacity" in tables else ():
        if line["model"] == model and line["runs"]:
            lines[line["slo"]].append(line)
    for slo, own in list(lines.items())[:MOST_SLOS]:
        ordered = sorted(own, key=lambda line: -(line["capacity_request_s_per_gpu"] or 0.0))
        best, *others = ordered
        if not best["capacity_request_s_per_gpu"]:
            yield Sentence(f"SLO {slo}", "No layout keeps it.", f"{_starts(best)}.")
            continue
        said = f"{_rate(best)} requests/s per GPU"
        if others:
            said += f"; {_rate(others[0])}"
        yield Sentence(f"SLO {slo}", said, f"{_starts(best, *others[:1])}: not tested.")


def _rate(line: Record) -> str:
    layout, value = Layout.of(line).label, line["capacity_request_s_per_gpu"] or 0.0
    return f"{layout} on {line['gpu']}: {digits(value)}"


def _confidence(best: Record, second: Record, pairs: Iterable[Record]) -> str:
    """The verdict of the two TPs, where the table of pairs has one between engine starts."""
    low, high = sorted((best["tp"], second["tp"]))
    asked = {name: best[name] for name in (*_SETTING, "batch", "gpu")}
    asked |= {"tp_from": low, "tp_to": high}
    verdict = ""
    # The table of pairs has layouts of TP alone, on one node class.
    if best["gpu"] == second["gpu"] and all(Layout.of(ln).is_tp_alone for ln in (best, second)):
        for pair in pairs:
            if all(pair.get(name) == value for name, value in asked.items()):
                verdict = verdicts.SHORT[pair["decode_speedup_verdict"]]
    return f"{_starts(best, second)}: {verdict or 'not tested'}"


def _starts(*lines: Record) -> str:
    """``1 engine start``, or of two lines ``1 and 3 engine starts a side``."""
    runs = [line["runs"] for line in lines]
    words = " and ".join(map(str, dict.fromkeys(runs)))
    noun = "engine start" if set(runs) == {1} else "engine starts"
    return f"{words} {noun}{' a side' if len(lines) > 1 else ''}"


def _trust(group: list[Record], tables: Mapping[str, Table]) -> str:
    model = group[0]["model"]
    cells = [
        cell
        for cell in tables["cells"].records
        if cell["model"] == model and cell["state"] == "measured"
    ]
    starts = len({cell["engine_id"] for cell in cells} - {None})
    weights = joined(cell["weights"] for cell in cells)
    cards = joined(line["gpu_card"] for line in group)
    cell_count = f"{len(cells)} cells" if len(cells) != 1 else "1 cell"
    start_count = f"{starts} engine starts" if starts != 1 else "1 engine start"
    return f"Rests on {cell_count} of {start_count}; {weights} weights; {cards}."
