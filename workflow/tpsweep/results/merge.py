"""Several results folders as one: sites side by side, or the days of one sweep.

A cell that two folders measured is two engine starts of it: the later folder's counts as further
runs, so that intervals and verdicts are those between runs. One that both have from the same engine
start (a copied folder) counts once. A cell that only one of them measured is taken from there; what
the others say of it (missing, failed) is no longer a hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tpsweep.results.load import Results, load


def load_all(folders: Sequence[Path]) -> Results:
    """``folders`` as one ``Results``. Raises ``ResultsError`` if one of them is not one."""
    together = load(folders[0])
    for folder in folders[1:]:
        together = _joined(together, load(folder), str(folder))
    return together


def folder_of(cell_id: str, folders: Sequence[Path]) -> list[Path]:
    """Of ``folders``, put together, those that the cell's row can be from: the likeliest first."""
    name = cell_id.partition("@")[2]
    return [folder for folder in folders if not name or str(folder) == name]


def _joined(first: Results, second: Results, name: str) -> Results:
    ours, theirs = (dict.fromkeys(results.manifest["cell_id"]) for results in (first, second))
    ours |= _engines(first)
    theirs |= _engines(second)
    both = [cell_id for cell_id in theirs if cell_id in ours]
    better = [i for i in both if theirs[i] is not None and ours[i] is None]
    left = [i for i in both if theirs[i] is None or theirs[i] == ours[i]]
    known = {*better, *left}
    again = [i for i in both if i not in known]
    return _appended(_without(first, better), _as_runs(_without(second, left), again, first, name))


def _engines(results: Results) -> dict[str, str]:
    """Measured cells, and the engine start that each is of."""
    rows = results.rows
    engines = rows["engine_id"].fillna(rows["started_at"]).fillna("unknown")
    return dict(zip(rows["cell_id"], engines.astype(str), strict=True))


def _without(results: Results, cell_ids: Sequence[str]) -> Results:
    def rest(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[~frame["cell_id"].isin(cell_ids)]

    kept = {i: found for i, found in results.communication.items() if i not in set(cell_ids)}
    frames = (rest(results.manifest), rest(results.rows), rest(results.failures))
    return Results(*frames, kept, results.shapes, results.folders)


def _as_runs(results: Results, cell_ids: Sequence[str], first: Results, name: str) -> Results:
    """``results`` with the cells of ``cell_ids`` as runs after those of ``first``."""
    names = {cell_id: f"{cell_id}@{name}" for cell_id in cell_ids}
    after = int(first.manifest["run"].max()) + 1 if names else 0

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        again = frame["cell_id"].isin(names)
        if "run" in frame:
            frame.loc[again, "run"] += after
        frame["cell_id"] = frame["cell_id"].map(lambda cell_id: names.get(cell_id, cell_id))
        return frame

    return Results(
        renamed(results.manifest),
        renamed(results.rows),
        renamed(results.failures),
        {names.get(i, i): found for i, found in results.communication.items()},
        results.shapes,
        results.folders,
    )


def _appended(first: Results, second: Results) -> Results:
    def both(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        filled = [frame for frame in (one, other) if len(frame)] or [one]
        return pd.concat(filled, ignore_index=True)

    return Results(
        both(first.manifest, second.manifest),
        both(first.rows, second.rows),
        both(first.failures, second.failures),
        {**first.communication, **second.communication},
        {**first.shapes, **second.shapes},
        (*first.folders, *second.folders),
    )
