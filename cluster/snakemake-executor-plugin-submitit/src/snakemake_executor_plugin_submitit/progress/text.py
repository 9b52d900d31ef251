"""Progress in words: pure. ASCII, so that a character is a column."""

from __future__ import annotations

from .estimate import Estimate, session_time_left, time_left
from .model import Model, SessionProgress, State

MOST_LINES = 8
"""Of the block on a terminal."""
NAME_WIDTHS = 16, 44
"""Of a session, in columns: what the rest of its line leaves, within these."""
REST_WIDTH = 54


def duration(seconds: float) -> str:
    """For people: ``45 s``, ``4 min 10 s``, ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def time_left_text(estimate: Estimate) -> str:
    """No finer than it is known."""
    if estimate.seconds is None:
        return "time left unknown"
    word = "at least" if estimate.is_least else "about"
    minutes = round(estimate.seconds / 60)
    if estimate.seconds < 90:
        return f"{word} {max(10, round(estimate.seconds, -1)):.0f} s left"
    if minutes < 90:
        return f"{word} {minutes} min left"
    return f"{word} {minutes // 60} h {minutes % 60} min left"


def total_line(model: Model, now: float) -> str:
    """Jobs, sessions and the time left, of all that this run was handed."""
    parts = [_jobs(model), _sessions(model)]
    if model.left:
        parts.append(time_left_text(time_left(model, now)))
    return "submitit: " + "; ".join(part for part in parts if part)


def last_line(model: Model, took_s: float) -> str:
    """At the end, whatever it came to."""
    return f"submitit: {_jobs(model)}; {duration(took_s)}"


def ended_line(session: SessionProgress, now: float) -> str:
    """Of a session that has ended."""
    counts = [f"{session.jobs} job{'' if session.jobs == 1 else 's'}"]
    counts += [f"{session.done} done"] if session.done else []
    counts += [f"{session.failed} failed"] if session.failed else []
    if session.is_reattached:
        counts.append("of those that this run was handed")
    elif session.started_at is not None:
        counts.append(duration(now - session.started_at))
    return f"session {session.name}: {', '.join(counts)}"


def block(model: Model, now: float, columns: int, rows: int = MOST_LINES) -> list[str]:
    """The total, then the sessions that run, in at most ``rows`` lines; none without jobs left."""
    if not model.left:
        return []
    lines = _wrapped(total_line(model, now), columns)
    running = [one for one in model.sessions.values() if one.state is State.RUNNING]
    room = max(0, rows - len(lines))
    shown = running if len(running) <= room else running[: max(0, room - 1)]
    least, most = NAME_WIDTHS
    names = [_cut(one.name, max(least, min(most, columns - REST_WIDTH))) for one in shown]
    width = max((len(name) for name in names), default=0)
    for name, session in zip(names, shown, strict=True):
        lines.append(f"  {name:<{width}}  {_session(model, session, now)}")
    if room and len(running) > len(shown):
        lines.append(f"  and {len(running) - len(shown)} more")
    return [line[:columns] for line in lines[:rows]]


def _wrapped(line: str, columns: int) -> list[str]:
    """On more lines where it is too long for one, each part whole."""
    lines: list[str] = []
    for part in line.split("; "):
        if lines and len(lines[-1]) + 2 + len(part) <= columns:
            lines[-1] += f"; {part}"
        else:
            lines.append(part if not lines else f"  {part}")
    return lines


def _session(model: Model, session: SessionProgress, now: float) -> str:
    failed = f", {session.failed} failed" if session.failed else ""
    parts = [f"{session.done} of {session.jobs} done{failed}"]
    if session.started_at is not None:
        is_starting = session.is_starting and not session.took.count
        word = "starts" if is_starting else "runs"
        parts.append(f"{word} for {duration(now - session.started_at)}")
    estimate = session_time_left(model, session, now)
    if estimate.seconds is not None:
        parts.append(time_left_text(estimate))
    return "; ".join(parts)


def _cut(name: str, width: int) -> str:
    """A long name without its middle: its end tells sessions of one name apart."""
    tail = 10
    return name if len(name) <= width else f"{name[: width - tail - 2]}..{name[-tail:]}"


def _jobs(model: Model) -> str:
    failed = f", {model.failed} failed" if model.failed else ""
    left = f", {model.left} left" if model.left else ""
    return f"{model.done} of {model.jobs} jobs done{failed}{left}"


def _sessions(model: Model) -> str:
    if model.running:
        plural = "" if model.running == 1 else "s"
        waiting = f", {model.waiting} waiting" if model.waiting else ""
        return f"{model.running} session{plural} running{waiting}"
    if model.waiting:
        return f"{model.waiting} session{'' if model.waiting == 1 else 's'} waiting"
    return ""
