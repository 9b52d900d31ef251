"""``tpsweep compare`` as people read it: a table of changes, then what could not be compared."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from tpsweep.analysis import verdicts
from tpsweep.analysis.compare import COUNTS, Alone, Comparison, Pair, compare
from tpsweep.analysis.compare_values import Change
from tpsweep.analysis.table import Record, digits
from tpsweep.core.axes import BY_NAME
from tpsweep.core.layout import Layout
from tpsweep.core.stats import LEVEL, MIN_RUNS
from tpsweep.results.load import ResultsError

SHOWN = 20
"""Cells of a list that people see; ``--json`` has all."""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument(
        "--across",
        action="append",
        default=[],
        metavar="COLUMN",
        help="an identity column in which A and B may differ, such as vllm_version",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.a, options.b, as_json=options.json, across=options.across)


def run(a: Path, b: Path, *, as_json: bool, across: Iterable[str] = ()) -> int:
    """Print the comparison on stdout. Returns 0, or 2 if the folders cannot be compared."""
    try:
        comparison = compare(a, b, across)
    except ResultsError as error:
        print(f"tpsweep compare: {error}", file=sys.stderr)
        return 2
    if as_json:
        counts = {name: getattr(comparison, name) for name in COUNTS}
        print(json.dumps({**asdict(comparison), **counts}, indent=1))
    else:
        print("\n".join(lines(comparison)))
    return 0


def lines(comparison: Comparison) -> Iterator[str]:
    """The whole text, line by line."""
    cells = [pair.cell for pair in comparison.pairs]
    cells += [alone.cell for alone in (*comparison.only_a, *comparison.only_b)]
    common = _common(cells)
    if any(pair.synthetic for pair in comparison.pairs):
        yield "SYNTHETIC: made-up rows, never measured."
    yield f"A: {comparison.a}"
    yield f"B: {comparison.b}"
    if comparison.across:
        yield f"Across: {', '.join(comparison.across)} may differ between A and B."
    if common:
        yield f"All cells: {_words(common)}"
    yield from _hosts(comparison.pairs)
    everywhere = _unlike_everywhere(comparison.pairs)
    if everywhere:
        yield f"Unlike in all cells: {', '.join(everywhere)}"
    yield ""
    yield _table(comparison.pairs, common, everywhere)
    yield ""
    yield _summary(comparison)
    for where, alone in (("A", comparison.only_a), ("B", comparison.only_b)):
        yield from _alone(where, alone, common)
    if comparison.neither:
        yield f"Measured on neither side: {comparison.neither} cells."


def _table(pairs: list[Pair], common: Record, everywhere: list[str]) -> str:
    found = [(pair, change) for pair in pairs for change in pair.changes]
    if not found:
        return "No cell has a figure on both sides. `--across settings`: other settings may differ."
    shown = [
        {
            "Cell": _words(pair.cell, common) if change is pair.changes[0] else "",
            "Figure": f"{change.figure} ({change.unit})",
            "A": digits(change.a),
            "B": digits(change.b),
            "Change": f"{change.change_pct:+.1f} %",
            "95 % interval": _interval(change),
            "Runs": f"{pair.runs_a}, {pair.runs_b}",
            "Verdict": verdicts.SHORT[change.verdict],
            "Unlike": ", ".join(words for words in _unlike(pair) if words not in everywhere),
        }
        for pair, change in found
    ]
    if not any(line["Unlike"] for line in shown):
        for line in shown:
            del line["Unlike"]
    return tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True)


def _unlike(pair: Pair) -> list[str]:
    return pair.unlike if pair.hosts_a == pair.hosts_b else [*pair.unlike, "host"]


def _unlike_everywhere(pairs: list[Pair]) -> list[str]:
    """What every cell is unlike in; a single cell's own words stay with it."""
    found = [_unlike(pair) for pair in pairs if pair.changes]
    if len(found) < 2:
        return []
    return [words for words in found[0] if all(words in other for other in found)]


def _hosts(pairs: list[Pair]) -> Iterator[str]:
    """Where each side ran, if not everything ran on the same hosts."""
    if all(pair.hosts_a == pair.hosts_b for pair in pairs):
        return
    for side, of in (("A", "hosts_a"), ("B", "hosts_b")):
        found = sorted({host for pair in pairs for host in getattr(pair, of)})
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        yield f"Hosts of {side}: {', '.join(found[:SHOWN]) or 'not known'}{more}"


def _interval(change: Change) -> str:
    if change.change_pct_lo is None or change.change_pct_hi is None:
        return "n/a"
    return f"{change.change_pct_lo:+.1f} to {change.change_pct_hi:+.1f} % {change.kind}"


def _summary(comparison: Comparison) -> str:
    if comparison.pairs and all(pair.same for pair in comparison.pairs):
        return f"The same rows: B holds the measurements of A ({len(comparison.pairs)} cells)."
    judged, found = comparison.judged, comparison.significant
    said = f"{len(comparison.pairs)} cells on both sides, {comparison.compared} figures"
    if not judged:
        return f"{said}; none has {MIN_RUNS} runs per side, which significance needs."
    chance = (1 - LEVEL) * judged
    return (
        f"{said}; {judged} with {MIN_RUNS} runs per side, of which {found} differ significantly"
        f" (without any difference up to about {chance:.1f} would, by chance)."
    )


def _alone(where: str, alone: list[Alone], common: Record) -> Iterator[str]:
    if not alone:
        return
    other = "B" if where == "A" else "A"
    yield f"Measured only in {where}: {len(alone)} cells."
    for one in alone[:SHOWN]:
        yield f"  {_words(one.cell, common)}; {other}: {one.other}"
    if len(alone) > SHOWN:
        yield f"  and {len(alone) - SHOWN} more; --json has all"


def _common(cells: list[Record]) -> Record:
    """What all cells agree in; a single cell's own words stay with it."""
    if len(cells) < 2:
        return {}
    first = cells[0]
    return {
        name: value
        for name, value in first.items()
        if all(name in cell and cell[name] == value for cell in cells)
    }


def _words(cell: Record, common: Record | None = None) -> str:
    """What identifies a cell beyond ``common``, in few words."""
    left = {name: value for name, value in cell.items() if name not in (common or {})}
    if cell.get("tp") and cell.get("gpus") == Layout.of(cell).gpus:
        left.pop("gpus", None)
    words = [
        BY_NAME[name].words(value) if name in BY_NAME else f"{name} {value}"
        for name, value in left.items()
    ]
    return ", ".join(words) or "the same"
