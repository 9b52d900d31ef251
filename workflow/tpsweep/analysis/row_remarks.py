"""What a measured latency row says against itself: disturbed steps, and its own cross-check.

Nothing is refused for it: the value stands, and the reader knows how far to trust it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tpsweep.analysis.table import Record, digits
from tpsweep.measure import decode_steps

CROSS_CHECK = 0.01
"""TPOT by the engine's stamps and by the difference of whole calls may be this share apart."""


@dataclass(frozen=True)
class Remark:
    """``flagged``: it could explain a difference from another row."""

    subject: str
    detail: str
    flagged: bool
    why: str


def remarks(row: Record) -> Iterator[Remark]:
    """Of one row of the table ``cells``; none for a row of another workload."""
    yield from _of_steps(row)
    yield from _of_cross_check(row)


def _of_steps(row: Record) -> Iterator[Remark]:
    """Stalls and unsteady steps, judged again by today's rules where the row has its steps."""
    if not row["stalls"] and not row["unsteady"]:
        return
    unsteady, note = _judged(row)
    if unsteady:
        yield Remark("unsteady", note, flagged=True, why=_effect(row))
    elif row["stalls"]:
        yield Remark("stalls", note, flagged=False, why=_effect(row))


def _judged(row: Record) -> tuple[bool, str]:
    steps, plain = row["step_ms_samples"], row["tpot_plain_ms_samples"]
    if steps is None or plain is None or not len(plain) or len(steps) % len(plain):
        return bool(row["unsteady"]), row["steps_note"] or f"{row['stalls']} stalls"
    judged = decode_steps.judge(np.asarray(steps).reshape(len(plain), -1), list(plain))
    return judged.unsteady, "; ".join(judged.notes)


def _effect(row: Record) -> str:
    """What the disturbances do to the value, and how much of the decode they took."""
    plain, value = row["tpot_plain_ms"], row["tpot_ms"]
    if plain is None or value is None:
        return "in tpot_ms"
    return (
        f"without them {digits(value)} ms per token (tpot_ms), with them {digits(plain)}"
        f" ({100 * (plain / value - 1):+.1f} %)"
    )


def _of_cross_check(row: Record) -> Iterator[Remark]:
    check, value = row["tpot_diff_ms"], row["tpot_ms"]
    if check is None or not value or abs(check / value - 1) <= CROSS_CHECK:
        return
    yield Remark(
        "cross-check",
        f"tpot_diff_ms {digits(check)} beside tpot_ms {digits(value)}"
        f" ({100 * (check / value - 1):+.1f} %)",
        flagged=True,
        why=_explained(row),
    )


def _explained(row: Record) -> str:
    """What of the difference of whole calls is prefill, and what is disturbed steps."""
    steps = row["output_len"] - 1
    told = [f"of {steps * (row['tpot_diff_ms'] - row['tpot_ms']):+.1f} ms over {steps} steps"]
    once = row["e2e_out1_ms_samples"]
    if row["prefill_ms"] is not None and once is not None and len(once):
        longer = row["prefill_ms"] - float(np.median(once))
        told.append(f"{longer:+.1f} ms is prefill, against calls with one output token")
    if row["tpot_plain_ms"] is not None:
        left_out = steps * (row["tpot_plain_ms"] - row["tpot_ms"])
        told.append(f"{left_out:+.1f} ms is what disturbed steps took, which tpot_ms leaves out")
    return ", ".join(told)
