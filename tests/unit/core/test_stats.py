"""Medians, intervals and verdicts against values worked out by hand or by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from tpsweep.core import stats

DF = np.concatenate([np.geomspace(2, 1e6, 500), np.arange(2, 200)])


def test_median_of_one_sample_has_no_interval() -> None:
    assert stats.median_interval([4.0]) == stats.Interval(4.0, None, None)


def test_interval_of_two_samples_spans_both() -> None:
    # A resample of two has both equal with probability 1/4 a side: each end is a sample.
    assert stats.median_interval([2.0, 1.0]) == stats.Interval(1.5, 1.0, 2.0)


@pytest.mark.parametrize("n", [3, 8, 21, 200])
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


def test_between_runs_is_welch_on_logs_widened_for_the_median() -> None:
    # Logs of the run medians: 0.9, 1.0, 1.1 and 0.0, 0.1, 0.2. Both variances 0.01, df 4,
    # t = 2.7764, standard error sqrt(0.01/3 + 0.01/3) = 0.08165.
    baseline = [[math.exp(x)] for x in (0.9, 1.0, 1.1)]
    other = [[math.exp(x)] for x in (0.0, 0.1, 0.2)]
    half = 2.7764 * math.sqrt(0.02 / 3) * math.sqrt(math.pi / 2)
    found = stats.speedup(baseline, other)
    assert found.value == pytest.approx(math.exp(0.9))
    assert found.lo == pytest.approx(math.exp(0.9 - half))
    assert found.hi == pytest.approx(math.exp(0.9 + half))
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
    slow, fast = [10.0, 10.1, 9.9, 10.05], [5.0, 5.1, 4.9, 5.05]
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
    starts = [[m * 0.9999, m, m * 1.0001] for m in (4.917, 4.966, 4.968)]
    found = stats.speedup(starts, [[3.4955, 3.496, 3.4965]])
    assert found.kind == "within session"
    assert found.lo is not None and found.hi is not None
    assert found.lo < 4.918 / 3.496 and found.hi > 4.967 / 3.496
    two = stats.median_of_runs(starts[:2])
    assert two.lo is not None and two.hi is not None
    assert two.lo < 4.918 and two.hi > 4.965


def test_single_samples_leave_it_undecided() -> None:
    found = stats.speedup([[10.0]], [[5.0, 5.1]])
    assert (found.value, found.lo, found.hi) == (pytest.approx(10 / 5.05), None, None)
    assert found.verdict == stats.UNDECIDED


def test_equal_runs_without_spread() -> None:
    found = stats.speedup([[8.0]] * 3, [[4.0]] * 3)
    assert (found.value, found.lo, found.hi, found.verdict) == (2.0, 2.0, 2.0, stats.SIGNIFICANT)


@pytest.mark.parametrize(("runs", "spread"), [(3, 0.01), (5, 0.05)])
def test_null_experiments_are_seldom_significant(runs: int, spread: float) -> None:
    rng = np.random.default_rng(runs)
    sides = np.exp(rng.normal(0, spread, (1000, 2, runs, 1)))
    found = [stats.speedup(list(a), list(b)).verdict for a, b in sides]
    assert 5 <= found.count(stats.SIGNIFICANT) <= 50


@pytest.mark.parametrize("bad", [[], [[]], [[1.0, 0.0]], [[-1.0]], [[math.nan]]])
def test_a_side_without_times_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"run per side|sample|positive"):
        stats.speedup(bad, [[1.0]])


def test_median_of_runs_names_its_kind() -> None:
    two = stats.median_of_runs([[1.0, 1.2, 1.1], [3.0, 3.2, 3.1]])
    assert (two.value, two.kind) == (pytest.approx(2.1), "within session")
    three = stats.median_of_runs([[math.exp(x)] for x in (0.9, 1.0, 1.1)])
    half = 4.3027 * 0.1 / math.sqrt(3) * math.sqrt(math.pi / 2)
    assert three.value == pytest.approx(math.e)
    assert three.hi == pytest.approx(math.exp(1 + half))
    assert three.kind == "between runs"
    assert stats.median_of_runs([[1.0, 2.0], [3.0]]).lo is None


def test_student_quantile_is_never_too_narrow() -> None:
    assert [stats.t_975(df) for df in (2, 4, 120)] == [4.3027, 2.7764, 1.9799]
    found = np.array([stats.t_975(df) for df in DF])
    exact = scipy.special.stdtrit(DF, 0.975)
    assert np.all(found > exact * (1 - 2.5e-5))  # four digits
    assert np.all(found < exact * 1.017)


@pytest.mark.parametrize("runs", [(3, 3), (3, 5), (8, 4)])
def test_welch_is_that_of_scipy_for_means(runs: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(runs))
    sides = [rng.normal(0, scale, n) for scale, n in zip((0.1, 0.02), runs, strict=True)]
    ends = scipy.stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    of_means = (ends.high - ends.low) / 2
    found = stats.speedup(*([[math.exp(x)] for x in side] for side in sides))
    assert found.hi is not None
    widened = math.log(found.hi / found.value) / math.sqrt(math.pi / 2)
    assert of_means * (1 - 2.5e-5) < widened < of_means * 1.017
