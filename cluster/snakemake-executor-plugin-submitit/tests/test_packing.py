"""Jobs to sessions: pure."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.packing import (
    PackingError,
    Request,
    SessionKey,
    check,
    pack,
)
from snakemake_executor_plugin_submitit.site import GpuClass, Site
from snakemake_executor_plugin_submitit.spec import Cell


def site(**limits: int) -> Site:
    gpus = {"g": GpuClass(card="c", per_node=8)}
    return Site(name="s", cluster="local", gpus=gpus, **limits)


def request(
    name: str,
    session: str = "s",
    gpus: int = 1,
    minutes: float | None = 10,
    start: float | None = 5,
    order: int = 0,
) -> Request:
    limit = None if minutes is None else minutes * 60
    cell = Cell(name, ["true"], Path("log"), limit)
    return Request(SessionKey(session, "command", "g", gpus), cell, order, start)


def names(requests: list[Request], where: Site) -> list[str]:
    return ["".join(cell.id for cell in session.cells) for session in pack(requests, where)]


def test_equal_keys_share_a_session() -> None:
    requests = [request("a"), request("b", "t"), request("c"), request("d", gpus=2)]
    assert names(requests, site()) == ["ac", "b", "d"]


def test_cells_run_by_order_then_as_submitted() -> None:
    requests = [request("a", order=2), request("b", order=1), request("c", order=1)]
    assert names(requests, site()) == ["bca"]


def test_split_at_the_longest_session() -> None:
    requests = [request(name) for name in "abcde"]
    # 5 minutes to start and 10 per cell: two fit into 25, not three.
    assert names(requests, site(max_minutes=25)) == ["ab", "cd", "e"]
    assert names(requests, site(max_minutes=24)) == ["a", "b", "c", "d", "e"]
    assert [session.minutes for session in pack(requests, site(max_minutes=25))] == [25, 25, 15]


def test_split_at_the_most_cells() -> None:
    assert names([request(name) for name in "abcde"], site(max_cells_per_session=3)) == [
        "abc",
        "de",
    ]


def test_no_limits_no_split() -> None:
    requests = [request(str(number % 10), minutes=None, start=None) for number in range(100)]
    (session,) = pack(requests, site(max_minutes=1))
    assert len(session.cells) == 100
    assert session.start_minutes is None


def test_ten_thousand_jobs_are_packed_at_once() -> None:
    requests = [request(str(number), session=str(number % 50)) for number in range(10_000)]
    sessions = pack(requests, site(max_minutes=480))
    packed = [cell.id for session in sessions for cell in session.cells]
    assert sorted(packed) == sorted(str(number) for number in range(10_000))
    assert len({session.id for session in sessions}) == len(sessions)


def test_session_ids_are_file_names() -> None:
    (session,) = pack([request("a", session="../x y/" + "z" * 300)], site())
    assert "/" not in session.id
    assert len(session.id) < 60


def test_on_slurm_short_jobs_without_session_share_one_and_others_do_not() -> None:
    slurm = Site(name="s", cluster="slurm", gpus={"g": GpuClass(card="c", per_node=8)})

    def job(name: str, minutes: float | None, alone: bool = False) -> Request:
        cell = Cell(name, ["true"], Path("log"), None if minutes is None else minutes * 60)
        return Request(SessionKey("", "", "", 0), cell, is_alone=alone)

    jobs = [job("a", 4), job("b", None), job("c", 4), job("d", 6), job("e", 1, True), job("f", 4)]
    assert names(jobs, slurm) == ["b", "d", "e", "ac", "f"]
    assert names(jobs, slurm.model_copy(update={"pack_minutes": 0})) == list("abcdef")
    packed = pack(jobs, slurm)[3]
    assert set(packed.requests) == {"a", "c"}


def test_sharing_ends_at_the_sites_time_limit_and_the_site_says_so() -> None:
    gpus = {"g": GpuClass(card="c", per_node=8)}
    short = Site(name="s", cluster="slurm", gpus=gpus, max_minutes=10, pack_minutes=60)
    enough = short.model_copy(update={"max_minutes": 62})
    none = SessionKey("", "", "", 0)
    jobs = [Request(none, Cell(name, ["true"], Path("log"), 300)) for name in "abcd"]
    assert names(jobs, short) == list("abcd")  # 8 minutes are left of 10: no two fit
    assert not any(session.requests for session in pack(jobs, short))
    assert names(jobs, enough) == ["abcd"]
    assert short.cut_sharing == (
        "pack_minutes: 60, but jobs that share may take 8 minutes: "
        "10 at most, less 2 for the session's end"
    )
    assert enough.cut_sharing == ""
    unasked = Site(name="s", cluster="slurm", gpus=gpus, max_minutes=10)
    assert unasked.cut_sharing == ""  # the default is no promise


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (SessionKey("s", "c", "g", 8, nodes=0), "nodes: 0, allowed: 1 and more"),
        (SessionKey("s", "c", "g", 7, nodes=2), "nodes: 2 for 7 gpus, allowed: a divisor of them"),
        (SessionKey("s", "c", "", 0, nodes=2), "nodes: 2, allowed: 1 without gpus"),
        (
            SessionKey("s", "", "g", 4, nodes=2),
            "nodes: 2, allowed: 1 without session_command (a job runs on one node)",
        ),
        (SessionKey("s", "c", "g", 20, nodes=2), "gpus: 20 of g, allowed: up to 16 (2 nodes)"),
        (SessionKey("s", "c", "g", 24, nodes=3), "nodes: 3 of g, allowed: up to 2"),
        (SessionKey("s", "c", "g", 9), "gpus: 9 of g, allowed: up to 8 (one node)"),
    ],
)
def test_nodes_that_cannot_be_had(key: SessionKey, why: str) -> None:
    with pytest.raises(PackingError) as error:
        check(of_key(key), SLURM)
    assert str(error.value) == why


def test_nodes_that_are_to_be_had() -> None:
    check(of_key(SessionKey("s", "c", "g", 16, nodes=2)), SLURM)
    with pytest.raises(PackingError, match="nodes: 2, allowed: 1 on this host"):
        check(of_key(SessionKey("s", "c", "g", 2, nodes=2)), site())


def of_key(key: SessionKey) -> Request:
    return Request(key, Cell("a", ["true"], Path("log"), 60), start_minutes=1)


SLURM = Site(name="s", cluster="slurm", gpus={"g": GpuClass(card="c", per_node=8, nodes=2)})
