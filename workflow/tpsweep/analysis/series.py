"""Series: the lines that a table compares, one per layout, and what they have in common.

A series holds the cells whose identity differs in its layout and ``run`` only,
and whose ``settings`` (``tpsweep.core.cell``: engine limits, dataset file, SLOs, ...) agree.
TP=1 has no all-reduce: its line is in the series of every backend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpsweep.analysis.starts import Kin
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    SYNTHETIC,
    Record,
    View,
    identity,
    labels_of,
    text,
)
from tpsweep.core import schema, stats
from tpsweep.core.axes import LAYOUT, NO_ALLREDUCE
from tpsweep.core.layout import Layout
from tpsweep.core.manifest import LABELS
from tpsweep.core.schema import BOOL, INT, TEXT, Column
from tpsweep.results.hosts import label_hosts
from tpsweep.results.load import Results, records

LINE = (*(axis.name for axis in LAYOUT), "gpus")
_NOT_KEY = ("cell_id", "run", "allreduce_backend", *LINE)
KEY = (*(name for name in schema.IDENTITY_NAMES if name not in _NOT_KEY), "settings")
"""What every line of a series has in common, the all-reduce backend apart."""

RAN = "allreduce_backend_ran"
_COMPARED = {
    "driver": "driver_version",
    "vLLM": "vllm_version_ran",
    "torch": "torch_version",
    "CUDA": "cuda_version",
    "GPUs": "gpu_names",
    "CPU": "cpu_model",
}
SOFTWARE = ("driver", "vLLM", "torch", "CUDA")

HEAD = (
    *(column for column in schema.IDENTITY if column.name in KEY),
    Column("settings", TEXT, "of the series: digest of what else could change a number"),
    Column("allreduce_backend", TEXT, "of the series; its TP=1 line ran without all-reduce"),
    *(column for column in schema.IDENTITY if column.name in LINE),
    *LABELS,
    Column("state", TEXT, "measured, imported, or why the line or some of its runs have no value"),
    Column("runs", INT, "runs measured"),
    Column("runs_planned", INT, "runs asked for"),
)
BASELINE = Column("baseline_tp", INT, "smallest measured TP of the series")
TAIL = (
    Column("note", TEXT, "what else differs between the lines of the series"),
    Column("imported", BOOL, "true: a result of vLLM's own benchmarks, not measured here"),
    SYNTHETIC,
)
RUNS = View("Runs", lambda record: f"{record['runs']}/{record['runs_planned']}")
LINE_VIEWS = (
    *IDENTITY_VIEWS,
    identity("Settings", "settings"),
    View("State", text("state")),
    RUNS,
)
"""Where the tables of lines begin: ``HEAD`` for people."""
ORDER = (*KEY, "allreduce_backend", *LINE)
"""Columns by which tables of series are sorted."""
_LOAD = ("batch", "input_len", "output_len", "dataset", "num_prompts", "request_rate")
_KIN = tuple(n for n in schema.IDENTITY_NAMES if n not in (*_LOAD, "cell_id", "run"))
FEW_HOSTS = 2
"""So many hosts of a line are named in a note; more are counted."""
DUMMY = "dummy weights: prefill and joules are not those of real data"


@dataclass(frozen=True)
class Line:
    """The runs of one layout in one series: ``cells`` of the manifest, rows' columns included.

    ``kin``: lines whose starts may be taken to scatter alike.
    """

    layout: Layout
    cells: list[Record]
    kin: Kin = field(default_factory=Kin, compare=False, repr=False)

    @property
    def tp(self) -> int:
        """Tensor-parallel size."""
        return self.layout.tp

    @property
    def gpus(self) -> int:
        """GPUs of the engine; 0 for an imported line that does not say."""
        return self.layout.gpus

    @cached_property
    def measured(self) -> list[Record]:
        """Its cells that have a row."""
        return [cell for cell in self.cells if cell["state"] == "measured"]

    @property
    def labels(self) -> Record:
        """Its columns ``LABELS``; an imported line has none: whose it is stands in its note."""
        return labels_of(*([] if self.imported else self.cells))

    @property
    def is_synthetic(self) -> bool:
        """Whether a made-up row is among its rows."""
        return any(cell["synthetic"] for cell in self.measured)

    @property
    def imported(self) -> list[str]:
        """Notes that its rows are not ours, and whose they are."""
        found = dict.fromkeys(cell["imported"] for cell in self.measured if cell["imported"])
        return [f"imported: {whose}" for whose in found]

    @property
    def state(self) -> str:
        """``measured``, or what kept the line, or some of its runs, from being so."""
        holes = dict.fromkeys(_hole(cell) for cell in self.cells if cell["state"] != "measured")
        if not holes:
            return "measured"
        share = [f"{len(self.measured)}/{len(self.cells)} runs measured"] if self.measured else []
        return "; ".join([*share, *holes])

    def runs(self, samples: str) -> list[NDArray[np.float64]]:
        """The samples, sorted, of each measured run that has usable ones."""
        return self.side(samples).runs

    def side(self, samples: str) -> stats.Side:
        """The same, as one side of comparisons."""
        if samples not in self._sides:
            found = [(cell[samples], node_of(cell)) for cell in self.measured]
            usable = [(values, node) for values, node in found if _usable(values)]
            self._sides[samples] = _side(usable)
        return self._sides[samples]

    def rates(self, name: str, share: int = 1) -> stats.Side:
        """A figure that a run has once, divided by ``share``, of each measured run that has it."""
        if (name, share) not in self._sides:
            found = [(cell[name], node_of(cell)) for cell in self.measured]
            usable = [
                ([rate / share], node) for rate, node in found if rate is not None and rate > 0
            ]
            self._sides[name, share] = _side(usable)
        return self._sides[name, share]

    @property
    def name(self) -> str:
        """Among its kin: its load."""
        cell = self.cells[0]
        if cell["batch"] is not None:
            return f"batch {cell['batch']}"
        rate = cell["request_rate"]
        prompts = f"{cell['num_prompts']} requests"
        return prompts if rate is None else f"{prompts} at {rate:g}/s"

    @cached_property
    def _sides(self) -> dict[str | tuple[str, int], stats.Side]:
        """What ``side`` and ``rates`` have found: every pair that a line is in asks again."""
        return {}

    def ratio_to(self, other: Line, samples: str) -> stats.Speedup:
        """``stats.speedup`` of ``other`` over this line; both must have ``runs``.

        Asked again, by another table, it is not computed again.
        """
        key = (id(other), samples)
        if key not in self._ratios:
            found = stats.speedup(self.side(samples), other.side(samples))
            self._ratios[key] = (other, found)
        return self._ratios[key][1]

    @cached_property
    def _ratios(self) -> dict[tuple[int, str], tuple[Line, stats.Speedup]]:
        """What ``ratio_to`` has found; the other line is kept so that its id stays its own."""
        return {}

    @cached_property
    def hosts(self) -> list[str]:
        """Hosts of its measured runs (``Source.cells``), sorted."""
        return sorted({cell["host"] for cell in self.measured} - {None})

    @cached_property
    def software(self) -> dict[str, set[str]]:
        """What its measured runs ran with, by the names of ``unlike``."""
        compared = {name: _COMPARED[name] for name in SOFTWARE} | {"all-reduce that ran": RAN}
        return {
            label: {_plain(cell[name]) for cell in self.measured}
            for label, name in compared.items()
        }

    def median(self, name: str) -> float | None:
        """Median over the measured runs of a figure, in its unit; None if no run has it."""
        found = [cell[name] for cell in self.measured if cell[name] is not None]
        return median(found) if found else None

    @property
    def gpu_hour_usd(self) -> float | None:
        """Price of a GPU-hour of its class; None without, or if folders put together disagree."""
        prices = {cell["gpu_hour_usd"] for cell in self.cells}
        return prices.pop() if len(prices) == 1 else None

    @cached_property
    def output_tok_s(self) -> float | None:
        """Median over the measured runs."""
        return self.median("output_tok_s")


@dataclass(frozen=True)
class Series:
    """Lines that are compared: ``key`` holds the values of ``KEY``, lines rise in TP."""

    key: tuple[Any, ...]
    backend: str
    lines: list[Line]

    @cached_property
    def baseline(self) -> Line | None:
        """The measured line of the smallest TP; one without pipeline stages comes first."""
        found = [line for line in self.lines if line.measured]
        return next((line for line in found if line.layout.pp == 1), found[0] if found else None)

    @property
    def baseline_tp(self) -> int | None:
        """Value of the column ``BASELINE``, which not every table has."""
        return self.baseline.tp if self.baseline else None

    def place(self, batch: int | None) -> tuple[Any, ...]:
        """Identifies the series with this batch in place of its own."""
        at = KEY.index("batch")
        return (*self.key[:at], batch, *self.key[at + 1 :], self.backend)

    def record(self, line: Line, *warnings: str) -> Record:
        """What every table says of a line: ``HEAD`` and ``TAIL``."""
        return {
            **dict(zip(KEY, self.key, strict=True)),
            "allreduce_backend": self.backend,
            **line.layout.sizes,
            **self.labels,
            "gpus": line.gpus or None,
            "state": "imported" if line.imported else line.state,
            "runs": len(line.measured),
            "runs_planned": len(line.cells),
            "note": "; ".join([*line.imported, *self.differences, *warnings]) or None,
            "imported": bool(line.imported),
            "synthetic": line.is_synthetic,
        }

    @cached_property
    def labels(self) -> Record:
        """The columns ``LABELS`` of all its lines, those too that have no cell of their own."""
        return labels_of(*(line.labels for line in self.lines))

    @cached_property
    def differences(self) -> list[str]:
        """Provenance in which the measured lines differ: it could explain their difference."""
        parallel = [line for line in self.lines if line.layout.has_allreduce]
        found = [_difference(label, name, self.lines) for label, name in _COMPARED.items()]
        found.append(_difference("all-reduce that ran", RAN, parallel))
        found.append(other_hosts(*self.lines))
        return [difference for difference in found if difference]

    @property
    def has_experts(self) -> bool:
        """Its model is a mixture of experts: vLLM joins those of data-parallel engines, so that one
        engine alone does not tell what two would do."""
        return any(cell["experts"] for line in self.lines for cell in line.cells)

    @property
    def batch(self) -> int | None:
        """Sequences in the static batch; None for other workloads."""
        found: int | None = self.key[KEY.index("batch")]
        return found


def by_batch(series: Iterable[Series]) -> list[list[Series]]:
    """Series that agree in all but the batch, together and in its order."""
    groups: dict[tuple[Any, ...], list[Series]] = defaultdict(list)
    for one in series:
        if one.batch is not None:
            groups[one.place(None)].append(one)
    return [sorted(group, key=lambda one: one.batch or 0) for group in groups.values()]


def dummy_note(*lines: Line) -> list[str]:
    """What a table says of lines with a row of dummy weights; empty without."""
    is_dummy = any(cell["weights"] == "dummy" for line in lines for cell in line.measured)
    return [DUMMY] if is_dummy else []


def unlike(one: Line, other: Line) -> list[str]:
    """Names of the software in which the measured runs of two lines differ."""
    return [label for label, ran in one.software.items() if ran != other.software[label]]


def other_hosts(*lines: Line) -> str:
    """``hosts differ: TP=1 on A, TP=2 on B``; empty if the lines ran on the same ones."""
    known = [line for line in lines if line.hosts]
    if len({tuple(line.hosts) for line in known}) < 2:
        return ""
    return f"hosts differ: {', '.join(f'{line.layout.label} on {_on(line)}' for line in known)}"


def _on(line: Line) -> str:
    many = len(line.hosts) > FEW_HOSTS
    return f"{len(line.hosts)} hosts" if many else " and ".join(line.hosts)


class Source:
    """What tables are built from: the cells of a results folder, joined and grouped once.

    Lines are shared by all tables, so that what one table asked of their samples is there for the
    next. Never change a cell or a line. Imported rows are in series that are asked for with them,
    and nowhere else: nothing is known of their machine, plan and cost.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self._series: dict[tuple[str, bool], list[Series]] = {}

    @property
    def cells(self) -> list[Record]:
        """Every cell of the manifest with the columns of its row; these are None without a row.

        ``host`` is no column of a row: it tells the machines of all rows apart (``label_hosts``).
        """
        return self._both[False]

    @cached_property
    def _both(self) -> dict[bool, list[Record]]:
        """Own cells (False) and imported ones (True)."""
        names = [name for name in schema.SCHEMA.names if name not in schema.IDENTITY_NAMES]
        measured = records(self.results.rows, ("cell_id", "site", *names))
        hosts = label_hosts(measured)
        by_id = {
            row["cell_id"]: {**row, "host": host} for row, host in zip(measured, hosts, strict=True)
        }
        nothing = dict.fromkeys([*names, "host"])
        planned = records(self.results.manifest)
        found: dict[bool, list[Record]] = {False: [], True: []}
        for cell in planned:
            record = {**by_id.get(cell["cell_id"], nothing), **cell}
            found[bool(record["imported"])].append(record)
        return found

    @property
    def measured(self) -> list[Record]:
        """The cells with a row, imported ones too, in the order of the rows."""
        by_id = {cell["cell_id"]: cell for cells in self._both.values() for cell in cells}
        return [by_id[cell_id] for cell_id in self.results.rows["cell_id"]]

    def of(self, workload: str) -> list[Record]:
        """The cells of a workload."""
        return [cell for cell in self.cells if cell["workload"] == workload]

    def series(self, workload: str, *, imported: bool = False) -> list[Series]:
        """Every series of a workload that the manifest has, measured or not; with those of
        imported rows, each alone, if asked."""
        key = (workload, imported)
        if key not in self._series:
            others = self._both[True] if imported else []
            cells = [*self.of(workload), *(c for c in others if c["workload"] == workload)]
            self._series[key] = list(_series(cells))
        return self._series[key]


def _series(cells: Iterable[Record]) -> Iterator[Series]:
    by_key: dict[tuple[Any, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        by_key[tuple(cell[name] for name in KEY)][cell["allreduce_backend"]].append(cell)
    kin: dict[tuple[Any, ...], Kin] = defaultdict(Kin)
    for key, by_backend in by_key.items():
        without = by_backend.pop(NO_ALLREDUCE, [])
        for backend, found in (by_backend or {NO_ALLREDUCE: []}).items():
            yield Series(key, backend, _lines([*without, *found], kin))


def _lines(cells: list[Record], kin: dict[tuple[Any, ...], Kin]) -> list[Line]:
    by_layout: dict[Layout, list[Record]] = defaultdict(list)
    for cell in cells:
        by_layout[Layout.of(cell)].append(cell)
    lines = [
        Line(layout, by_layout[layout], kin[_kind(by_layout[layout][0])])
        for layout in sorted(by_layout, key=by_axes)
    ]
    for line in lines:
        line.kin.members.append((line.name, line.side))
    return lines


def _kind(cell: Record) -> tuple[Any, ...]:
    """What makes lines kin: node class, model, layout and how it was measured, not the load."""
    method = str(cell["settings"] or "").partition("/")[2]
    return (*(cell[name] for name in _KIN), method)


def node_of(cell: Record) -> str | None:
    """The node that a measured cell ran on; None if it is not known."""
    found: str | None = cell.get("host", cell["hostname"])
    return found


def _side(runs: list[tuple[Any, str | None]]) -> stats.Side:
    return stats.Side.of([values for values, _ in runs], [node for _, node in runs])


def by_axes(layout: Layout) -> tuple[int, ...]:
    """Sorts the lines of a series: by TP first, then by the other axes."""
    return tuple(layout.sizes.values())


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


def _hole(cell: Record) -> str:
    if cell["state"] == "failed":
        return f"failed: {cell['failure_type']}"
    return f"{cell['state']}: {cell['reason']}" if cell["reason"] else str(cell["state"])


def _usable(samples: Any) -> bool:
    if samples is None or len(samples) == 0:
        return False
    return bool(samples.min() > 0 and samples.max() < np.inf)  # False where one is NaN


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else ", ".join(sorted(set(value)))
