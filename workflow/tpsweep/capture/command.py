"""``tpsweep comm``: the report on a capture as JSON or as a short text."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tpsweep.capture.events import CaptureError
from tpsweep.capture.phases import Phase
from tpsweep.capture.report import CommReport, analyse
from tpsweep.capture.sidecar import ModelSizes, read_json


def run(paths: Sequence[Path], model_config: Path | None, as_json: bool) -> int:
    """Analyse a capture and print the report on stdout, warnings and errors on stderr.

    ``model_config`` is the model's config.json; without it the sidecar's. Returns 0, 1 if the
    self-check failed, 2 for input that cannot be analysed.
    """
    try:
        model = None
        if model_config is not None:
            model = ModelSizes.from_config(read_json(model_config), model_config)
        report = analyse(paths, model)
    except CaptureError as error:
        print(f"tpsweep comm: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(text(report))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if report.ok else 1


def text(report: CommReport) -> str:
    """The report for people: one block per phase, times in ms per step."""
    check = report.self_check
    lines = [
        f"{report.capture}: {report.ranks} ranks, all-reduce {report.backend}",
        f"self-check: {'ok' if check.ok else 'FAILED'}, per step {check.found.all_reduce} "
        f"all-reduces and {check.found.all_gather} all-gathers"
        + (
            f" (expected {check.expected.all_reduce} and {check.expected.all_gather})"
            if check.expected
            else " (no model given: equal steps and ranks are all that is checked)"
        ),
    ]
    for name, phase in report.phases.items():
        lines += ["", *_phase(name, phase)]
    for one in report.unknown:
        lines.append(f"unknown: {one.count} x {one.name}, {one.total_us:.1f} us in all")
    return "\n".join(lines)


def _phase(name: str, phase: Phase) -> list[str]:
    head = f"{name}: {phase.steps} steps"
    if phase.step_ms is None or phase.compute_ms_per_step is None:
        return [f"{head}, times left out"]
    lines = [f"{head}, {phase.step_ms['p50']:.3f} ms (p50)"]
    shortest = phase.transfer_us or phase.transfer_lower_us
    if shortest:
        least = "at least " if phase.transfer_lower_us else ""
        lines.append(
            f"  transfer {least}{shortest['p50']:.2f} us per all-reduce (p50), "
            f"{phase.transfer_fraction_profiled or 0:.1%} of the profiled step"
        )
    lines.append(f"  {'rank':>6}{'compute':>10}{'transfer':>10}{'wait':>10}"
                 f"{'all-gather':>12}{'gap':>10}{'sum':>10}")  # fmt: skip
    waits, gaps, sums = phase.wait_ms_per_step, phase.gap_ms_per_step, phase.sum_ms_per_step
    for rank, compute in phase.compute_ms_per_step.items():
        lines.append(
            f"  {rank:>6}{compute:>10.3f}{phase.transfer_ms_per_step or 0:>10.3f}"
            f"{(waits or {})[rank]:>10.3f}{phase.all_gather_ms_per_step or 0:>12.4f}"
            f"{(gaps or {})[rank]:>10.3f}{(sums or {})[rank]:>10.3f}"
        )
    return lines
