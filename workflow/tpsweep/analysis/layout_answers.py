"""Which layout to run on so many GPUs, in words, from the lines of the table ``layouts``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, digits, model_name
from tpsweep.core.layout import Layout

MOST = 8
"""Answers below a table: more are in its lines."""
_LOAD = ("batch", "request_rate")
_GROUP = (*(name for name in KEY if name not in _LOAD), "allreduce_backend", "gpus")
_ASKED = (
    # Figure, whether less is better, what the best does, unit: at the lightest load, the heaviest.
    ("tpot_ms", True, "decodes fastest", "ms a token"),
    ("output_tok_s", False, "gives most", "output tokens/s"),
)
_SERVED = (("ttft_p50_ms", True, "answers first", "ms to the first token"),) * 2


def answers(lines: list[Record]) -> tuple[str, ...]:
    """One line for each model, class and number of GPUs that has two layouts with values."""
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for line in lines:
        groups[tuple(line[name] for name in _GROUP)].append(line)
    found = [said for group in groups.values() if (said := "; ".join(_of_group(group)))]
    if len(found) > MOST:
        found = [*found[:MOST], f"{len(found) - MOST} more groups of layouts are in the lines."]
    return tuple(found)


def _of_group(lines: list[Record]) -> Iterator[str]:
    load = "batch" if lines[0]["batch"] is not None else "request_rate"
    by_load: dict[float, list[Record]] = defaultdict(list)
    for line in lines:
        if line[load] is not None:
            by_load[line[load]].append(line)
    ends = [min(by_load), max(by_load)] if by_load else []
    head = f"{model_name(lines[0])} on {lines[0]['gpus']} {lines[0]['gpu']}: "
    said: set[str] = set()
    for at, asked in zip(ends, _ASKED if load == "batch" else _SERVED, strict=False):
        words = _best(by_load[at], *asked)
        if words and words not in said:
            said.add(words)
            unit = "requests/s" if load == "request_rate" else "sequence" + "s" * (at != 1)
            where = f"at {at:g} {unit}"
            yield f"{head}{where} {words}"
            head = ""


def _best(lines: list[Record], name: str, is_less: bool, does: str, unit: str) -> str | None:
    """Who is best by the values, and by what; None if fewer than two layouts have one."""
    values = {_label(line): line[name] for line in lines if line[name] is not None}
    if len(values) < 2:
        return None
    (first, best), *rest = sorted(values.items(), key=lambda one: one[1] * (1 if is_less else -1))
    others = ", ".join(f"{label} {digits(value)}" for label, value in rest)
    return f"{first} {does} ({digits(best)} {unit}; {others})"


def _label(line: Record) -> str:
    computed = str(line["source"] or "").startswith("computed")
    return Layout.of(line).label + (" (computed)" if computed else "")
