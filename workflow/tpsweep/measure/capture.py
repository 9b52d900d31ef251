"""The ``capture`` workload: a static batch under a profiler, kept for ``tpsweep comm``.

A profiler stretches every step, so that nothing is timed here: the row says what was captured and
where it is. Warm-ups run without the profiler; all kept repeats are in one capture. The first
decode steps after a prefill are slower than those of a running decode (clocks that the prefill
threw down): the figures of the decode are of the late steps, and the capture's files say of which.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tpsweep.core import capture_match, results_paths
from tpsweep.core.atomic import replacing
from tpsweep.core.cell import Cell
from tpsweep.engine import repeat
from tpsweep.engine.host import EngineHost
from tpsweep.engine.offline import OfflineEngine
from tpsweep.measure.build_row import EngineRecord
from tpsweep.measure.latency import batches, split_batches
from tpsweep.measure.measurement import Measurement, Times
from tpsweep.traces import CommReport, analyse_groups, sidecar
from tpsweep.traces.steps import EARLY, PARTIAL

RECOVERY = 32
"""Decode steps after a prefill that are left out, if there are at least as many more."""


def run(
    cell: Cell, engine: OfflineEngine | EngineHost, results: Path, about: EngineRecord
) -> Measurement:
    """Profile a cell and keep the capture below ``results``.

    Raises ``ValueError`` for a capture that cannot be analysed (nothing of it is kept),
    ``EngineDiedError``, and ``OSError`` if it cannot be written.
    """
    once = batches(cell, engine.static_batch, engine.vocabulary)
    lengths = cell.input_len or 0, cell.output_len or 0
    began = time.monotonic()
    for _ in range(cell.warmups):
        once(lengths[1])
    with engine.profiled() as profiler:
        measured = time.monotonic()
        repeats = [once(lengths[1]) for _ in range(cell.repeats)]
        times = Times(began, measured, time.monotonic())
    batch = cell.batch or 0
    reasons = repeat.refusals(repeats, [lengths[0]] * batch, [lengths[1]] * batch)
    reasons += split_batches(cell, repeats)
    figures: dict[str, Any] = {
        "profiler_ran": profiler.name,
        "batch_held": all(r.held for r in repeats),
        "scheduled_instants_samples": [r.scheduled_instants for r in repeats],
        "capture_steady_from": steady_from(cell),
    }
    if not reasons:
        known = {**_sidecar(cell, about), "model": _model(engine), "profiler": profiler.name}
        with _whole_or_nothing(
            profiler.collect(results / results_paths.capture_stem(cell.path))
        ) as files:
            place = sidecar.place(files[0])
            files.append(place)
            with replacing(place) as path:
                path.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
            _require_steps(files[:-1], cell)
        figures["capture_files"] = [str(path.relative_to(results)) for path in files]
    return Measurement(times, figures, reasons, batch * lengths[1] * cell.repeats)


def steady_from(cell: Cell) -> int:
    """How many decode steps after each prefill the decode figures leave out: half, at most 32."""
    return min(RECOVERY, ((cell.output_len or 0) - 1) // 2)


@contextlib.contextmanager
def _whole_or_nothing(files: list[Path]) -> Iterator[list[Path]]:
    """The files of a capture, gone if what is done with them fails."""
    try:
        yield files
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        raise


def _require_steps(files: list[Path], cell: Cell) -> None:
    """All decode steps must be there: a profiler that starts late loses the first ones."""
    readable = [path for path in files if path.suffix != ".nsys-rep"]
    found = min(map(_decode_steps, analyse_groups(readable)))
    asked = cell.repeats * ((cell.output_len or 0) - 1)
    if found < asked:
        raise ValueError(f"the capture holds {found} of {asked} decode steps")


def _decode_steps(report: CommReport) -> int:
    phases = report.phases
    return sum(phases[name].steps for name in ("decode", EARLY, PARTIAL) if name in phases)


def _sidecar(cell: Cell, about: EngineRecord) -> dict[str, Any]:
    """What the capture alone does not tell; ``tpsweep.traces.sidecar`` reads it."""
    columns = cell.columns()
    return {
        # What ``capture_match`` compares, so that `tpsweep comm --latency` can tell a wrong row.
        **{name: columns[name] for name in capture_match.COMPARED if columns[name] is not None},
        "model_name": columns["model"],
        **{name: about.ran[name] for name in ("tp", "pp", "dcp")},
        "output_len": cell.output_len,
        "repeats": cell.repeats,
        "steady_from": steady_from(cell),
        "vllm_version": about.software.vllm_version_ran,
        "allreduce_backend_ran": about.log_facts.allreduce_backend,
        "link": about.gpus.link,
        "cell_id": cell.cell_id,
    }


def _model(engine: OfflineEngine | EngineHost) -> dict[str, Any]:
    """The model's configuration without the place of its files, which is nobody's business."""
    return {key: value for key, value in engine.config.items() if key != "_name_or_path"}
