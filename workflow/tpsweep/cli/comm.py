"""``tpsweep comm``: the report on a capture as JSON or as a short text, and a step's picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpsweep.core.atomic import replacing
from tpsweep.core.errors import CaptureError
from tpsweep.traces import latency_row, sidecar, timeline, timeline_svg
from tpsweep.traces.cut_capture import Counts, CutCapture, read_groups
from tpsweep.traces.phases import Phase
from tpsweep.traces.report import CommReport, groups_to_dict, report_on
from tpsweep.traces.sidecar import ModelSizes, read_json


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "capture",
        type=Path,
        nargs="+",
        help=".nsys-rep, .qdstrm or .sqlite (.xz) from nsys; torch traces of all ranks, or their"
        " folder; or the row (.parquet) of a capture cell",
    )
    parser.add_argument("--model", type=Path, help="the model's config.json, without a sidecar")
    parser.add_argument(
        "--tp",
        type=int,
        metavar="N",
        help="neighbouring ranks form tensor-parallel groups of N, for captures that do not tell",
    )
    parser.add_argument("--latency", type=Path, help="row (.parquet) of the matching latency cell")
    parser.add_argument("--output", type=Path, help="also write the report here, as JSON")
    parser.add_argument("--timeline", type=Path, help="draw a decode step here, as SVG")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    wanted = Wanted(options.latency, options.output, options.timeline, options.tp)
    return run(options.capture, options.model, options.json, wanted)


@dataclass(frozen=True)
class Wanted:
    """What is requested besides the report on stdout.

    ``latency`` is the row of the matching latency cell; ``output`` where the report goes as JSON,
    ``timeline`` where the picture of one decode step goes, as SVG; ``tp`` is the size of a group
    of ranks, where the capture does not tell.
    """

    latency: Path | None = None
    output: Path | None = None
    timeline: Path | None = None
    tp: int | None = None


def run(
    paths: Sequence[Path], model_config: Path | None, as_json: bool, wanted: Wanted | None = None
) -> int:
    """Analyse a capture and print the report on stdout, warnings and errors on stderr.

    ``model_config`` is the model's config.json; without it the sidecar's. Returns 0; 1 if the
    self-check failed or a requested picture could not be made (a file that says why takes its
    place); 2 for input that cannot be analysed and output that cannot be written.
    """
    wanted = wanted or Wanted()
    given = [*paths, *(path for path in (model_config, wanted.latency) if path is not None)]
    try:
        _check_outputs(wanted, given)
        model = None
        if model_config is not None:
            model = ModelSizes.from_config(read_json(model_config), model_config)
        captures = read_groups(paths, model, wanted.tp)
        known = captures[0].known
        decode_ms = None
        if wanted.latency is not None:
            decode_ms = latency_row.decode_ms(wanted.latency, known)
            if not known.found:
                _say("warning: no sidecar: cannot check that the latency row has the same settings")
        reports = [report_on(capture, decode_ms) for capture in captures]
        written = json.dumps(groups_to_dict(reports), indent=1)
        if wanted.output is not None:
            _write(wanted.output, written + "\n")
        drawn = wanted.timeline is None or _draw(captures[0], wanted.timeline)
    except CaptureError as error:
        _say(f"tpsweep comm: {error}")
        return 2
    print(written if as_json else "\n\n".join([*_beside(reports), *map(text, reports)]))
    for report in reports:
        whose = f"{report.group.label}: " if report.group else ""
        for warning in report.warnings:
            _say(f"warning: {whose}{warning}")
    if wanted.timeline is not None and reports[0].group:
        _say(f"the picture is of {reports[0].group.label}")
    return 0 if all(report.ok for report in reports) and drawn else 1


def _beside(reports: Sequence[CommReport]) -> list[str]:
    """The decode steps of several groups side by side; nothing for one."""
    if len(reports) < 2:
        return []
    lines = [
        f"{len(reports)} groups; decode (ms per step):",
        f"  {'group':<30}{'step':>9}{'compute':>9}{'transfer':>9}{'wait':>9}{'experts':>9}"
        f"{'pipeline':>9}  self-check",
    ]
    for report in reports:
        phase = report.phases.get("decode")
        values = [
            phase and phase.step_ms and phase.step_ms["p50"],
            phase and phase.compute_ms_per_step and max(phase.compute_ms_per_step.values()),
            phase and phase.transfer_ms_per_step,
            phase and phase.wait_ms_per_step and max(phase.wait_ms_per_step.values()),
            phase and phase.experts_ms_per_step,
            phase and phase.pipeline_ms_per_step,
        ]
        cells = "".join(f"{'-' if value is None else f'{value:.3f}':>9}" for value in values)
        label = report.group.label if report.group else ""
        lines.append(f"  {label:<30}{cells}  {'ok' if report.self_check.ok else 'FAILED'}")
    return ["\n".join(lines)]


def _check_outputs(wanted: Wanted, given: Sequence[Path]) -> None:
    """Nothing that is read, and nothing but a file, may be written over: it would be lost."""
    asked = {"--output": wanted.output, "--timeline": wanted.timeline}
    targets = {option: path for option, path in asked.items() if path is not None}
    read = {path.resolve() for path in given}
    read |= {sidecar.place(path).resolve() for path in given}
    for option, path in targets.items():
        if path.resolve() in read:
            raise CaptureError(f"{option}: {path}: it is an input; choose another file")
        if path.exists() and not path.is_file():
            raise CaptureError(f"{option}: {path}: not a regular file; choose a file")
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise CaptureError(f"--timeline: {wanted.timeline}: also the --output; choose two files")


def _draw(capture: CutCapture, path: Path) -> bool:
    """Write the picture, or an SVG that says why there is none; whether it is the picture."""
    try:
        svg, reason = timeline_svg.draw(timeline.picture_of(capture)), None
    except ImportError:
        reason = "no picture: matplotlib is not installed"
    except CaptureError as error:
        reason = str(error)
    if reason is not None:
        _say(f"tpsweep comm: --timeline: {reason}")
        svg = timeline_svg.nothing(reason)
    _write(path, svg)
    return reason is None


def _write(path: Path, words: str) -> None:
    try:
        with replacing(path.resolve()) as temporary:  # a link stays one
            temporary.write_text(words, "utf-8")
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror or error}") from error


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def text(report: CommReport) -> str:
    """The report for people: one block per phase, times in ms per step."""
    check = report.self_check
    whose = f" ({report.group.label})" if report.group else ""
    lines = [
        f"{report.capture}{whose}: {report.ranks} rank{'s' * (report.ranks != 1)}, all-reduce "
        f"{report.backend}",
        f"self-check: {'ok' if check.ok else 'FAILED'}, per step {_counts(check.found)}"
        + (
            f" (expected {_expected(check.expected)})"
            if check.expected
            else " (no model: only checked that steps and ranks are equal)"
        ),
    ]
    for name, phase in report.phases.items():
        lines += ["", *_phase(name, phase)]
    for one in report.unknown:
        lines.append(f"unknown: {one.count} x {one.name}, {one.total_us:.1f} us in all")
    return "\n".join(lines)


def _counts(found: Counts) -> str:
    words = [f"{found.all_reduce} all-reduces", f"{found.all_gather} all-gathers"]
    if found.dispatch is not None:
        words += [f"{found.dispatch} dispatches", f"{found.combine} combines"]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _expected(counts: Counts) -> str:
    return " and ".join(
        " or ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (counts.all_reduce, counts.all_gather)
    )


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
            + (
                f", {phase.transfer_fraction:.1%} without profiler"
                if phase.transfer_fraction
                else ""
            )
        )
    if phase.experts_us:
        lines.append(
            f"  dispatch and combine {phase.experts_us['p50']:.2f} us each (p50), "
            f"{phase.experts_ms_per_step or 0:.3f} ms per step"
        )
    if phase.pipeline_ms_per_step is not None:
        lines.append(
            f"  between stages {phase.pipeline_ms_per_step:.3f} ms per step, the wait for the "
            "other stage included"
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
