"""The ``tpsweep`` command: what the Snakefile's rules and people call.

Messages go to stderr, results to stdout or files. Exit code 0: done; 1: found something wrong;
2: bad usage (one line that names the key, the value and what is allowed).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="tpsweep", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    manifest = commands.add_parser("manifest", help="write the manifest of a sweep")
    manifest.add_argument("sweep", help="config and site as JSON")
    manifest.add_argument("output", type=Path)
    manifest.set_defaults(run=_manifest)

    model = commands.add_parser("model", help="make a model folder of a shape, for dummy weights")
    model.add_argument("shape", type=Path, help="a config.json")
    model.add_argument("folder", type=Path)
    model.set_defaults(run=_model)

    fetch = commands.add_parser("fetch", help="bring a hub model's files to this machine")
    fetch.add_argument("request", help="the model as JSON")
    fetch.add_argument("marker", type=Path, help="written when the files are there")
    fetch.set_defaults(run=_fetch)

    tables = commands.add_parser("tables", help="make the tables of a results folder")
    tables.add_argument("results", type=Path)
    tables.set_defaults(run=_tables)

    figures = commands.add_parser("figures", help="draw the figures of a results folder as files")
    figures.add_argument("results", type=Path)
    figures.set_defaults(run=_figures)

    page = commands.add_parser("page", help="make the page of a results folder")
    page.add_argument("results", type=Path)
    page.set_defaults(run=_page)

    report = commands.add_parser("report", help="make tables and page of one or more folders")
    report.add_argument("results", type=Path, nargs="+", metavar="DIR")
    report.add_argument("--output", type=Path, help="folder for them; needed for several DIR")
    report.add_argument(
        "--reference",
        type=Path,
        nargs="?",
        const=True,
        metavar="CSV",
        help="own figures beside published ones; without CSV those that are shipped",
    )
    report.set_defaults(run=_report)

    compare = commands.add_parser("compare", help="two results folders, cell by cell")
    compare.add_argument("a", type=Path, metavar="A")
    compare.add_argument("b", type=Path, metavar="B")
    compare.add_argument(
        "--across",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of the identity in which A and B may differ, such as vllm_version",
    )
    compare.add_argument("--json", action="store_true", help="on stdout, for programs")
    compare.set_defaults(run=_compare)

    reference = commands.add_parser("reference", help="what in published figures does not fit")
    reference.add_argument("data", type=Path, nargs="?", help="a .csv; default: what is shipped")
    reference.add_argument("--json", action="store_true", help="on stdout, for programs")
    reference.set_defaults(run=_reference)

    check = commands.add_parser("check", help="the state of a results folder, or of a site")
    what = check.add_mutually_exclusive_group()
    what.add_argument("results", type=Path, nargs="?", default=Path("results"))
    what.add_argument("--site", type=Path, help="a site.yaml: run the preflight of its classes")
    check.add_argument("--configfile", type=Path, help="with --site: another sweep")
    check.add_argument("--json", action="store_true", help="on stdout, for programs")
    check.set_defaults(run=_check)

    plan = commands.add_parser("plan", help="what a sweep will run, what it costs, what to expect")
    plan.add_argument("--configfile", type=Path, help="the sweep; without it that of the profile")
    where = plan.add_mutually_exclusive_group()
    where.add_argument("--profile", type=Path, help="a folder like cluster/<site>")
    where.add_argument("--site", type=Path, help="a site.yaml")
    plan.add_argument("--qos", help="another QOS of the site than its default")
    plan.add_argument("--explain", metavar="MODEL", help="instead: how TP splits this model")
    plan.add_argument("--tp", type=int, help="with --explain: over how many GPUs")
    plan.add_argument("--batch", type=int, default=1, help="with --explain: sequences of a step")
    plan.add_argument("--dtype", help="with --explain: of weights; without it the model's own")
    plan.add_argument("--json", action="store_true", help="on stdout, for programs")
    plan.set_defaults(run=_plan)

    comm = commands.add_parser("comm", help="where a profiler capture says the time went")
    comm.add_argument(
        "capture",
        type=Path,
        nargs="+",
        help=".nsys-rep, .qdstrm or .sqlite (.xz) of nsys; torch traces of all ranks, or their"
        " folder; or the row (.parquet) of a capture cell",
    )
    comm.add_argument("--model", type=Path, help="the model's config.json, if there is no sidecar")
    comm.add_argument("--latency", type=Path, help="row (.parquet) of the matching latency cell")
    comm.add_argument("--output", type=Path, help="write the report here as JSON, too")
    comm.add_argument("--timeline", type=Path, help="write a picture of a decode step here (SVG)")
    comm.add_argument("--json", action="store_true", help="on stdout, for programs")
    comm.set_defaults(run=_comm)

    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _manifest(options: argparse.Namespace) -> int:
    from tpsweep.sweep.manifest import write_manifest
    from tpsweep.sweep.sweep import InputError, load_sweep

    try:
        sweep = load_sweep(json.loads(options.sweep), Path.cwd())
    except InputError as error:
        return _refuse(error)
    try:
        write_manifest(
            sweep.planned,
            options.output,
            sweep.raw,
            sweep.config.shapes,
            sweep.config.settings.prices,
        )
    except OSError as error:
        return _refuse(f"{options.output}: {error.strerror or error}")
    return 0


def _model(options: argparse.Namespace) -> int:
    from tpsweep.perfmodel.model_shape import make_model_folder

    try:
        make_model_folder(options.shape, options.folder)
    except (OSError, ValueError) as error:
        return _refuse(error)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from tpsweep.sweep.download import FetchError, Request, fetch, write_marker

    request = Request.from_json(options.request)
    try:
        folder = fetch(request)
    except FetchError as error:
        return _refuse(error)
    write_marker(request, folder, options.marker)
    return 0


def _tables(options: argparse.Namespace) -> int:
    from tpsweep.cli import tables

    return tables.run(options.results)


def _figures(options: argparse.Namespace) -> int:
    from tpsweep.cli import figures

    return figures.run(options.results)


def _page(options: argparse.Namespace) -> int:
    from tpsweep.cli import page

    return page.run(options.results)


def _report(options: argparse.Namespace) -> int:
    from tpsweep.cli import report
    from tpsweep.lab.reference import SHIPPED

    reference = SHIPPED if options.reference is True else options.reference
    return report.run(options.results, options.output, reference)


def _compare(options: argparse.Namespace) -> int:
    from tpsweep.cli import compare

    return compare.run(options.a, options.b, as_json=options.json, across=options.across)


def _reference(options: argparse.Namespace) -> int:
    from tpsweep.cli import reference
    from tpsweep.lab.reference import SHIPPED

    return reference.run(options.data or SHIPPED, as_json=options.json)


def _check(options: argparse.Namespace) -> int:
    from tpsweep.cli import check, check_site

    if options.site is not None:
        return check_site.run(options.site, options.configfile, as_json=options.json)
    if options.configfile is not None:
        return _refuse(ValueError("--configfile: only with --site"))
    return check.run(options.results, as_json=options.json)


def _plan(options: argparse.Namespace) -> int:
    from tpsweep.cli import plan

    if options.explain is not None:
        asked = plan.Asked(options.explain, options.tp, options.batch, options.dtype)
        return plan.explain(asked, options.configfile, as_json=options.json)
    if options.tp is not None:
        return _refuse("--tp: only with --explain")
    where = plan.Where(options.configfile, options.profile, options.site, options.qos)
    return plan.run(where, as_json=options.json)


def _comm(options: argparse.Namespace) -> int:
    from tpsweep.cli import comm

    wanted = comm.Wanted(options.latency, options.output, options.timeline)
    return comm.run(options.capture, options.model, options.json, wanted)


def _refuse(error: Exception | str) -> int:
    print(f"tpsweep: {error}", file=sys.stderr)
    return 2
