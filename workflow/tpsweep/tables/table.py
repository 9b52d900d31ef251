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
from tabulate import tabulate

from tpsweep.atomic import replacing
from tpsweep.row import Column

Record = dict[str, Any]


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

    ``legend`` lines stand below the Markdown table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    views: tuple[View, ...]
    records: list[Record]
    legend: tuple[str, ...] = ()

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
        shown = {
            view: [escape(view.show(record)) for record in self.records] for view in self.views
        }
        common = {v: column[0] for v, column in shown.items() if v.once and _agree(column)}
        said = ", ".join(f"{escape(v.heading)}: {word}" for v, word in common.items() if word)
        grid = tabulate(
            {escape(v.heading): column for v, column in shown.items() if v not in common},
            headers="keys",
            tablefmt="pipe",
            disable_numparse=True,
        )
        parts = [f"# {escape(title)}", said, grid, *self.legend]
        return "\n\n".join(part for part in parts if part) + "\n"


def _agree(column: list[str]) -> bool:
    return len(set(column)) == 1


def text(name: str) -> Callable[[Record], str]:
    """Shows a column as it is; empty if absent."""
    return lambda record: "" if record[name] is None else str(record[name])


def identity(heading: str, name: str) -> View:
    """A column of the identity."""
    return View(heading, text(name), once=True)


IDENTITY_VIEWS = (
    identity("Site", "site"),
    identity("GPU", "gpu"),
    identity("Card", "gpu_card"),
    identity("Model", "model"),
    identity("Revision", "model_revision"),
    identity("Dtype", "dtype"),
    identity("Weights", "weights"),
    identity("vLLM", "vllm_version"),
    identity("Workload", "workload"),
    identity("Data set", "dataset"),
    identity("Variant", "variant"),
    identity("All-reduce", "allreduce_backend"),
    identity("Requests", "num_prompts"),
    identity("Rate (requests/s)", "request_rate"),
    identity("Max in flight", "max_concurrency"),
    identity("Input (tokens)", "input_len"),
    identity("Output (tokens)", "output_len"),
    identity("Batch", "batch"),
    identity("TP", "tp"),
    identity("Replicas", "replicas"),
    identity("GPUs", "gpus"),
)
"""The identity but for the id and the run, in the order in which people read it."""


def figure(name: str) -> Callable[[Record], str]:
    """Shows a figure to four digits, with ``(lo to hi)`` behind it if the record has them."""

    def show(record: Record) -> str:
        value, lo, hi = record[name], record.get(f"{name}_lo"), record.get(f"{name}_hi")
        if value is None:
            return ""
        if lo is None or hi is None:
            return digits(value)
        return f"{digits(value)} ({digits(lo)} to {digits(hi)})"

    return show


def digits(value: float) -> str:
    """Four significant digits, never in exponents: a table is read by people."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    rounded = f"{value:#.4g}".removesuffix(".")
    return rounded if "e" not in rounded else f"{value:.8f}"


def escape(value: str) -> str:
    """``value`` as literal text in one line of a Markdown table."""
    flat = " ".join(value.split())
    flat = re.sub(r"([\\|`*\[\]])", r"\\\1", flat)
    flat = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", flat)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def sort_key(record: Record, names: Iterable[str]) -> tuple[tuple[bool, Any], ...]:
    """Orders records by these columns; what is absent comes last."""
    return tuple((record[name] is None, record[name]) for name in names)
