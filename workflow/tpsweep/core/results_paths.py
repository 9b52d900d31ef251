"""Where things lie below a results root. Standard library only.

A cell's files have equal places in its folders: its row in ``cells/``, its capture and the
analysis of it in ``captures/``, vLLM's own result files in ``vllm/``; an unfinished search for a
capacity is in ``searches/``. Only ``cells/`` may hold
Parquet files and nothing else: ``pandas.read_parquet("results/cells")`` reads all that is in it.
"""

from __future__ import annotations

from pathlib import Path

MANIFEST = "matrix.parquet"
"""Every cell of the current matrix."""
CELLS = "cells"
"""Folder of the rows: ``cells/<workload>/<gpu>/<model>/tp<k>/<readable>-<cell_id>.parquet``."""
CAPTURES = "captures"
"""Folder of the captures and of their analyses."""
VLLM = "vllm"
"""Folder of vLLM's own result files of served load."""
SEARCHES = "searches"
"""Folder of unfinished searches for a capacity: the probes so far, until the row is there."""
FAILURES = "failures"
"""Folder of the failure records, one JSON file per cell."""
ENGINE_STARTS = "engine_starts.jsonl"
"""One line per engine start, appended."""
ROW_SUFFIX = ".parquet"
SIDECAR = ".json"
REPORT, PICTURE = ".comm.json", ".step.svg"
"""What ``tpsweep comm`` leaves of a capture: suffixes of ``capture_stem``."""
_DEPTH = 6
"""Folders from a row's file up to the results root."""


def root_of(row: Path) -> Path | None:
    """The results root that the file of a row is in; None if it is not where rows are."""
    folders = row.resolve().parents
    is_there = len(folders) >= _DEPTH and folders[_DEPTH - 2].name == CELLS
    return folders[_DEPTH - 1] if is_there else None


def row(workload: str, stem: str) -> str:
    """The place of a row; ``stem``: its place in the workload's folder, without suffix."""
    return f"{CELLS}/{workload}/{stem}{ROW_SUFFIX}"


def cell_id_of(row: str) -> str:
    """The id of the cell that a row is of, from the place of the row."""
    return row.removesuffix(ROW_SUFFIX).rpartition("-")[2]


def capture_stem(row: str) -> str:
    """The place of a capture's files without their suffixes, from the place of its row."""
    return f"{CAPTURES}/{row.removeprefix(f'{CELLS}/capture/').removesuffix(ROW_SUFFIX)}"


def capture_sidecar(row: str) -> str:
    """The place of what a capture does not say itself (model, lengths), from that of its row."""
    return f"{capture_stem(row)}{SIDECAR}"


def capture_report(row: str) -> str:
    """The place of the analysis of a capture, from the place of its row."""
    return f"{capture_stem(row)}{REPORT}"


def capture_picture(row: str) -> str:
    """The place of the picture of one of its steps, from the place of its row."""
    return f"{capture_stem(row)}{PICTURE}"


def vllm_stem(row: str) -> str:
    """The place of vLLM's own result files without their suffixes, from the place of the row."""
    return f"{VLLM}/{row.removeprefix(f'{CELLS}/').removesuffix(ROW_SUFFIX)}"


def probes(row: str) -> str:
    """The place of the probes of an unfinished search, from the place of its row."""
    return f"{SEARCHES}/{row.removeprefix(f'{CELLS}/capacity/').removesuffix(ROW_SUFFIX)}.jsonl"


def failure_record(cell_id: str) -> str:
    """The place of the record of why a cell has no row."""
    return f"{FAILURES}/{cell_id}.json"
