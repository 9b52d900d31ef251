"""What squeue, sacct and sbatch say, without a Slurm. The texts are Slurm 22.05's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.memory import oom_kills
from snakemake_executor_plugin_submitit.outcome import CUT_OFF, Outcome, of_result
from snakemake_executor_plugin_submitit.slurm.queue import ALIVE, OVER, parse
from snakemake_executor_plugin_submitit.slurm.refusal import Refusal, classify
from snakemake_executor_plugin_submitit.slurm.submission import id_in
from snakemake_executor_plugin_submitit.spool import Result, Spool, says_out_of_memory, take_news

SQUEUE = "12_0|RUNNING|None|name-1\n12_1|PENDING|Priority|name-1\n13|COMPLETING|None|a|b\n\n"
SACCT = "12_2|CANCELLED by 1000|None|name-1\n14|OUT_OF_ME+|None|n\n15||None|n\n"


def test_states() -> None:
    found = parse(SQUEUE + SACCT)
    assert {job: status.state for job, status in found.items()} == {
        "12_0": "RUNNING",
        "12_1": "PENDING",
        "13": "COMPLETING",
        "12_2": "CANCELLED",
        "14": "OUT_OF_ME",
    }
    assert found["13"].name == "a|b"
    assert found["12_2"].said == "CANCELLED by 1000"
    assert found["12_0"].is_alive and not found["12_0"].is_over
    assert found["12_2"].is_over and not found["12_2"].is_alive
    # Cut off, or new in another Slurm: neither alive nor over, and never a success.
    assert not found["14"].is_alive and not found["14"].is_over


def test_no_state_is_in_two_sets_and_none_is_a_success() -> None:
    assert not ALIVE & set(OVER)
    assert set(OVER.values()) <= set(CUT_OFF)


FULL = (
    "sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: Batch job submission failed: Job "
    "violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        (FULL, Refusal.FULL),
        (FULL.replace("QOSMaxSubmitJobPerUser", "AssocMaxSubmitJob"), Refusal.FULL),
        (FULL.replace("QOSMaxSubmitJobPerUserLimit", "QOSMaxGRESPerUser"), Refusal.FOR_GOOD),
        (
            "sbatch: error: Batch job submission failed: Invalid job array specification",
            Refusal.TOO_LARGE,
        ),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller "
            "(connect failure)",
            Refusal.UNREACHABLE,
        ),
        (
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            Refusal.UNREACHABLE,
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", Refusal.FOR_GOOD),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available",
            Refusal.FOR_GOOD,
        ),
    ],
)
def test_refusals(said: str, refusal: Refusal) -> None:
    assert classify(said) is refusal


def test_outcomes_and_what_is_worth_another_attempt(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    log = tmp_path / "log"
    log.write_text("fine\nRuntimeError: broken\n")

    def outcome(*result: object) -> Outcome:
        return of_result(Result(*result), spool, log, "12_3")  # type: ignore[arg-type]

    assert (outcome(0).kind, outcome(3).kind) == ("", "failed")
    assert [outcome(3).is_final, outcome(65).is_final] == [False, True]
    assert [outcome(1, "timeout").is_final, outcome(-9, "out_of_memory").is_final] == [False, True]
    assert [Outcome(kind).is_final for kind in ("preempted", "node_failure", "lost")] == [False] * 3
    assert [Outcome(kind).is_final for kind in ("cancelled", "submit")] == [True] * 2
    outcome(1, "timeout").record(tmp_path / "failures" / "x.json")
    record = json.loads((tmp_path / "failures" / "x.json").read_text())
    assert (record["type"], record["job"], record["log"]) == ("timeout", "12_3", str(log))
    assert record["telling_lines"] == ["RuntimeError: broken"]


def test_news_is_taken_once_and_never_lost(tmp_path: Path) -> None:
    assert take_news(tmp_path) == []
    spool = Spool(tmp_path / "s")
    spool.folder.mkdir()
    spool.tell()
    spool.tell()
    assert take_news(tmp_path) == ["s"]
    assert take_news(tmp_path) == []
    spool.end("preempted")
    assert take_news(tmp_path) == ["s"]
    assert spool.end_reason == "preempted"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0.", True),
        ("slurmstepd: error: Step 5.0 exceeded memory limit (917504 > 300000), being killed", True),
        ("Traceback (most recent call last)", False),
    ],
)
def test_words_for_memory_that_ran_out(text: str, found: bool, tmp_path: Path) -> None:
    log = tmp_path / "err"
    assert not says_out_of_memory(log)
    log.write_text(f"before\n{text}\n")
    assert says_out_of_memory(log) is found


@pytest.mark.parametrize(
    ("line", "file", "text", "kills"),
    [
        ("0::/job_5/step_0\n", "job_5/step_0/memory.events", "low 0\noom 2\noom_kill 2\n", 2),
        (
            "9:cpu:/x\n4:memory:/slurm/job_5\n",
            "memory/slurm/job_5/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            1,
        ),
        ("0::/elsewhere\n", "job_5/memory.events", "oom_kill 7\n", 0),
    ],
)
def test_the_kernels_count_of_kills(
    line: str, file: str, text: str, kills: int, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(line)
    events = tmp_path / "fs" / file
    events.parent.mkdir(parents=True)
    events.write_text(text)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "fs") == kills


@pytest.mark.parametrize("text", ["", "{", "null", '{"code": 0, "mood": "good"}'])
def test_a_result_that_nobody_can_read_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.rc"
    assert Result.read(path) is None
    path.write_text(text)
    assert Result.read(path) is None
    Result(3, note="no space").write(path)
    assert Result.read(path) == Result(3)


@pytest.mark.parametrize(
    ("answer", "job"),
    [
        ("12\n", "12"),
        ("Welcome, user 4711\n12;east\n", "12"),
        ("17\n12\n", None),
        ("Submitted batch job 12\n", None),
        ("", None),
    ],
)
def test_the_id_in_the_answer_of_sbatch(answer: str, job: str | None) -> None:
    assert id_in(answer) == job


def test_what_does_not_pass_by_itself() -> None:
    text = "1|PENDING|Priority|n\n2|PENDING|JobHeldUser|n\n3|SUSPENDED|None|n\n4|RUNNING|None|n\n"
    text += "5|PENDING|launch failed requeued held|n\n"
    waits = [status.waits_for for status in parse(text).values()]
    assert waits == ["", "JobHeldUser", "SUSPENDED", "", "launch_failed_requeued_held"]
