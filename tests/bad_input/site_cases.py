"""Mistakes in a site file, and sites that are not there: refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable

from tests.bad_input.case import Case, Project, Ran
from tpsweep.core.results_paths import MANIFEST
from tpsweep.sweep.manifest import write_manifest
from tpsweep.sweep.sweep import load_sweep

SITE = "cluster/local/site.yaml"
CLASS = "gpus.here"


def site(old: str, new: str) -> Callable[[Project], object]:
    """The site file's text with a piece replaced (which must be there)."""

    def edit(project: Project) -> None:
        path = project.folder / SITE
        before = path.read_text("utf-8")
        assert old in before, old
        path.write_text(before.replace(old, new, 1), "utf-8")

    return edit


def long_cells(project: Project) -> None:
    """48 hours a cell where the site has 8."""
    site("per_node: auto", "per_node: 2, max_minutes: 480")(project)
    project.set("workloads/decode/minutes", 2880)


def _account(project: Project) -> None:
    site("cluster: local", "cluster: slurm\naccount_env: NO_SUCH_ACCOUNT")(project)
    site("{card: auto, per_node: auto}", "{card: CPU, per_node: 2}")(project)
    project.set("workloads/decode/batch", [1, 2, 3])


def _python(project: Project) -> None:
    site("parallel: 1", "python: /no/such/python\nparallel: 1")(project)
    project.set("workloads/decode/batch", [1, 2, 3])


def profile_without_a_site(project: Project) -> None:
    """The profile names the site for the executor alone."""
    path = project.folder / "cluster/local/config.yaml"
    before = path.read_text("utf-8")
    line = "config:\n  - site=cluster/local/site.yaml\n"
    assert line in before
    path.write_text(before.replace(line, ""), "utf-8")


def another_site(project: Project) -> None:
    """The folder has the manifest of its rows; then the site has another name."""
    planned = load_sweep({**project.config(), "site": SITE}, project.folder).planned
    write_manifest(planned, project.results / MANIFEST)
    site("name: local", "name: other")(project)


def options(*words: str) -> Callable[[Project], Ran]:
    """The sweep's command with more words."""
    return lambda project: project.run(*words)


CASES = (
    Case(
        "site_key",
        "unknown key: site.yaml",
        f"{SITE}: parallell: 2: unknown key, allowed: name, cluster",
        site("parallel: 1", "parallell: 2"),
    ),
    Case(
        "site_class_key",
        "unknown key: site.yaml, gpus",
        f"{SITE}: {CLASS}.per_nod: 2: unknown key, allowed: card, memory_gib, per_node",
        site("per_node: auto", "per_nod: 2"),
    ),
    Case(
        "site_twice",
        "a duplicate key in site.yaml",
        f"{SITE}: parallel: '3': given twice, lines ",
        site("gpus:", "parallel: 3\ngpus:"),
    ),
    Case(
        "site_nan",
        "NaN in site.yaml",
        f"{SITE}: {CLASS}.memory_gib: nan: allowed: a finite number",
        site("per_node: auto", "per_node: 2, memory_gib: .nan"),
    ),
    Case(
        "site_name",
        "a GPU class named {x}",
        f"{SITE}: gpus.{{x}}: '{{x}}': allowed: text like ",
        site("here:", "'{x}':"),
    ),
    Case(
        "site_other",
        "another site's results folder",
        "config: results: 'results': it holds rows of site local; allowed: a folder for each site",
        another_site,
    ),
    Case(
        "site_missing",
        "a site that does not exist (site)",
        "cluster/nowhere/site.yaml: No such file or directory",
        act=options("--config", "site=cluster/nowhere/site.yaml"),
    ),
    Case(
        "site_option_missing",
        "a site that does not exist (submitit-site)",
        "cluster/nowhere/site.yaml: No such file or directory",
        act=options("--submitit-site", "cluster/nowhere/site.yaml"),
    ),
    Case(
        "site_not_given",
        "no site at all",
        "tpsweep: site: missing, allowed: the path of a site.yaml",
        profile_without_a_site,
    ),
    Case(
        "configfile_missing",
        "a config file that does not exist",
        "--configfile: nowhere.yaml: no such file, allowed: the path of a config file",
        act=options("--configfile", "nowhere.yaml"),
    ),
    Case(
        "site_account",
        "a site whose account is not set, dry run",
        "tpsweep: site local: account_env: NO_SUCH_ACCOUNT is not set, allowed: an account; export",
        _account,
        options("-n"),
    ),
    Case(
        "site_python",
        "an interpreter that does not exist, dry run",
        "tpsweep: python: /no/such/python: No such file or directory",
        _python,
        options("-n"),
    ),
    Case(
        "site_environment",
        "a command in a variable of the site",
        f"{SITE}: environment.CACHE: '$(mktemp)': allowed after $: $NAME, ",
        site("parallel: 1", "environment: {CACHE: $(mktemp)}\nparallel: 1"),
    ),
    Case(
        "site_too_small",
        "a model that no class of the site can hold",
        "tpsweep: config: models: 'tiny-llama': no class of site local that it is requested on can "
        "hold it: weights 0.0452 GB / tp 1",
        site("per_node: auto", "per_node: 2, memory_gib: 0.01"),
    ),
    Case(
        "site_too_short",
        "48 hours on a site that allows 8",
        "tpsweep: config: workloads.decode.minutes + engine_start_minutes: 2890: allowed: up to "
        "480 minutes on here of site local",
        long_cells,
    ),
)
