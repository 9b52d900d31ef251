"""``make faults``: run all faults on a private Slurm and write docs/generated/faults.md.

Run again after a failure, it repeats that fault and runs those that have no report yet.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.slurm.case import Report, judge
from tests.slurm.faults import FAULTS
from tests.slurm.lab import Lab, LabError
from tests.slurm.lab_config import LabConfig
from tests.slurm.workflow import matrix

KEPT = Path(".faults.jsonl")
OWN_SLURM = {
    # One that was killed gives ids anew, and nodes mind.
    "controller_restarted": LabConfig(),
    "forgotten_by_everybody": LabConfig(),
    "prolog_fails": LabConfig(prolog=True),
}
MOUNTS = ("disk_full", "output_disk_full", "files_appear_late")

HEADER = """\
# Faults on Slurm

Written by `make faults` on {date}: Slurm {version} on this machine, {cells} cells in {sessions}
sessions on five nodes with fake GPUs; real processes, cells that compute nothing. Each fault
strikes while the second of a session's three cells runs, unless it says otherwise. Then the same
command is run again until everything is done. The counts come from the cells' own append-only log
(begun, done, ended): *lost* cells have no output at the end, *twice* cells finished more than once,
*together* cells ran in two sessions at the same time, *rerun* cells began more than once. *rerun*
should equal *unfinished*, the cells that the fault interrupted (or that were done, and are not
wanted any more). *left* counts processes that outlived their session.

| fault | Slurm's answer | what the user saw | lost | twice | together | rerun | unfinished | left \
| seconds |
|---|---|---|---|---|---|---|---|---|---|
"""


def table(reports: Iterable[Report], version: str) -> str:
    """The reports as Markdown."""
    sessions = len({known["session"] for known in matrix().values()})
    today = datetime.now(UTC).date().isoformat()
    text = HEADER.format(date=today, version=version, cells=len(matrix()), sessions=sessions)
    for report in reports:
        fields = [report.fault, report.slurm, report.user, report.lost, report.twice]
        fields += [report.together]
        fields += [", ".join(report.rerun) or "none", ", ".join(report.cut_off) or "none"]
        fields += [report.left, f"{report.seconds:.0f}"]
        text += "| " + " | ".join(str(field).replace("|", "/") for field in fields) + " |\n"
    return text


def _judge(name: str, lab: Lab, root: Path) -> Report:
    if name not in OWN_SLURM:
        return judge(FAULTS[name], lab, root)
    with Lab(root.with_name(f"{name}-slurm"), OWN_SLURM[name]) as own:
        return judge(FAULTS[name], own, root)


def _kept() -> dict[str, Report]:
    """Good reports of an earlier, interrupted run, by name."""
    lines = KEPT.read_text("utf-8").splitlines() if KEPT.exists() else []
    return {data.pop("name"): Report(**data) for data in map(json.loads, lines)}


def main() -> int:
    """Run all faults (or those named). Write the page if all went well, else return 1."""
    names = sys.argv[1:] or list(FAULTS)
    reports: list[Report] = []
    kept = {} if sys.argv[1:] else _kept()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, Lab(Path(folder, "slurm")) as lab:
        version = lab.call("squeue", "--version").split()[-1]
        for name in names:
            if name in kept:
                reports.append(kept[name])
                continue
            root = Path(folder, name)
            root.mkdir()
            if name in MOUNTS and os.geteuid() != 0:
                print(f"SKIPPED {name}: only root can mount", flush=True)
                continue
            try:
                report = _judge(name, lab, root)
            except (AssertionError, LabError) as error:
                wrong += 1
                print(f"WRONG   {name}: {error}", flush=True)
                continue
            reports.append(report)
            wrong += not report.good
            print(f"{'good   ' if report.good else 'WRONG  '} {name} {report}", flush=True)
            if report.good:
                with KEPT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, **asdict(report)}) + "\n")
    if not wrong and names == list(FAULTS):
        Path("docs/generated/faults.md").write_text(table(reports, version), "utf-8")
        KEPT.unlink()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
