"""``tpsweep check --site FILE``: the preflight of every class of a sweep, now, by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tpsweep.core.errors import one_line
from tpsweep.core.preflight_record import Record, record_path
from tpsweep.measure.preflight import lines
from tpsweep.sweep.snakemake_profile import (
    configfile_of,
    enter_project,
    existing,
    read_sweep,
    site_of,
)
from tpsweep.sweep.sweep import InputError


def run(site: Path, configfile: Path | None, *, as_json: bool) -> int:
    """Submit the preflights through the site's profile and print what they found.

    0 if all classes are well, 1 if one is not (or could not be looked at), 2 for bad usage.
    """
    profile = site.parent
    try:
        existing(site)
        chosen = configfile or configfile_of(profile)
        _refuse_another_site(profile, site)
        site, chosen, profile = enter_project(site, chosen, profile)
        sweep = read_sweep(site, chosen)
    except (InputError, OSError, ValueError) as error:
        print(f"tpsweep check: {one_line(error)}", file=sys.stderr)
        return 2
    names = [Path(path).stem for path in sweep.preflight_markers]
    files = {name: Path(sweep.results, record_path(name)) for name in names}
    before = {name: _version(file) for name, file in files.items()}
    command = [sys.executable, "-m", "snakemake", "--profile", str(profile)]
    command += ["--configfile", str(chosen), "--keep-going", "--forcerun", "preflight"]
    command += ["--", "preflight_all"]
    subprocess.run(command, stdout=sys.stderr, check=False)
    # An earlier record must not be taken for this run's.
    records = {n: _read(f) if _version(f) != before[n] else None for n, f in files.items()}
    found = [record for record in records.values() if record is not None]
    if as_json:
        print(json.dumps([asdict(record) for record in found], indent=1))
    else:
        print("\n".join(line for record in found for line in lines(record)))
    for name in (name for name, record in records.items() if record is None):
        print(f"tpsweep check: {name}: its preflight left no record, see above", file=sys.stderr)
    return 0 if len(found) == len(names) and all(record.ok for record in found) else 1


def _refuse_another_site(profile: Path, site: Path) -> None:
    """The executor would use the profile's site file, whatever was given."""
    named = site_of(profile)
    if named.resolve() != site.resolve():
        raise ValueError(f"--site: {site}, allowed: {named}, the site of its profile")


def _version(file: Path) -> tuple[int, int] | None:
    """Changes whenever the file is rewritten."""
    if not file.exists():
        return None
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def _read(path: Path) -> Record | None:
    try:
        return Record.read(path)
    except (OSError, ValueError):
        return None
