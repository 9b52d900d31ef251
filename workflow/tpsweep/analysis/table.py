"""One table: its records, their fixed schema, and the three files that it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tpsweep.analysis.markdown import pipe_table
from tpsweep.core.atomic import replacing
from tpsweep.core.axes import READ
from tpsweep.core.schema import Column

Record = dict[str, Any]
_PLAIN = re.compile(r"(?:[A-Za-z0-9.,:;%+=()/-]+(?: [A-Za-z0-9.,:;%+=()/-]+)*)?")
"""Text that is the same in Markdown: nearly all of a large table."""


@dataclass(frozen=True)
class View:
    """One column of the Markdown file: a heading with its unit, and a record's text in it.

    What ``show`` returns is escaped; it needs no Markdown of its own. A column
    ``once`` in which all records agree is said once above the table, not in every line.
    """

    heading: str
    show: Callable[[Record], str]
    once: bool = False


@dataclass(frozen=True)
class Table:
    """A named table. ``columns`` is the schema of the data files, ``views`` the Markdown's.

    ``legend`` lines stand below the Markdown table; ``empty`` stands in its place if there are no
    records.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    views: tuple[View, ...]
    records: list[Record]
    legend: tuple[str, ...] = ()
    empty: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The same for every sweep: types do not depend on what was measured."""
        return pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in self.columns])

    def write(self, folder: Path, mark: str = "") -> None:
        """Write ``<name>.parquet``, ``.csv`` and ``.md``, each atomically.

        ``mark`` (incomplete, synthetic) stands in the Markdown's title and in the Parquet file's
        metadata.
        """
        title = f"{self.title}: {mark}" if mark else self.title
        data = pa.Table.from_pylist(self.records, schema=self.schema)
        titled = data.replace_schema_metadata({"title": title})
        base = folder / self.name
        with replacing(base.with_suffix(".parquet")) as path:
            pq.write_table(titled, path)
        with replacing(base.with_suffix(".csv")) as path:
            pa_csv.write_csv(data, path)
        with replacing(base.with_suffix(".md")) as path:
            path.write_text(self._markdown(title), "utf-8")

    def _markdown(self, title: str) -> str:
        if self.empty and not self.records:
            return f"# {escape(title)}\n\n{escape(self.empty)}\n"
        grid = make_grid(self.views, self.records)
        said = ", ".join(f"{escape(heading)}: {escape(word)}" for heading, word in grid.common)
        body = pipe_table(
            {
                escape(heading): [escape(line[at]) for line in grid.lines]
                for at, heading in enumerate(grid.headings)
            }
        )
        parts = [f"# {escape(title)}", said, body, *self.legend]
        return "\n\n".join(part for part in parts if part) + "\n"


@dataclass(frozen=True)
class Grid:
    """Records as people read them, nothing escaped: what all agree in, then line by line."""

    common: list[tuple[str, str]]
    headings: list[str]
    lines: list[list[str]]


def make_grid(views: Iterable[View], records: list[Record]) -> Grid:
    """``records`` through ``views``; a column ``once`` in which all agree is ``common``."""
    shown = {view: [view.show(record) for record in records] for view in views}
    common = {view: column[0] for view, column in shown.items() if view.once and _agree(column)}
    columns = {view.heading: column for view, column in shown.items() if view not in common}
    return Grid(
        common=[(view.heading, word) for view, word in common.items() if word],
        headings=list(columns),
        lines=[list(line) for line in zip(*columns.values(), strict=True)],
    )


def _agree(column: list[str]) -> bool:
    return len(set(column)) == 1


def text(name: str, absent: str = "") -> Callable[[Record], str]:
    """Shows a column as it is; ``absent`` if it is null."""
    return lambda record: absent if record[name] is None else str(record[name])


def identity(heading: str, name: str) -> View:
    """A column of the identity."""
    return View(heading, text(name), once=True)


IDENTITY_VIEWS = tuple(identity(axis.heading, axis.name) for axis in READ)
"""The identity but for the id and the run, in the order in which people read it."""


def figure(name: str, absent: str = "") -> Callable[[Record], str]:
    """Shows a figure to four digits, with ``(lo to hi)`` behind it if the record has them."""

    def show(record: Record) -> str:
        value, lo, hi = record[name], record.get(f"{name}_lo"), record.get(f"{name}_hi")
        if value is None:
            return absent
        if lo is None or hi is None:
            return digits(value)
        return f"{digits(value)} ({digits(lo)} to {digits(hi)})"

    return show


def change(name: str, unit: str, absent: str = "") -> Callable[[Record], str]:
    """Shows the difference ``<name>_diff`` with its sign and ``unit``, and ``<name>_pct``."""

    def show(record: Record) -> str:
        value, share = record[f"{name}_diff"], record[f"{name}_pct"]
        if value is None or share is None:
            return absent
        return f"{_signed(value)} {unit} ({share:+.1f} %)"

    return show


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{digits(abs(value))}"


def digits(value: float) -> str:
    """Four significant digits, never in exponents: a table is read by people."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    rounded = f"{value:#.4g}".removesuffix(".")
    return rounded if "e" not in rounded else f"{value:.8f}"


def escape(value: str) -> str:
    """``value`` as literal text in one line of a Markdown table."""
    if _PLAIN.fullmatch(value):
        return value
    flat = " ".join(value.split())
    flat = re.sub(r"([\\|`*\[\]])", r"\\\1", flat)
    flat = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", flat)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def sort_key(record: Record, names: Iterable[str]) -> tuple[tuple[bool, Any], ...]:
    """Orders records by these columns; what is absent comes last."""
    return tuple((record[name] is None, record[name]) for name in names)
