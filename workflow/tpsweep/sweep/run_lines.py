"""What a run prints beside Snakemake's own lines: each cell as it ends, with its first result."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from tpsweep.core import results_paths
from tpsweep.core.axes import AXES, NO_ALLREDUCE, Group
from tpsweep.core.row_file import read_row
from tpsweep.core.workloads import CAPACITY, LATENCY, SERVE, THROUGHPUT, WORKLOADS
from tpsweep.sweep.sweep import Sweep

JOB_INFO, JOB_FINISHED = "job_info", "job_finished"
"""Snakemake's events: a job begins (rule, wildcards), a job has ended well."""
NOTHING_TO_DO = "Nothing to be done"
FIRST_RESULT = {
    LATENCY: ("{} ms/token", "tpot_ms"),
    THROUGHPUT: ("{} output tokens/s", "output_tok_s"),
    SERVE: ("TTFT {} ms, ITL {} ms", "ttft_p50_ms", "itl_p50_ms"),
}
"""How the first result of a row reads, and its columns. A capture's result is a table's."""
_ALWAYS = ("batch", "request_rate", "max_concurrency")
"""Axes that are named always; others are where cells of the workload differ."""
_TOLD = ("model", "workload", "gpus", "gpu_card", "dataset")
"""Axes that others tell, or the result."""


class RunLines(logging.Handler):
    """Listens to Snakemake's logger and adds lines to it.

    ``nothing_to_do`` is called where Snakemake ends at once: it runs no hook then.
    """

    def __init__(
        self, logger: logging.Logger, sweep: Sweep, nothing_to_do: Callable[[], None]
    ) -> None:
        super().__init__()
        self.logger = logger
        self.sweep = sweep
        self.nothing_to_do = nothing_to_do
        self.rows: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record. As with other handlers, an error here is shown and ends nothing."""
        try:
            self._take(record)
        except Exception:  # noqa: BLE001
            self.handleError(record)

    def _take(self, record: logging.LogRecord) -> None:
        event, told = getattr(record, "event", None), vars(record)
        if event == JOB_INFO and told["rule_name"] in WORKLOADS:
            path = results_paths.row(told["rule_name"], told["wildcards"]["cell"])
            self.rows[told["jobid"]] = path
        elif event == JOB_FINISHED and (row := self.rows.pop(told["job_id"], None)):
            if line := self.line(row):
                self.logger.info(line)
        elif event is None and record.getMessage().startswith(NOTHING_TO_DO):
            self.nothing_to_do()

    def line(self, path: str) -> str:
        """``8B TP=2, batch 32: 4.12 ms/token`` of a row below the results root; "" if there is no
        such row or no such value."""
        job = self.sweep.jobs.get(f"{self.sweep.results}/{path}")
        if job is None or job.cell.workload not in (*FIRST_RESULT, CAPACITY):
            return ""
        columns = job.cell.columns()
        label = self.sweep.config.models[columns["model"]].label
        words = [f"{label or columns['model']} {job.cell.engine.label}"]
        shown = {*_ALWAYS, *self._varying[job.cell.workload]}
        words += [
            axis.words(columns[axis.name])
            for axis in AXES
            if axis.name in shown and columns[axis.name] not in (axis.default, NO_ALLREDUCE)
        ]
        try:
            result = _result(job.cell.workload, read_row(Path(self.sweep.results, path)))
        except (ValueError, TypeError, KeyError):  # a damaged row, or one without the value
            return ""
        return f"tpsweep: {', '.join(words)}: {result}"

    @cached_property
    def _varying(self) -> dict[str, set[str]]:
        """By workload, the axes in which its cells differ, but for those that are named anyway."""
        seen: dict[str, dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
        for job in self.sweep.jobs.values():
            for name, value in job.cell.columns().items():
                seen[job.cell.workload][name].add(value)
        named = {axis.name for axis in AXES if axis.group is Group.LAYOUT} | set(_TOLD)
        return {
            workload: {n for n, all_ in axes.items() if len(all_ - {None, NO_ALLREDUCE}) > 1}
            - named
            for workload, axes in seen.items()
        }


def _result(workload: str, row: dict[str, Any]) -> str:
    """Of a search the capacity for each SLO, else by ``FIRST_RESULT``."""
    if workload != CAPACITY:
        words_of, *names = FIRST_RESULT[workload]
        return words_of.format(*(_number(row[name]) for name in names))
    found = zip(row["slo_names"], row["capacity_request_s"], row["capacity_verdicts"], strict=True)
    return ", ".join(
        f"{slo} {verdict if rate is None else f'{_number(rate)} requests/s'}"
        for slo, rate, verdict in found
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"  # never in exponents
