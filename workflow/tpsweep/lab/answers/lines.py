"""The lines that answers are made from, and how a sentence names them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tpsweep.analysis.table import Record, Table, digits, model_name
from tpsweep.core.layout import Layout
from tpsweep.tables import crossover

_SUBJECT = ("site", "model", "gpu", "variant", "input_len")


@dataclass(frozen=True)
class Lines:
    """Records of ``tp_comparison``, ``communication``, ``terms`` and ``crossover``."""

    comparison: list[Record]
    captures: list[Record]
    terms: list[Record]
    crossovers: list[Record]

    @property
    def pairs(self) -> list[Record]:
        """Lines of TP=2 beside a measured TP=1, by batch: what the questions are about."""
        found = [
            line
            for line in self.comparison
            if (Layout.of(line), line["baseline_tp"]) == (Layout(tp=2), 1)
            and line["decode_speedup"] is not None
        ]
        return sorted(found, key=lambda line: (*_subject(line), line["batch"]))

    @property
    def parallel(self) -> list[Record]:
        """Measured static batches at TP=2, by batch."""
        found = [r for r in self.comparison if Layout.of(r) == Layout(tp=2) and r["runs"]]
        return sorted(found, key=lambda line: (*_subject(line), line["batch"]))

    @property
    def analysed(self) -> list[Record]:
        """Captures at TP=2 with times, by batch."""
        found = [c for c in self.captures if c["tp"] == 2 and c["transfer_ms"] is not None]
        return sorted(found, key=lambda line: (*_subject(line), line["batch"]))

    @property
    def at_equal_sequences(self) -> list[Record]:
        """Of TP=2 beside two engines of TP=1, each with half of the sequences."""
        found = [
            line
            for line in self.crossovers
            if line["metric"] == crossover.METRICS[crossover.EQUAL]
            and (line["tp_from"], line["tp_to"]) == (1, 2)
        ]
        return sorted(found, key=_subject)


def lines_of(tables: Mapping[str, Table]) -> Lines:
    """All of them, of the tables of a results folder."""
    names = ("tp_comparison", "communication", "terms", "crossover")
    return Lines(*(tables[name].records for name in names))


def by_subject(lines: Iterable[Record]) -> dict[str, list[Record]]:
    """Lines by what they are about, as a sentence begins: model, node class, how it was run."""
    found: dict[str, list[Record]] = defaultdict(list)
    for line in lines:
        found[subject(line)].append(line)
    return found


def subject(line: Record) -> str:
    """``llama on H200 (default, 512 tokens in, all-reduce custom)``."""
    how = f"{line['variant']}, {line['input_len']} tokens in, all-reduce {_backend(line)}"
    return f"{model_name(line)} on {line['gpu']} ({how})"


def span(values: Iterable[float], unit: str = "") -> str:
    """``7.2 %`` or ``6.3 to 7.2 %``: the range of some values."""
    found = sorted(values)
    texts = [digits(value) for value in (found[0], found[-1])]
    return f"{' to '.join(dict.fromkeys(texts))}{unit}"


def rate_ratio(line: Record) -> float | None:
    """Output tokens/s of a pair's TP=2 over those of its TP=1, at the same batch."""
    per_gpu = line["per_gpu_ratio"]
    return None if per_gpu is None else float(per_gpu * line["gpus"])


def _subject(line: Record) -> tuple[str, ...]:
    return (*(str(line[name]) for name in _SUBJECT), _backend(line))


def _backend(line: Record) -> str:
    return str(line["allreduce_backend"])
