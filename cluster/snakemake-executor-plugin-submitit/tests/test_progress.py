"""Progress from event streams that are made up, and its words."""

from __future__ import annotations

import time

import pytest

from snakemake_executor_plugin_submitit.packing import SessionKey
from snakemake_executor_plugin_submitit.progress.estimate import (
    UNKNOWN,
    Estimate,
    session_time_left,
    time_left,
)
from snakemake_executor_plugin_submitit.progress.model import Model, SessionProgress
from snakemake_executor_plugin_submitit.progress.text import (
    block,
    duration,
    ended_line,
    last_line,
    time_left_text,
    total_line,
)


def key(
    session: str = "s", gpus: int = 1, command: str = "serve", gpu_type: str = "H"
) -> SessionKey:
    return SessionKey(session, command, gpu_type, gpus)


def formed(model: Model, name: str, jobs: int, of: SessionKey) -> list[str]:
    """A session of so many jobs, all handed over and packed."""
    names = [f"{name}{number}" for number in range(jobs)]
    for job in names:
        model.handed(job, of)
    model.formed(name, of, names)
    return names


def counts(model: Model) -> tuple[int, int, int, int, int, int]:
    return model.jobs, model.done, model.failed, model.left, model.running, model.waiting


def test_counts_failures_and_sessions() -> None:
    model = Model()
    a = formed(model, "a", 2, key())
    b = formed(model, "b", 1, key())
    assert counts(model) == (3, 0, 0, 3, 0, 2)
    model.changed("a", a, True, 10)
    assert counts(model) == (3, 0, 0, 3, 1, 1)
    assert model.ended(a[0], True, 5, 15) is None
    ended = model.ended(a[1], False, 5, 20)
    assert ended is not None
    assert ended_line(ended, 20) == "session a: 2 jobs, 1 done, 1 failed, 10 s"
    # sbatch refused it: it never ran, and nothing was learned of how long jobs take.
    never = model.ended(b[0], False, None, 20)
    assert never is not None
    assert ended_line(never, 20) == "session b: 1 job, 1 failed"
    assert counts(model) == (3, 1, 2, 0, 0, 0)
    assert model.all.job.count == 2
    assert not model.sessions
    assert last_line(model, 250.2) == "submitit: 1 of 3 jobs done, 2 failed; 4 min 10 s"


def test_a_job_that_is_tried_again_is_counted_once() -> None:
    model = Model()
    [job] = formed(model, "a", 1, key())
    model.changed("a", [job], True, 0)
    model.ended(job, False, 5, 5)
    assert counts(model) == (1, 0, 1, 0, 0, 0)
    model.handed(job, key())
    assert counts(model) == (1, 0, 0, 1, 0, 0)
    model.formed("b", key(), [job])
    model.changed("b", [job], True, 6)
    model.changed("a", [job], False, 7)  # news of the session that it left: nobody's any more
    assert (model.running, model.waiting) == (0, 1) or "a" not in model.sessions
    model.ended(job, True, 5, 12)
    assert model.ended(job, True, 5, 13) is None  # said twice
    assert counts(model) == (1, 1, 0, 0, 0, 0)


def test_unknown_until_a_job_has_ended_and_while_all_wait() -> None:
    model = Model()
    a = formed(model, "a", 3, key())
    b = formed(model, "b", 3, key())
    assert time_left(model, 0) == UNKNOWN
    model.changed("a", a, True, 0)
    assert time_left(model, 100) == UNKNOWN
    for number, job in enumerate(a):
        model.ended(job, True, 10, 110 + 10 * number)
    # One place was in use a moment ago; the start of a command was never seen.
    assert time_left(model, 131) == Estimate(30, is_least=True)
    # Now the other has been in the queue for five minutes, and nobody knows how long yet.
    assert time_left(model, 430) == UNKNOWN
    assert total_line(model, 430) == (
        "submitit: 3 of 6 jobs done, 3 left; 1 session waiting; time left unknown"
    )
    model.changed("b", b, True, 500)
    assert time_left(model, 500) == Estimate(30, is_least=True)


def test_means_of_the_session_before_its_kind_before_all() -> None:
    model = Model()
    a = formed(model, "a", 3, key(command=""))
    b = formed(model, "b", 2, key(command=""))
    c = formed(model, "c", 2, key(command="", gpus=2))
    for name, jobs in (("a", a), ("b", b), ("c", c)):
        model.changed(name, jobs, True, 0)
    model.ended(a[0], True, 4, 4)
    model.ended(a[1], True, 6, 10)
    sessions = model.sessions
    assert session_time_left(model, sessions["a"], 12) == Estimate(3)  # 5, of which 2 are over
    assert session_time_left(model, sessions["b"], 0) == Estimate(10)  # of its kind
    model.ended(b[0], True, 20, 20)
    assert session_time_left(model, sessions["b"], 20) == Estimate(20)
    assert session_time_left(model, sessions["c"], 0) == Estimate(20)  # of all: (4 + 6 + 20) / 3
    assert session_time_left(model, sessions["a"], 100) == Estimate(0)  # late, but not over
    assert time_left(model, 20) == Estimate(20)


def test_starts_of_commands_and_sessions_side_by_side() -> None:
    model = Model()
    jobs = {name: formed(model, name, 2, key()) for name in "abcdef"}
    for name in "ab":
        model.changed(name, jobs[name], True, 0)
        model.ready(name, 100, 100)
        model.ready(name, 100, 105)  # looked at again
    assert model.all.start.count == 2
    for name in "ab":
        model.ended(jobs[name][0], True, 10, 110)
    # a and b: 10 more; then c to f, two by two: a start and two jobs each.
    assert time_left(model, 110) == Estimate(10 + 2 * 120)
    for name in "ab":
        model.ended(jobs[name][1], True, 10, 120)
    model.changed("c", jobs["c"], True, 121)
    assert session_time_left(model, model.sessions["c"], 151) == Estimate(90)  # 70 of the start
    # d begins at once beside it, and e and f follow: two places, as before.
    assert time_left(model, 151) == Estimate(240)


def test_gpus_limit_what_runs_side_by_side() -> None:
    model = Model()
    small = [formed(model, f"s{n}-", 1, key(command="")) for n in range(2)]
    for n, jobs in enumerate(small):
        model.changed(f"s{n}-", jobs, True, 0)
    for jobs in small:
        model.ended(jobs[0], True, 10, 10)
    for n in range(3):
        formed(model, f"l{n}-", 1, key(command="", gpus=2))
    # Two sessions ran at a time, on one GPU each: those of two GPUs follow one another.
    assert time_left(model, 10) == Estimate(30)
    formed(model, "other", 1, key(command="", gpu_type="X"))  # another queue, maybe
    assert time_left(model, 10) == Estimate(30, is_least=True)


def test_a_session_that_slurm_runs_again() -> None:
    model = Model()
    a = formed(model, "a", 2, key())
    model.changed("a", a, True, 0)
    model.ready("a", 50, 50)
    model.ended(a[0], True, 10, 60)
    model.changed("a", a, False, 65)  # preempted, and in the queue again
    assert counts(model) == (2, 1, 0, 1, 0, 1)
    model.changed("a", a, True, 300)
    assert session_time_left(model, model.sessions["a"], 300) == Estimate(60)  # it starts again


def test_a_session_under_another_name() -> None:
    model = Model()
    a = formed(model, "a", 2, key())
    model.changed("renamed", a, True, 0)  # sbatch refused it at first
    assert list(model.sessions) == ["renamed"]
    assert counts(model) == (2, 0, 0, 2, 1, 0)


def test_reattached_sessions_count_only_what_this_run_was_handed() -> None:
    model = Model()
    model.changed("old", ["x", "y", "z"], True, 0)  # of the earlier run: nobody asked yet
    assert counts(model) == (0, 0, 0, 0, 0, 0)
    for job in "yz":
        model.handed(job, key(gpus=2))
        model.followed("old", job, True, 1)
    assert counts(model) == (2, 0, 0, 2, 1, 0)
    model.ready("old", 80, 5)  # read from its files, however long ago it was
    model.ended("x", True, 10, 6)  # never handed over here
    session = model.sessions["old"]
    assert (session.jobs, session.done, session.started_at) == (2, 0, None)
    model.ended("y", True, 10, 20)
    assert session_time_left(model, session, 24) == Estimate(6)
    ended = model.ended("z", True, 10, 30)
    assert ended is not None
    assert ended_line(ended, 30) == "session old: 2 jobs, 2 done, of those that this run was handed"


def test_ten_thousand_jobs_take_no_search_per_job() -> None:
    small, large = (min(seconds(size) for _ in range(3)) for size in (2_500, 10_000))
    assert large < 9 * small  # 4 if it is linear, 16 if every job looks at all others


def seconds(jobs: int) -> float:
    """CPU seconds of that many jobs of a session each, and of an estimate for as many again."""
    began = time.process_time()
    model = Model()
    names = [f"s{number}" for number in range(jobs)]
    for name in names:
        formed(model, name, 1, key(name, command=""))
    for number, name in enumerate(names):
        model.changed(name, [f"{name}0"], True, number)
        model.ended(f"{name}0", True, 1, number + 1)
    assert counts(model) == (jobs, jobs, 0, 0, 0, 0)
    assert not model.sessions
    for name in names:
        formed(model, f"again{name}", 1, key(name, command=""))
    assert time_left(model, jobs) == Estimate(jobs)  # one at a time
    return time.process_time() - began


def test_words() -> None:
    assert [duration(s) for s in (0.4, 59.4, 59.6, 250, 11_100)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "4 min 10 s",
        "3 h 5 min",
    ]
    assert [time_left_text(Estimate(s)) for s in (0, 44, 200, 7900)] == [
        "about 10 s left",
        "about 40 s left",
        "about 3 min left",
        "about 2 h 12 min left",
    ]
    assert time_left_text(Estimate(200, is_least=True)) == "at least 3 min left"
    assert time_left_text(UNKNOWN) == "time left unknown"


@pytest.mark.parametrize(("columns", "rows"), [(200, 8), (79, 8), (40, 8), (79, 3), (20, 1)])
def test_block_fits(columns: int, rows: int) -> None:
    model = Model()
    for number in range(12):
        name = f"a-rather-long-name-of-a-session-with-many-words-{number:08x}"
        jobs = formed(model, name, 8, key())
        model.changed(name, jobs, True, number)
        model.ended(jobs[0], number % 2 == 0, 10, 100)
    lines = block(model, 130, columns, rows)
    assert len(lines) <= rows
    assert all(len(line) <= columns for line in lines)
    assert lines[0].startswith("submitit: 6 of 96 j")
    if rows == 8:
        shown = [line for line in lines if " done, 1 failed; " in line or " of 8 done" in line]
        assert lines[-1] == f"  and {12 - len(shown)} more"
    if columns >= 79 and rows == 8:
        assert any("min left" in line or "s left" in line for line in lines[:2])


def test_no_block_without_jobs_left() -> None:
    assert block(Model(), 0, 80) == []
    assert ended_line(SessionProgress("a", key(), jobs=1, done=1), 0) == "session a: 1 job, 1 done"
