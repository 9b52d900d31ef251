"""Provenance in which the lines of one series differ, and whether it could explain a difference.

Lines of a series should differ in TP and replicas only. Whatever else differs between them is a
rival explanation of what the comparison shows; what differs only within each line is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from tpsweep.analysis.series import Line, Series
from tpsweep.analysis.table import Record, digits

CLOCK_TOLERANCE = 0.03
"""Of SM clocks: NVML's steps are 15 MHz, and medians of equal lines differ by one or two."""
NOT_SAID = "not said"


def _words(value: Any) -> Iterator[str]:
    """A text as it is, of a list (one entry per GPU) each entry."""
    yield from [str(value)] if isinstance(value, str) else (str(part) for part in value)


def _watts(value: Any) -> Iterator[str]:
    yield from (f"{digits(float(limit))} W" for limit in value)


def _megahertz(value: Any) -> Iterator[str]:
    yield from (f"{float(clock):.0f} MHz" for clock in value)


@dataclass(frozen=True)
class Compared:
    """One kind of provenance. ``column`` is a cell's of ``Source.cells``; ``why`` is what it could
    do to a figure.

    ``parallel``: only lines of more than one GPU per engine have it. ``silent``: a row without it
    says something too (vLLM logs no such line), else such rows are left out.
    """

    label: str
    column: str
    why: str
    parallel: bool = False
    silent: bool = False
    words: Callable[[Any], Iterator[str]] = _words


@dataclass(frozen=True)
class Difference:
    """``values``: per line, for people. ``flagged``: it could explain a difference of figures."""

    label: str
    column: str
    values: str
    flagged: bool
    why: str


CLOCK, POWER, LIMIT = "gpu_sm_clock_mhz", "gpu_power_w", "gpu_power_limit_w"
COMPARED = (
    Compared("driver", "driver_version", "another driver can run other kernels and clocks"),
    Compared("vLLM", "vllm_version_ran", "another engine"),
    Compared("torch", "torch_version", "other kernels"),
    Compared("CUDA", "cuda_version", "other kernels"),
    Compared("NCCL", "nccl_version", "other collectives", parallel=True),
    Compared("tpsweep", "tpsweep_version", "another version of the measuring program"),
    Compared("GPUs", "gpu_names", "other silicon"),
    Compared("CPU", "cpu_model", "the host's part of a step takes another time"),
    Compared("host", "host", "hosts of one class differ; how much was not measured"),
    Compared("link between GPUs", "gpu_link", "collectives go another way", parallel=True),
    Compared(
        "all-reduce that ran",
        "allreduce_backend_ran",
        "another algorithm: not TP alone is compared",
        parallel=True,
    ),
    Compared("fusions", "fusions_enabled", "other kernels", silent=True),
    Compared("compiled graphs", "graphs", "loaded ones were seen to decode 1 % faster at batch 1"),
    Compared("power limit", LIMIT, "a lower limit lowers clocks", words=_watts),
    Compared(
        "memory clock", "gpu_mem_clock_mhz", "decode goes with memory bandwidth", words=_megahertz
    ),
)
ALIKE = "every line has the same ones: it explains no difference between them"


def find(series: Series) -> list[Difference]:
    """What differs, flagged first; empty if nothing does."""
    lines = [line for line in series.lines if line.measured]
    found = [_difference(compared, lines) for compared in COMPARED]
    found.append(_clocks(lines))
    differing = [difference for difference in found if difference is not None]
    return sorted(differing, key=lambda difference: not difference.flagged)


def name_of(line: Line) -> str:
    """A line as text: its layout."""
    return line.layout.label


def _difference(compared: Compared, lines: list[Line]) -> Difference | None:
    of_lines = {
        name_of(line): _values(compared, line)
        for line in lines
        if line.tp > 1 or not compared.parallel
    }
    known = {name: values for name, values in of_lines.items() if values}
    if len(set().union(*known.values())) < 2:
        return None
    alike = len({frozenset(values) for values in known.values()}) == 1
    alike = alike and len(known) > 1
    values = "; ".join(f"{name}: {', '.join(values)}" for name, values in known.items())
    why = ALIKE if alike else compared.why
    if len(known) == 1 and not alike:
        why = f"runs of one line differ: {compared.why}"
    return Difference(compared.label, compared.column, values, not alike, why)


def _values(compared: Compared, line: Line) -> list[str]:
    """Distinct values of the line's runs, sorted."""
    found: set[str] = set()
    for cell in line.measured:
        value = cell[compared.column]
        if value is not None:
            found.update(compared.words(value))
        elif compared.silent:
            found.add(NOT_SAID)
    return sorted(found)


def _clocks(lines: list[Line]) -> Difference | None:
    """SM clocks while measuring: each line's median over its runs and GPUs, power beside it."""
    clocks = {name_of(line): _median(line.measured, CLOCK) for line in lines}
    powers = {name_of(line): _power(line.measured) for line in lines}
    known = {name: clock for name, clock in clocks.items() if clock is not None}
    if len(set(known.values())) < 2:
        return None
    apart = max(known.values()) / min(known.values()) - 1
    flagged = apart > CLOCK_TOLERANCE
    values = "; ".join(f"{name}: {clock:.0f} MHz{powers[name]}" for name, clock in known.items())
    said = f"{100 * apart:.1f} % apart"
    limit = f"{100 * CLOCK_TOLERANCE:.0f} %"
    why = (
        f"{said}: what waits for compute is faster by up to as much"
        if flagged
        else f"{said}: within {limit}, not flagged"
    )
    return Difference("SM clock while measuring", CLOCK, values, flagged, why)


def _power(cells: list[Record]) -> str:
    """Mean power and its limit: a card at its limit lowers its clock."""
    power, limit = _median(cells, POWER), _median(cells, LIMIT)
    return "" if power is None or limit is None else f" at {power:.0f} of {limit:.0f} W"


def _median(cells: list[Record], name: str) -> float | None:
    """Of all GPUs of all runs; None if no run has it."""
    given = (cell[name] for cell in cells if cell[name] is not None)
    found = [float(value) for values in given for value in values if value]
    return median(found) if found else None
