"""What a run prints of a cell that has ended, from Snakemake's own events."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sweep.test_sweep import SITE, raw
from tpsweep.core.row_file import write_row
from tpsweep.sweep.run_lines import RunLines
from tpsweep.sweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).parents[3]


def config_of(folder: Path) -> dict[str, Any]:
    """Latency, throughput and serving at TP 1 and 2, and a capture; results are in ``folder``."""
    (folder / "site.yaml").write_text(SITE)
    config = raw(tp=[1, 2])
    decode = config["workloads"]["decode"]
    requests = {"num_prompts": [8], "input_len": [8], "output_len": [4], "engine": decode["engine"]}
    config["workloads"] |= {
        "offline": {"kind": "throughput", **requests},
        "served": {"kind": "serve", "request_rate": [4.0], **requests},
        "most": {
            "kind": "capacity",
            "input_len": [8],
            "output_len": [4],
            "engine": decode["engine"],
        },
        "capture": {**decode, "kind": "capture", "batch": [1]},
    }
    config["slos"] = {"chat": {"ttft_p90_ms": 200}, "strict": {"ttft_p90_ms": 1}}
    model = config["models"]["tiny"]
    model |= {"label": "Llama 8B", "shape": str(ROOT / model["shape"])}
    return {**config, "results": str(folder / "results"), "site": str(folder / "site.yaml")}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(config_of(tmp_path), tmp_path)


class Log:
    """A logger as Snakemake's, with the handler on it, and what it was given."""

    def __init__(self, sweep: Sweep) -> None:
        self.logger = logging.Logger("like Snakemake's")
        self.lines: list[str] = []
        self.outcomes = 0
        shown = logging.Handler()
        shown.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        self.logger.addHandler(shown)
        self.logger.addHandler(RunLines(self.logger, sweep, self._outcome))

    def _outcome(self) -> None:
        self.outcomes += 1

    def run(self, job: int, rule: str, cell: str) -> list[str]:
        """A job from its beginning to its end; the lines that came after Snakemake's."""
        told: dict[str, Any] = {"jobid": job, "rule_name": rule, "wildcards": {"cell": cell}}
        self.logger.info("Job", extra={"event": "job_info", **told})
        self.logger.info("Finished jobid", extra={"event": "job_finished", "job_id": job})
        return self.lines[self.lines.index("Finished jobid") + 1 :]


@pytest.fixture
def log(sweep: Sweep) -> Iterator[Log]:
    yield Log(sweep)


def cell_of(sweep: Sweep, workload: str, tp: int, **values: Any) -> str:
    """Write a row of the first such cell; its wildcard."""
    jobs = sweep.jobs.items()
    path, job = next(
        (path, job)
        for path, job in jobs
        if (job.cell.workload, job.cell.engine.tp) == (workload, tp)
    )
    write_row({**job.cell.columns(), "cell_id": job.cell.cell_id, **values}, Path(path))
    below = path.removeprefix(f"{sweep.results}/cells/{workload}/")
    return below.removesuffix(".parquet")


@pytest.mark.parametrize(
    ("workload", "tp", "values", "line"),
    [
        ("latency", 2, {"tpot_ms": 4.1234}, "tpsweep: Llama 8B TP=2, batch 1: 4.12 ms/token"),
        (
            "throughput",
            1,
            {"output_tok_s": 12345.6},
            "tpsweep: Llama 8B TP=1: 12346 output tokens/s",
        ),
        (
            "serve",
            2,
            {"ttft_p50_ms": 31.26, "itl_p50_ms": 4.5},
            "tpsweep: Llama 8B TP=2, 4.0/s: TTFT 31.3 ms, ITL 4.5 ms",
        ),
        (
            "capacity",
            1,
            {
                "slo_names": ["chat", "strict"],
                "capacity_request_s": [64.28, None],
                "capacity_verdicts": ["bracket", "nothing passes"],
            },
            "tpsweep: Llama 8B TP=1: chat 64.3 requests/s, strict nothing passes",
        ),
    ],
)
def test_a_cell_that_has_ended_is_named_with_its_first_result(
    sweep: Sweep, log: Log, workload: str, tp: int, values: dict[str, Any], line: str
) -> None:
    assert log.run(7, workload, cell_of(sweep, workload, tp, **values)) == [line]


def test_axes_in_which_cells_differ_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    config["workloads"]["decode"]["input_len"] = [8, 16]
    sweep = load_sweep({**config, "runs": 2, "allreduce_backends": ["auto", "nccl"]}, tmp_path)
    cell = cell_of(sweep, "latency", 2, tpot_ms=2.0)
    assert Log(sweep).run(1, "latency", cell) == [
        "tpsweep: Llama 8B TP=2, all-reduce auto, batch 1, 8 in, run 0: 2 ms/token"
    ]
    # Cells of another workload have other lengths, and do not count.
    served = cell_of(sweep, "throughput", 1, output_tok_s=5.0)
    assert Log(sweep).run(1, "throughput", served) == [
        "tpsweep: Llama 8B TP=1, run 0: 5 output tokens/s"
    ]
    alone = cell_of(sweep, "latency", 1, tpot_ms=2.0)  # TP=1 has no all-reduce
    assert Log(sweep).run(1, "latency", alone) == [
        "tpsweep: Llama 8B TP=1, batch 1, 8 in, run 0: 2 ms/token"
    ]


def test_what_has_no_result_has_no_line(sweep: Sweep, log: Log) -> None:
    assert log.run(1, "capture", cell_of(sweep, "capture", 2)) == []
    assert log.run(2, "tables", "") == ["Job", "Finished jobid"]
    assert Log(sweep).run(3, "latency", cell_of(sweep, "latency", 1)) == []  # no value
    cell = cell_of(sweep, "latency", 1, tpot_ms=2.0)
    next(Path(sweep.results).glob(f"cells/latency/{cell}.parquet")).write_bytes(b"damaged")
    assert Log(sweep).run(4, "latency", cell) == []


def test_nothing_to_do_shows_the_outcome_once(log: Log) -> None:
    log.logger.info("Building DAG of jobs...")
    assert log.outcomes == 0
    log.logger.info("Nothing to be done (all requested files are present and up to date).")
    assert log.outcomes == 1


def test_an_event_that_lacks_something_ends_nothing(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    log.logger.info("Job", extra={"event": "job_info"})
    assert "KeyError" in capsys.readouterr().err
    assert log.lines == ["Job"]
