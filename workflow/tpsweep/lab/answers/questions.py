"""The four written questions of the lab, each answered in sentences with numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tpsweep.analysis.table import Record, digits
from tpsweep.lab.answers.lines import Lines, by_subject, rate_ratio

HALVING = "Does TP=2 reduce decode latency by exactly 2x?"
SHARE = "What share of decode time is all-reduce, and when does it grow?"
CROSSOVER = "At what batch size does TP=2 beat TP=1?"
NVLINK = "How much of NVLink's bandwidth does an all-reduce use?"
NO_PAIR = "Not measured: needs latency cells at TP=1 and TP=2 of the same batch."
UNDECIDED = "undecided"
NO_CAPTURE = "Not measured: needs a capture at TP=2."


@dataclass(frozen=True)
class Answer:
    """A question and its sentences, one per model, node class and way to run it."""

    question: str
    sentences: tuple[str, ...]


def answer_questions(lines: Lines) -> list[Answer]:
    """All four, in the order of the lab."""
    return [
        Answer(HALVING, tuple(_halving(lines)) or (NO_PAIR,)),
        Answer(SHARE, tuple(_share(lines)) or (NO_CAPTURE,)),
        Answer(CROSSOVER, tuple(_crossover(lines)) or (NO_PAIR,)),
        Answer(NVLINK, tuple(_nvlink(lines)) or (NO_CAPTURE,)),
    ]


def _halving(lines: Lines) -> Iterator[str]:
    for name, pairs in by_subject(lines.pairs).items():
        each = "; ".join(
            f"at batch {line['batch']} {digits(line['decode_speedup'])} times as fast"
            f" ({_spread(line)})"
            for line in pairs
        )
        yield f"{name}: {each}; 2 would be exact halving. {_why(lines, name)}"


def _spread(line: Record) -> str:
    if line["decode_speedup_starts"]:
        return str(line["decode_speedup_starts"])
    lo, hi = line["decode_speedup_lo"], line["decode_speedup_hi"]
    return f"{digits(lo)} to {digits(hi)}, {line['decode_speedup_kind']}"


def _why(lines: Lines, name: str) -> str:
    known = [one for one in lines.terms if one["scaling_ms"] is not None and one["tp"] == 2]
    found = by_subject(known).get(name)
    if not found:
        return "What the rest is was not measured: needs captures at TP=1 and TP=2."
    one = min(found, key=lambda line: (line["batch"], str(line["profiler_ran"])))
    return (
        f"Of the {digits(one['decode_ms'])} ms at batch {one['batch']} and TP=2,"
        f" {digits(one['scaling_ms'])} ms are what TP divides, {digits(one['fixed_ms'])} ms"
        f" ({digits(one['fixed_ms_lo'])} to {digits(one['fixed_ms_hi'])}) what it does not,"
        f" {digits(one['communication_ms'])} ms communication.{_doubts(found)}"
    )


def _doubts(found: list[Record]) -> str:
    """At which batches the captures show another part that TP does not divide."""
    unlike = {line["batch"] for line in found if line["agrees"] is False}
    if not unlike:
        return ""
    return (
        f" At batch {_list(unlike)} the captures disagree with such a split: there its cause is not"
        " known."
    )


def _share(lines: Lines) -> Iterator[str]:
    for name, captures in by_subject(lines.analysed).items():
        each = "; ".join(_one_share(line) for line in _first_profiler(captures))
        yield f"{name}: {each}. {_growth(captures)}"


def _one_share(line: Record) -> str:
    share, what = line["transfer_fraction"], "of the decode time"
    if share is None:
        share, what = line["transfer_fraction_profiled"], "of the profiled step"
    return (
        f"at batch {line['batch']} {100 * share:.1f} % {what}"
        f" ({line['all_reduce_per_step']} all-reduces, together {digits(line['transfer_ms'])} ms)"
    )


def _growth(captures: list[Record]) -> str:
    shares = {
        line["batch"]: line["transfer_fraction"] or line["transfer_fraction_profiled"]
        for line in _first_profiler(captures)
    }
    if len(shares) < 2:
        return "When it grows was not measured: needs captures at several batches."
    low, high = min(shares), max(shares)
    word = "grows" if shares[high] > shares[low] else "does not grow"
    return f"From batch {low} to {high} it {word}."


def _crossover(lines: Lines) -> Iterator[str]:
    split = by_subject(lines.at_equal_sequences)
    for name, pairs in by_subject(lines.pairs).items():
        yield f"{name}: {_at_equal_sequences(split.get(name, []))} {_at_equal_batch(pairs)}"


def _at_equal_sequences(found: list[Record]) -> str:
    """On the same GPUs with as many users: what decides between TP=2 and two replicas."""
    known = [line for line in found if line["observed"]]
    if not known:
        return (
            "at equal sequences per node not known: needs TP=2 at a batch and TP=1 at half of it."
        )
    told = "; ".join(
        f"{line['observed']} (tokens/s of TP=2 / two TP=1, by sequences: {line['ratios']})"
        + ("" if line["crossover"] == UNDECIDED else f"; significant: {line['crossover']}")
        for line in known
    )
    return f"by sequences per node, beside two TP=1 engines with half of them each, {told}."


def _at_equal_batch(pairs: list[Record]) -> str:
    ratios = {line["batch"]: rate_ratio(line) for line in pairs}
    known = {batch: ratio for batch, ratio in ratios.items() if ratio is not None}
    faster = [batch for batch, ratio in known.items() if ratio > 1]
    return (
        "At equal batch, with twice the GPUs, TP=2 gives more tokens per second at batch"
        f" {_list(faster)} (measured: {_list(known)})."
    )


def _nvlink(lines: Lines) -> Iterator[str]:
    decode = by_subject(line for line in lines.parallel if line["nvlink_decode_gb_s"] is not None)
    for name, captures in by_subject(lines.analysed).items():
        known = [c for c in _first_profiler(captures) if c["link_share"] is not None]
        if not known:
            yield f"{name}: not measured: needs a link of class NV and an unfused all-reduce."
            continue
        each = "; ".join(
            f"at batch {line['batch']} {digits(line['busbw_gb_s'])} GB/s,"
            f" {100 * line['link_share']:.1f} % of the link's peak in one direction"
            for line in known
        )
        yield f"{name}, during a decode all-reduce: {each}.{_over_the_decode(decode.get(name))}"


def _over_the_decode(found: list[Record] | None) -> str:
    """What the link carries while tokens are generated, all-reduce or not."""
    if not found:
        return ""
    ends = [found[0], found[-1]] if len(found) > 1 else found
    each = " to ".join(
        f"{digits(line['nvlink_decode_gb_s'])} GB/s"
        + (
            ""
            if line["nvlink_decode_share"] is None
            else f" ({100 * line['nvlink_decode_share']:.2g} %)"
        )
        + f" at batch {line['batch']}"
        for line in ends
    )
    return f" Over the whole decode, without a profiler: {each}."


def _first_profiler(captures: list[Record]) -> list[Record]:
    """One capture per batch: of several profilers nsys, which stretches a step least."""
    found: dict[int, Record] = {}
    for line in sorted(captures, key=lambda line: (line["batch"], str(line["profiler_ran"]))):
        found.setdefault(line["batch"], line)
    return list(found.values())


def _list(batches: Iterable[int]) -> str:
    return ", ".join(str(batch) for batch in sorted(batches)) or "none"
