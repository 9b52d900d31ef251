"""docs/reference.md from the data: ``python -m tpsweep.lab.reference.page > docs/reference.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tabulate import tabulate

from tpsweep.analysis.table import escape
from tpsweep.lab.reference import SHIPPED
from tpsweep.lab.reference.checks import CHECKS, Finding, examine
from tpsweep.lab.reference.reading import Reference, read_reference

_BEGIN = """\
# Published values of others

<!-- Made by `python -m tpsweep.lab.reference.page > docs/reference.md`; edit the data instead. -->

Values that others published, for comparison. They are shipped as published in
`workflow/tpsweep/lab/reference/data/`; nothing in this project is fitted to them.

    tpsweep report results --reference          # add them to tables and page
    tpsweep reference                           # check them for inconsistencies (exit code 1)
    tpsweep reference FILE.csv                  # check another data set (also with --json)

Another data set is a CSV file with the columns of `pace.csv`, and a YAML file of the same name
beside it with the keys of `pace.yaml`. Metrics: `batch_latency` (ms, of the whole static batch),
`per_token_latency` (ms), `throughput` (tok/s, output tokens), `offline_throughput` (req/s),
`ttft_p50`, `itl_p50` (ms). A `request_rate` of `inf` means that all requests are sent at once; a
served value without a rate is set beside no cell. What depends on the output length is compared at
the published one: static batches are recomputed as prefill + (output tokens - 1) x TPOT, anything
else of another length, or of one that is not stated, gets no ratio."""
_CHECKS = """\
## What does not hold together

The checks (`workflow/tpsweep/lab/reference/checks/`) know metrics, cards and arithmetic, and no
data set. They say which values cannot all be right, not which one is wrong."""


def markdown(reference: Reference) -> str:
    """The page: what the data set is, what the checks find in it, and all its figures."""
    findings = examine(reference)
    parts = [
        _BEGIN,
        f"## {escape(reference.title)}",
        f"Source: {escape(reference.source)}.",
        escape(reference.about),
        _CHECKS,
        *(part for name in CHECKS for part in _check(name, findings)),
        "## The figures",
        _figures(reference),
    ]
    return "\n\n".join(parts) + "\n"


def _check(name: str, findings: list[Finding]) -> Iterator[str]:
    question, _ = CHECKS[name]
    said = [f"- {escape(finding.says)}" for finding in findings if finding.check == name]
    yield f"**{question}** (`{name}`)"
    yield "\n".join(said) if said else "Nothing found."


def _figures(reference: Reference) -> str:
    headings = ("table", "model", "node class", "TP", "batch", "load", "metric", "value", "note")
    lines = [
        (
            one.table,
            one.model,
            f"{one.gpu}, {one.node} node" if one.node else one.gpu,
            one.tp,
            one.batch or "",
            one.load,
            one.metric,
            f"{one.value:g} {one.unit}",
            one.note or "",
        )
        for one in reference.figures
    ]
    return tabulate(lines, headers=headings, tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    sys.stdout.write(markdown(read_reference(SHIPPED)))
