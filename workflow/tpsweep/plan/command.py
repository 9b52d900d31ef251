"""``tpsweep plan``: reads config and site, prints the plan; submits and writes nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.site import SiteError
from tpsweep.plan.plan import make_plan
from tpsweep.plan.text import text
from tpsweep.profile import configfile_of, read_sweep, site_of
from tpsweep.refusals import refuse_times
from tpsweep.sweep import Sweep


@dataclass(frozen=True)
class Where:
    """What to plan: a config on a site. A profile names both; a site file has a profile beside it
    that names the config. ``qos``: another one of the site's."""

    configfile: Path | None
    profile: Path | None
    site: Path | None
    qos: str | None


def run(where: Where, *, as_json: bool) -> int:
    """Print the plan: 0, or 2 for what is not usable, with one line on stderr."""
    try:
        plan = make_plan(_sweep(where))
    except (OSError, ValueError) as error:
        print(f"tpsweep plan: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(plan.as_json(), indent=1) if as_json else text(plan), end="")
    return 0


def _sweep(where: Where) -> Sweep:
    if where.profile is not None:
        site, profile = site_of(where.profile), where.profile
    elif where.site is not None:
        site, profile = where.site, where.site.parent
    else:
        raise ValueError(
            "--profile: missing, allowed: a folder like cluster/<site>, or --site FILE"
        )
    sweep = read_sweep(site, where.configfile or configfile_of(profile))
    if where.qos is None:
        return sweep
    try:
        site_of_qos = sweep.site.with_qos(where.qos)
    except SiteError as error:
        raise ValueError(f"--{error}") from error
    refuse_times(sweep.config, site_of_qos, sweep.planned)
    return dataclasses.replace(sweep, site=site_of_qos)
