"""The batch scripts of sessions, whether they are submitted or only shown."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from pathlib import Path

from ..flags import SlurmParameters
from ..packing import Session
from ..site import Site
from .submission import script

DEFAULT_ARRAY_SIZE = 1001
"""Slurm's own default of MaxArraySize."""
BatchScript = tuple[str, list[Session]]
"""A script, and the sessions that are its array's elements."""


def batch_scripts(
    sessions: Iterable[tuple[Session, SlurmParameters]],
    site: Site,
    logdir: Path,
    array_size: int | None = None,
) -> list[BatchScript]:
    """One script for each array of ``sessions``: of equal parameters, as large as the site takes.

    ``array_size`` is the cluster's MaxArraySize (None: the site's, or Slurm's default). Nothing is
    written or submitted.
    """
    most = largest_array(array_size or site.max_array_size or DEFAULT_ARRAY_SIZE)
    most = min(most, site.submit_limit() or most)
    groups: dict[SlurmParameters, list[Session]] = {}
    for session, parameters in sessions:
        groups.setdefault(parameters, []).append(session)
    found = []
    for parameters, group in groups.items():
        for start in range(0, len(group), most):
            chunk = group[start : start + most]
            name = new_name(Path.cwd())
            text = script(logdir / name, name, parameters, len(chunk), site.parallel)
            found.append((text, chunk))
    return found


def largest_array(max_array_size: int) -> int:
    """Elements of the largest array: MaxArraySize is one more than the highest index.

    1 or 0 leaves jobs without arrays.
    """
    return max(max_array_size - 1, 1)


def new_name(workdir: Path) -> str:
    """A name for an array that no other has: by it Slurm is asked what was submitted."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", workdir.name)[:32].strip("._-")
    return f"{readable or 'snakemake'}-{uuid.uuid4().hex[:8]}"
