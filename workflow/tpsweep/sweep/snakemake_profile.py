"""A Snakemake profile folder as the commands see it: which sweep and which site it names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tpsweep.core.errors import one_line
from tpsweep.sweep.sweep import Sweep, check_files, load_sweep

SNAKEFILE = "Snakefile"


def read_profile(profile: Path) -> dict[str, Any]:
    """The profile's config.yaml. Raises ``OSError``, ``ValueError`` (one line)."""
    if not (profile / "config.yaml").is_file():
        allowed = "allowed: a folder like cluster/<site>"
        raise ValueError(f"{profile}: not a profile, it has no config.yaml; {allowed}")
    return read_mapping(profile / "config.yaml")


def configfile_of(profile: Path) -> Path:
    """The sweep that a profile names, relative to its folder. Raises as ``read_profile``."""
    named = read_profile(profile).get("configfile")
    if not isinstance(named, str):
        file = profile / "config.yaml"
        raise ValueError(f"{file}: has no configfile; set one with --configfile")
    return profile / named


def site_of(profile: Path) -> Path:
    """The site file that the profile's executor uses. Raises as ``read_profile``."""
    named = str(read_profile(profile).get("submitit-site", "site.yaml"))
    return profile / Path(named).expanduser()


def site_in_words(words: Sequence[str]) -> str | None:
    """The ``site=`` in the ``config:`` of the profile that Snakemake's command line names; None if
    it names none, or that has none."""
    named = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, given, value = word.partition("=")
        if option == "--profile":
            named = value if given else following
    if not named or not Path(named, "config.yaml").is_file():
        return None
    entries = read_profile(Path(named)).get("config")
    found = [str(entry) for entry in entries] if isinstance(entries, list) else []
    sites = [entry.removeprefix("site=") for entry in found if entry.startswith("site=")]
    return sites[0] if sites else None


def read_sweep(site: Path, configfile: Path) -> Sweep:
    """The sweep of a config on a site, as Snakemake would see it from this folder.

    Raises ``OSError``, ``ValueError`` (``InputError`` is one), one line.
    """
    data = read_mapping(configfile)
    check_files([configfile])
    return load_sweep({**data, "site": str(site)}, Path.cwd())


def any_sweep() -> dict[str, Any]:
    """Config and site of the profile that every copy of the project has, to look at its rules."""
    profile = Path("cluster", "local")
    return {**read_mapping(configfile_of(profile)), "site": str(site_of(profile))}


def existing(site: Path) -> Path:
    """``site``, before its folder is taken for a profile. Raises ``ValueError`` (one line)."""
    if not site.is_file():
        raise ValueError(f"--site: {site}, allowed: the path of a site.yaml that exists")
    return site


def enter_project(site: Path, *paths: Path) -> list[Path]:
    """Go where relative paths of a config start; ``site`` and ``paths`` as seen from there.

    That is this folder, if it has a Snakefile; else the project that the site's profile is in.
    """
    here = Path.cwd()
    projects = [folder for folder in site.absolute().parents if (folder / SNAKEFILE).is_file()]
    if (here / SNAKEFILE).is_file() or not projects:
        return [site, *paths]
    seen = [path.absolute() for path in (site, *paths)]
    os.chdir(projects[0])
    return seen


def read_mapping(file: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ``OSError``, ``ValueError`` (one line)."""
    try:
        data = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file}: expected keys and values, found {type(data).__name__}")
    return data
