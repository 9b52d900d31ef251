"""One table: its records, their fixed schema, and the three files that it becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tpsweep.analysis.markdown import pipe_table
from tpsweep.core import schema
from tpsweep.core.atomic import replacing
from tpsweep.core.axes import BY_NAME, READ
from tpsweep.core.manifest import LABELS
from tpsweep.core.schema import Column

Record = dict[str, Any]
NA = "n/a"
SYNTHETIC = Column("synthetic", schema.BOOL, "true: from invented rows, never measured")
_METADATA = b"tpsweep"
_WORDS = ("title", "mark", "legend", "empty")
"""Parts of a table that its Parquet file holds beside the records, as JSON."""
_PLAIN = re.compile(r"(?:[A-Za-z0-9.,:;%+=()/-]+(?: [A-Za-z0-9.,:;%+=()/-]+)*)?")
"""Text that is the same in Markdown: nearly all of a large table."""


@dataclass(frozen=True)
class View:
    """One column of the Markdown file: a heading with its unit, and a record's text in it.

    What ``show`` returns is escaped; it needs no Markdown of its own. A column
    ``once`` in which all records agree is said once above the table, not in every line; not at all
    if what they say is ``quiet``.
    """

    heading: str
    show: Callable[[Record], str]
    once: bool = False
    quiet: str = ""


@dataclass(frozen=True)
class Table:
    """A named table. ``columns`` is the schema of the data files, ``views`` the Markdown's.

    ``legend`` lines go below the Markdown table; ``empty`` replaces it if there are no records.
    ``mark`` (incomplete, synthetic) goes into the title.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    views: tuple[View, ...]
    records: list[Record]
    legend: tuple[str, ...] = ()
    empty: str = ""
    mark: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The same for every sweep: types do not depend on what was measured."""
        return pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in self.columns])

    @property
    def own(self) -> Table:
        """The table without imported lines, which no other table or figure may be made of."""
        return replace(self, records=[line for line in self.records if not line.get("imported")])

    @property
    def pruned(self) -> Table:
        """The table without the ``optional`` columns that no line has."""
        empty = {
            column.name
            for column in self.columns
            if column.optional and all(line.get(column.name) is None for line in self.records)
        }
        if not empty:
            return self
        return replace(
            self,
            columns=tuple(column for column in self.columns if column.name not in empty),
            records=[{n: v for n, v in line.items() if n not in empty} for line in self.records],
        )

    def write(self, folder: Path) -> None:
        """Write ``<name>.parquet``, ``.csv`` and ``.md``, each atomically.

        The Parquet file holds all but the views: ``read_table`` gives the table back.
        """
        title = f"{self.title}: {self.mark}" if self.mark else self.title
        names = [column.name for column in self.columns]
        columns = [[record.get(name) for record in self.records] for name in names]
        arrays = [pa.array(v, c.type) for v, c in zip(columns, self.columns, strict=True)]
        data = pa.Table.from_arrays(arrays, schema=self.schema)
        words = {name: getattr(self, name) for name in _WORDS}
        titled = data.replace_schema_metadata({"title": title, _METADATA: json.dumps(words)})
        base = folder / self.name
        with replacing(base.with_suffix(".parquet")) as path:
            # Statistics would be an eighth of a file that readers take whole.
            pq.write_table(titled, path, compression="zstd", write_statistics=False)
        with replacing(base.with_suffix(".csv")) as path:
            pa_csv.write_csv(_flat(data), path)
        with replacing(base.with_suffix(".md")) as path:
            path.write_text(self._markdown(title), "utf-8")

    def _markdown(self, title: str) -> str:
        if self.empty and not self.records:
            return f"# {escape(title)}\n\n{escape(self.empty)}\n"
        grid = make_grid(self.views, self.records)
        common = ", ".join(f"{escape(heading)}: {escape(word)}" for heading, word in grid.common)
        body = pipe_table(
            {
                escape(heading): [escape(word) for word in column]
                for heading, column in zip(grid.headings, grid.columns, strict=True)
            }
        )
        parts = [f"# {escape(title)}", common, body, *self.legend]
        return "\n\n".join(part for part in parts if part) + "\n"


class TableError(ValueError):
    """A table's file is missing or unusable; one line for people."""


def read_table(
    path: Path, views: tuple[View, ...] = (), names: Collection[str] | None = None
) -> Table:
    """The table that ``Table.write`` left in the Parquet file ``path``, with ``views``.

    ``names``: the columns to read; all without. Raises ``TableError`` for a file that is missing
    or from another version.
    """
    try:
        # Read as one file: pq.read_table would take the folders above for partitions.
        file = pq.ParquetFile(path, page_checksum_verification=True)
        words = json.loads((file.schema_arrow.metadata or {}).get(_METADATA, b"null"))
        if words is None:
            raise TableError(f"{path}: made by an older tpsweep: `tpsweep tables` makes it again")
        data = file.read(columns=None if names is None else list(names), use_threads=False)
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such table; `tpsweep tables` makes it") from error
    except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
        told = " ".join(str(error).split())[:200]
        raise TableError(f"{path}: not a table of tpsweep: {told}") from error
    return Table(
        name=path.stem,
        title=words["title"],
        columns=tuple(Column(f.name, f.type, _doc(f)) for f in data.schema),
        views=views,
        records=to_records(data),
        legend=tuple(words["legend"]),
        empty=words["empty"],
        mark=words["mark"],
    )


def to_records(data: pa.Table) -> list[Record]:
    """Lines of an Arrow table as dicts of plain Python values; null is None."""
    columns = [_values(data[name]) for name in data.column_names]
    return [dict(zip(data.column_names, line, strict=True)) for line in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As ``to_pylist``, which takes ten times as long for numbers and text."""
    if pa.types.is_nested(column.type):
        found: list[Any] = column.to_pylist()
        return found
    if pa.types.is_string(column.type):
        values: list[Any] = column.to_numpy().tolist()
        return values
    nulls = pc.is_null(column).to_numpy()
    values = column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy().tolist()
    for at in nulls.nonzero()[0] if column.null_count else ():
        values[at] = None
    return values


def _doc(field: pa.Field) -> str:
    return str((field.metadata or {}).get(b"doc", b"").decode())


def _flat(data: pa.Table) -> pa.Table:
    """Lists as text: CSV has none."""
    for at, field in enumerate(data.schema):
        if pa.types.is_list(field.type):
            texts = data[field.name].cast(pa.list_(pa.string()))
            data = data.set_column(at, field.name, pc.binary_join(texts, "; "))
    return data


@dataclass(frozen=True)
class Grid:
    """Records as people read them, nothing escaped: what all agree in, then line by line."""

    common: list[tuple[str, str]]
    headings: list[str]
    columns: list[list[str]]

    @property
    def lines(self) -> list[list[str]]:
        """The same, line by line."""
        return [list(line) for line in zip(*self.columns, strict=True)]


def make_grid(views: Iterable[View], records: list[Record]) -> Grid:
    """``records`` through ``views``; a column ``once`` in which all agree is ``common``."""
    common: list[tuple[str, str]] = []
    shown: dict[str, list[str]] = {}
    for view in views:
        column = _column(view, records)
        if view.once and len(set(column)) == 1:
            common.append((view.heading, "" if column[0] == view.quiet else column[0]))
        else:
            shown[view.heading] = column
    return Grid(
        common=[(heading, word) for heading, word in common if word],
        headings=list(shown),
        columns=list(shown.values()),
    )


def _column(view: View, records: list[Record]) -> list[str]:
    """Text of every record; what shows a column as it is needs one look at each value."""
    if not isinstance(view.show, _AsItIs):
        return [view.show(record) for record in records]
    values = [record[view.show.name] for record in records]
    # Keys with their types: 1, 1.0 and True are equal, and read unlike.
    words = {key: view.show.word(key[1]) for key in {(type(value), value) for value in values}}
    return [words[type(value), value] for value in values]


@dataclass(frozen=True)
class _AsItIs:
    """See ``text``."""

    name: str
    absent: str

    def __call__(self, record: Record) -> str:
        return self.word(record[self.name])

    def word(self, value: Any) -> str:
        return self.absent if value is None else str(value)


def text(name: str, absent: str = "") -> Callable[[Record], str]:
    """Shows a column as it is; ``absent`` if it is null."""
    return _AsItIs(name, absent)


def identity(heading: str, name: str) -> View:
    """A column of the identity. A younger axis is silent where nobody made use of it."""
    axis = BY_NAME.get(name)
    quiet = str(axis.default) if axis is not None and axis.added else ""
    return View(heading, text(name), once=True, quiet=quiet)


def joined(values: Iterable[Any], limit: int = 4) -> str:
    """Distinct values as a list for people; what is null is left out."""
    found = list(dict.fromkeys(str(value) for value in _each(values)))
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            if value is not None and value == value:  # NaN is not itself
                yield value
        else:
            yield from _each(value)


def model_name(record: Record) -> str:
    """What people call the model of a line: the config's label, else its name there."""
    return str(record.get("model_label") or record["model"])


def _named(view: View) -> View:
    return replace(view, show=model_name) if view.heading == BY_NAME["model"].heading else view


IDENTITY_VIEWS = (
    *(_named(identity(axis.heading, axis.name)) for axis in READ),
    View("Label", lambda record: record.get("workload_label") or "", once=True),
)
"""The identity but for the id and the run, in the order in which people read it; labels of the
config in the place of a model's name, and beside a workload."""


def labels_of(*cells: Record) -> Record:
    """The columns ``LABELS`` of a line of these cells; cells of several folders may be called
    differently: the first name counts."""
    return {
        column.name: next((cell[column.name] for cell in cells if cell.get(column.name)), None)
        for column in LABELS
    }


NOTE = View("Note", text("note"), once=True)
CELL_VIEWS = (
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    View("State", text("state")),
    View("Reason", text("reason"), once=True),
)
"""Where the tables of single cells begin."""
STATE_COLUMN = Column("state", schema.TEXT, "measured, failed, missing, infeasible or excluded")
REASON_COLUMN = Column("reason", schema.TEXT, "why there is no row")
CELL_HEAD = (
    *schema.IDENTITY,
    *LABELS,
    STATE_COLUMN,
    REASON_COLUMN,
)
"""The columns of ``CELL_VIEWS``, the rest of the identity included."""
IDENTITY_ORDER = tuple(column.name for column in schema.IDENTITY if column.name != "cell_id")
"""Columns by which tables of single cells are sorted."""


def figure(name: str, absent: str = "") -> Callable[[Record], str]:
    """Shows a value to four digits with what is known of its spread behind it.

    That is ``<name>_starts`` if the record has it (an interval within one start is not shown: it
    would be taken for more), else ``(lo to hi)`` if it has both.
    """

    def show(record: Record) -> str:
        value, lo, hi = record[name], record.get(f"{name}_lo"), record.get(f"{name}_hi")
        if value is None:
            return absent
        if starts := record.get(f"{name}_starts"):
            return f"{digits(value)} ({starts})"
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


def sort_records(records: list[Record], names: Iterable[str]) -> None:
    """Sort by these columns, in place; what is absent comes last.

    Most columns of an identity are the same in a whole sweep: they are not compared.
    """
    unlike = [name for name in names if len({record[name] for record in records}) > 1]
    records.sort(key=lambda record: sort_key(record, unlike))


def sort_key(record: Record, names: Iterable[str]) -> tuple[tuple[bool, Any], ...]:
    """Orders records by these columns; what is absent comes last."""
    return tuple((record[name] is None, record[name]) for name in names)
