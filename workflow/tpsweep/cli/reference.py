"""``tpsweep reference``: what a reference data set is, and what in it does not hold together."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tpsweep.lab.reference import SHIPPED
from tpsweep.lab.reference.checks import CHECKS, Finding, examine
from tpsweep.lab.reference.figure import Figure
from tpsweep.lab.reference.reading import (
    ALL_AT_ONCE,
    Reference,
    ReferenceDataError,
    read_reference,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "data",
        type=Path,
        nargs="?",
        default=SHIPPED,
        help="a .csv; default: the data set shipped with tpsweep",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.data, as_json=options.json)


def run(path: Path, *, as_json: bool) -> int:
    """Print findings on stdout. Returns 1 if there are any, 0 if not, 2 for an unusable file."""
    try:
        reference = read_reference(path)
    except ReferenceDataError as error:
        print(f"tpsweep reference: {error}", file=sys.stderr)
        return 2
    findings = examine(reference)
    if as_json:
        print(json.dumps(_document(reference, findings), indent=1))
    else:
        print("\n".join(_lines(reference, findings)))
    return 1 if findings else 0


def _document(reference: Reference, findings: list[Finding]) -> dict[str, object]:
    return {
        "name": reference.name,
        "title": reference.title,
        "about": reference.about,
        "source": reference.source,
        "figures": [_figure(figure) for figure in reference.figures],
        "checks": {name: question for name, (question, _) in CHECKS.items()},
        "findings": [
            {**asdict(finding), "figures": [_figure(figure) for figure in finding.figures]}
            for finding in findings
        ],
    }


def _figure(figure: Figure) -> dict[str, object]:
    """JSON has no infinity: the rate is written as in the data set."""
    at_once = figure.request_rate is not None and math.isinf(figure.request_rate)
    return asdict(figure) | ({"request_rate": ALL_AT_ONCE} if at_once else {})


def _lines(reference: Reference, findings: list[Finding]) -> Iterator[str]:
    yield reference.title
    yield f"Source: {reference.source}"
    yield reference.about
    yield f"{len(reference.figures)} figures, {len(findings)} findings of {len(CHECKS)} checks."
    for name, (question, _) in CHECKS.items():
        of_check = [finding for finding in findings if finding.check == name]
        yield ""
        yield f"{name}: {question} {'' if of_check else 'Nothing found.'}".rstrip()
        for finding in of_check:
            yield f"  - {finding.says}"
