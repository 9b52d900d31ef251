"""Whether the kernel killed a process of this job because memory ran out. Standard library only."""

from __future__ import annotations

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def oom_kills(proc: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> int:
    """Out-of-memory kills so far in this process's control group; 0 if it has none.

    ``oom_kill`` of memory.events (cgroup v2) or of memory.oom_control (v1), see the kernel's
    admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. In a container the path of /proc may be
    that of the host, so that the file is not there: then nothing is known.
    """
    try:
        groups = [line.split(":", 2) for line in proc.read_text("utf-8").splitlines()]
    except OSError:
        return 0
    for _, controllers, path in (group for group in groups if len(group) == 3):
        below = path.lstrip("/")
        if not controllers:
            events = root / below / "memory.events"
        elif "memory" in controllers.split(","):
            events = root / "memory" / below / "memory.oom_control"
        else:
            continue
        try:
            lines = events.read_text("utf-8").splitlines()
        except OSError:
            continue
        counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
        if "oom_kill" in counts:
            return int(counts["oom_kill"])
    return 0
