"""Medians, intervals and verdicts against values worked out by hand or by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from tpsweep.core import stats


def test_median_of_one_sample_has_no_interval() -> None:
    assert stats.median_interval([4.0]) == stats.Interval(4.0, None, None)


def test_under_six_samples_nothing_is_called_a_95_percent_interval() -> None:
    assert stats.median_interval([5.0, 3.0, 1.0, 2.0, 4.0]) == stats.Interval(3.0, None, None)
    six = stats.median_interval([5.0, 3.0, 1.0, 2.0, 4.0, 6.0])
    assert (six.value, six.lo, six.hi) == (3.5, 1.5, 5.5)


@pytest.mark.parametrize("n", [6, 8, 21, 200])
def test_interval_is_that_of_drawn_resamples(n: int) -> None:
    samples = np.random.default_rng(n).normal(10, 1, n)
    drawn = np.random.default_rng(0).choice(samples, (40_000, n))
    lo, hi = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    found = stats.median_interval(samples.tolist())
    assert found.value == np.median(samples)
    assert found.lo == pytest.approx(lo, abs=0.03 * samples.std())
    assert found.hi == pytest.approx(hi, abs=0.03 * samples.std())


def test_interval_is_repeatable_and_ignores_order() -> None:
    samples = [5.0, 3.0, 9.0, 4.0, 8.0]
    assert stats.median_interval(samples) == stats.median_interval(sorted(samples))


def test_interval_covers_the_true_median() -> None:
    rng = np.random.default_rng(7)
    intervals = [stats.median_interval(rng.exponential(1, 30).tolist()) for _ in range(1000)]
    covered = sum(i.lo <= math.log(2) <= i.hi for i in intervals if i.lo and i.hi)
    assert 920 <= covered <= 975


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_samples_without_a_median_are_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sample"):
        stats.median_interval(samples)


def test_between_runs_is_welch_on_mean_logs() -> None:
    # Logs of the run medians: 0.9, 1.0, 1.4 and 0.0, 0.1, 0.2. Variances 0.07 and 0.01, so that
    # the squared standard error is 0.08 / 3 and df = (0.08/3)^2 / ((0.07/3)^2/2 + (0.01/3)^2/2).
    baseline = [[math.exp(x)] for x in (0.9, 1.0, 1.4)]
    other = [[math.exp(x)] for x in (0.0, 0.1, 0.2)]
    df = 0.08**2 / (0.07**2 / 2 + 0.01**2 / 2)
    half = scipy.stats.t.ppf(0.975, df) * math.sqrt(0.08 / 3)
    found = stats.speedup(baseline, other)
    assert found.value == pytest.approx(math.exp(1.0))
    assert found.lo == pytest.approx(math.exp(1.0 - half))
    assert found.hi == pytest.approx(math.exp(1.0 + half))
    assert (found.kind, found.verdict) == ("between runs", "significant")


def test_runs_that_scatter_more_than_they_differ_are_not_significant() -> None:
    found = stats.speedup([[10.0], [11.0], [12.0]], [[10.0], [10.5], [11.5]])
    assert (found.kind, found.verdict) == ("between runs", "not significant")


def test_many_tight_samples_do_not_make_three_runs_significant() -> None:
    """What samples of one engine start agree on is no evidence about another start."""
    baseline = [[m, m * 1.0001, m * 0.9999] * 30 for m in (10.0, 11.0, 9.0)]
    other = [[m, m * 1.0001, m * 0.9999] * 30 for m in (9.5, 10.5, 8.5)]
    assert stats.speedup(baseline, other).verdict == stats.NOT_SIGNIFICANT


def test_two_runs_a_side_speak_of_the_session_only() -> None:
    slow, fast = [10.0, 10.1, 9.9, 10.05, 9.95, 10.1], [5.0, 5.1, 4.9, 5.05, 4.95, 5.1]
    found = stats.speedup([slow, slow], [fast, fast, fast])
    assert found.value == pytest.approx(10.025 / 5.025)
    assert found.lo is not None and found.hi is not None
    assert 1.9 < found.lo < found.value < found.hi < 2.1
    assert (found.kind, found.verdict) == ("within session", stats.DIFFERS_WITHIN)
    same = stats.speedup([slow], [slow])
    assert (same.value, same.verdict) == (1.0, stats.SAME_WITHIN)
    assert same.lo is not None and same.hi is not None and same.lo < 1 < same.hi


def test_runs_that_disagree_are_not_hidden_by_one_run_on_the_other_side() -> None:
    """As published: TP=1 in three starts, one of them 1 % faster, against one start of TP=2."""
    near = (0.9998, 0.9999, 1.0, 1.0, 1.0001, 1.0002)
    starts = [[m * part for part in near] for m in (4.917, 4.966, 4.968)]
    found = stats.speedup(starts, [[3.496 * part for part in near]])
    assert found.kind == "within session"
    assert found.lo is not None and found.hi is not None
    assert found.lo < 4.918 / 3.496 and found.hi > 4.967 / 3.496
    two = stats.median_of_runs(starts[:2])
    assert two.lo is not None and two.hi is not None
    assert two.lo < 4.918 and two.hi > 4.965


def test_few_samples_leave_it_undecided() -> None:
    found = stats.speedup([[10.0] * 9], [[5.0, 5.1, 5.1, 5.0]])
    assert (found.value, found.lo, found.hi) == (pytest.approx(10 / 5.05), None, None)
    assert found.verdict == stats.UNDECIDED


def test_equal_runs_without_spread() -> None:
    found = stats.speedup([[8.0]] * 3, [[4.0]] * 3)
    assert found.value == pytest.approx(2.0)
    assert (found.lo, found.hi, found.verdict) == (found.value, found.value, stats.SIGNIFICANT)


FIVES = [[1.00], [1.01], [0.99], [1.005], [0.995]]
SLOWER = [[2 * value for value in run] for run in FIVES]


def compare(nodes: str, others: str, runs: list[list[float]] = FIVES) -> stats.Speedup:
    """``SLOWER``, run on ``others``, against ``runs`` on ``nodes``: a letter per run."""
    return stats.speedup(stats.Side.of(SLOWER, [*others]), stats.Side.of(runs, [*nodes]))


def test_a_node_a_side_cannot_be_told_from_a_difference() -> None:
    found = compare("aaaaa", "bbbbb")
    assert (found.kind, found.verdict) == ("within session", stats.UNDECIDED)
    many = [run * 6 for run in FIVES]
    slow = [run * 6 for run in SLOWER]
    sides = stats.Side.of(slow, ["b"] * 5), stats.Side.of(many, ["a"] * 5)
    assert stats.speedup(*sides).verdict == stats.DIFFERS_NODES


def test_on_one_node_for_both_its_starts_count() -> None:
    assert compare("aaaaa", "aaaaa") == stats.speedup(SLOWER, FIVES)
    assert compare("aaaaa", "aaaaa").verdict == stats.SIGNIFICANT


def test_starts_of_one_node_count_as_one() -> None:
    found = compare("aabbc", "ddeef")
    means = [
        [[math.sqrt(1.00 * 1.01)], [math.sqrt(0.99 * 1.005)], [0.995]],
        [[2 * math.sqrt(1.00 * 1.01)], [2 * math.sqrt(0.99 * 1.005)], [1.99]],
    ]
    expected = stats.speedup(means[1], means[0])
    assert (found.lo, found.hi) == (pytest.approx(expected.lo), pytest.approx(expected.hi))
    assert compare("aabbb", "ddeee").kind == "within session"  # two nodes a side
    assert compare("aabbb", "abbcc").kind == "within session"  # not the same ones


def test_nodes_that_both_sides_ran_on_are_paired() -> None:
    """A node that is 10 % slower is so for both sides, and cancels."""
    runs = [[1.0], [1.1], [1.3]]
    other = [[2.0], [2.21], [2.6]]
    paired = stats.speedup(stats.Side.of(other, [*"abc"]), stats.Side.of(runs, [*"abc"]))
    logs = [math.log(b[0] / a[0]) for a, b in zip(runs, other, strict=True)]
    half = scipy.stats.t.ppf(0.975, 2) * np.std(logs, ddof=1) / math.sqrt(3)
    assert paired.hi == pytest.approx(math.exp(np.mean(logs) + half))
    apart = stats.speedup(stats.Side.of(other, [*"def"]), stats.Side.of(runs, [*"abc"]))
    assert apart.hi is not None and paired.hi is not None and apart.hi > 1.2 * paired.hi


@pytest.mark.parametrize(("nodes", "others"), [("aabbb", "aabbb"), ("abbbb", "aaaab")])
def test_on_the_same_two_nodes_what_a_node_does_is_taken_off(nodes: str, others: str) -> None:
    """Least squares with a column per node and one for the side."""
    luck = {"a": 1.0, "b": 1.1}
    runs = [[run[0] * luck[node]] for run, node in zip(FIVES, nodes, strict=True)]
    slow = [[run[0] * luck[node]] for run, node in zip(SLOWER, others, strict=True)]
    found = stats.speedup(stats.Side.of(slow, [*others]), stats.Side.of(runs, [*nodes]))
    design = np.array([[n == "a", n == "b", k < 5] for k, n in enumerate(others + nodes)], float)
    logs = np.log([run[0] for run in slow + runs])
    solution, squares, *_ = np.linalg.lstsq(design, logs)
    covariance = np.linalg.inv(design.T @ design) * squares[0] / 7
    half = scipy.stats.t.ppf(0.975, 7) * math.sqrt(covariance[2, 2])
    assert (found.kind, found.verdict) == ("between runs", stats.SIGNIFICANT)
    assert found.value == pytest.approx(math.exp(solution[2]))
    assert found.hi == pytest.approx(math.exp(solution[2] + half))


def test_two_starts_on_the_same_two_nodes_are_too_few() -> None:
    two = [stats.Side.of(runs[:2], ["a", "b"]) for runs in (SLOWER, FIVES)]
    assert stats.speedup(*two).kind == "within session"


def test_a_value_of_starts_on_two_nodes_has_no_interval_between_starts() -> None:
    runs = [[1.0 + 0.001 * k] * 6 for k in range(4)]
    one, two, three = (
        stats.median_of_runs(stats.Side.of(runs, [*n])) for n in ("aaaa", "aabb", "aabc")
    )
    assert (one.kind, two.kind, three.kind) == ("between runs", "within session", "between runs")


def test_nodes_must_fit_the_runs() -> None:
    with pytest.raises(ValueError, match="3 runs on 2 nodes"):
        stats.Side.of([[1.0]] * 3, ["a", "b"])
    assert stats.Side.of([[1.0]] * 3, ["a", None, "b"]).nodes is None


@pytest.mark.parametrize("bad", [[], [[]], [[1.0, 0.0]], [[-1.0]], [[math.nan]]])
def test_a_side_without_times_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"run per side|sample|positive"):
        stats.speedup(bad, [[1.0]])


def test_median_of_runs_names_its_kind() -> None:
    two = stats.median_of_runs([[1.0, 1.2, 1.1], [3.0, 3.2, 3.1]])
    assert (two.value, two.kind) == (pytest.approx(math.sqrt(1.1 * 3.1)), "within session")
    three = stats.median_of_runs([[math.exp(x)] for x in (0.9, 1.0, 1.1)])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert three.value == pytest.approx(math.e)
    assert three.hi == pytest.approx(math.exp(1 + half))
    assert three.kind == "between runs"
    assert stats.median_of_runs([[1.0, 2.0], [3.0]]).lo is None


@pytest.mark.parametrize("runs", [(3, 3), (3, 5), (8, 4)])
def test_welch_is_that_of_scipy_for_means(runs: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(runs))
    sides = [rng.normal(0, scale, n) for scale, n in zip((0.1, 0.02), runs, strict=True)]
    ends = scipy.stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    found = stats.speedup(*([[math.exp(x)] for x in side] for side in sides))
    assert found.lo == pytest.approx(math.exp(ends.low))
    assert found.hi == pytest.approx(math.exp(ends.high))
