"""A Snakemake profile folder as the commands see it: which sweep and which site it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tpsweep.core.errors import one_line
from tpsweep.sweep.sweep import Sweep, check_files, load_sweep


def read_profile(profile: Path) -> dict[str, Any]:
    """The profile's config.yaml. Raises ``OSError``, ``ValueError`` (one line)."""
    return read_mapping(profile / "config.yaml")


def configfile_of(profile: Path) -> Path:
    """The sweep that a profile names, relative to its folder. Raises as ``read_profile``."""
    named = read_profile(profile).get("configfile")
    if not isinstance(named, str):
        file = profile / "config.yaml"
        raise ValueError(f"{file}: names no configfile; give one with --configfile")
    return profile / named


def site_of(profile: Path) -> Path:
    """The site file that the profile's executor uses. Raises as ``read_profile``."""
    return profile / str(read_profile(profile).get("submitit-site", "site.yaml"))


def read_sweep(site: Path, configfile: Path) -> Sweep:
    """The sweep of a config on a site, as Snakemake would see it from this folder.

    Raises ``OSError``, ``ValueError`` (``InputError`` is one), one line.
    """
    data = read_mapping(configfile)
    check_files([configfile])
    return load_sweep({**data, "site": str(site)}, Path.cwd())


def read_mapping(file: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ``OSError``, ``ValueError`` (one line)."""
    try:
        data = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file}: expected keys and values, found {type(data).__name__}")
    return data
