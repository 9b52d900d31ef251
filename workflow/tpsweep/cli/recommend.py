"""``tpsweep recommend``: which layout, how many GPUs, at what cost."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from snakemake_executor_plugin_submitit.site import SiteError, load_site
from tpsweep.analysis.recommend import text
from tpsweep.analysis.recommend.evidence import gather
from tpsweep.analysis.recommend.inputs import InputError, Inputs
from tpsweep.analysis.recommend.offers import Answer, Candidates, Offer, answer
from tpsweep.analysis.recommend.question import COST, GPUS, OBJECTIVES, Question, Traffic
from tpsweep.analysis.recommend.unmeasured import Wanted, config_of, to_measure
from tpsweep.config.load import load_config
from tpsweep.core import results_paths
from tpsweep.core.atomic import replacing
from tpsweep.core.errors import one_line
from tpsweep.plan import serve_script
from tpsweep.sweep.snakemake_profile import (
    configfile_of,
    enter_project,
    existing,
    read_mapping,
    site_of,
)

if TYPE_CHECKING:
    from tpsweep.analysis.recommend.evidence import Record


MOST_RATE = 1e6
"""Requests/s; more is a slip of the keyboard."""
HEAD = "# Written by `tpsweep recommend --measure`: "


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path, nargs="+", help="results folders; may be empty")
    parser.add_argument("--model", required=True, help="the model's name in the config")
    parser.add_argument("--rate", type=float, help="requests/s in all; without: of one engine")
    parser.add_argument(
        "--slo", help="by its name in the config, or limits: ttft_p99_ms=500,tpot_p99_ms=50"
    )
    parser.add_argument(
        "--gpus", help="node classes and the most GPUs of each: H200=4,A100; or a number for any"
    )
    parser.add_argument("--objective", choices=OBJECTIVES, help="default: cost, or gpus unpriced")
    parser.add_argument("--input-len", type=int, help="tokens of a prompt; default: as in the rows")
    parser.add_argument("--output-len", type=int, help="tokens of an answer")
    parser.add_argument("--configfile", type=Path, help="a sweep; without it the profile's")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--profile", type=Path, help="a folder like cluster/<site>")
    where.add_argument("--site", type=Path, help="a site.yaml")
    parser.add_argument(
        "--measure", type=Path, metavar="FILE", help="write a config of the cells to measure"
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


@dataclass(frozen=True)
class Found:
    """The answer, and what goes with it; ``script``: None without a site of Slurm."""

    answer: Answer
    trust: text.Trust
    cells: list[Wanted]
    config: dict[str, Any] | None
    command: str | None
    environment: dict[str, str]
    script: list[str] | None


def call(options: argparse.Namespace) -> int:
    """Print the answer. Returns 0; 1 if nothing fits; 2 (one line on stderr) for bad usage."""
    try:
        measure = options.measure.absolute() if options.measure else None
        if measure is not None:
            _check_measure(measure)
        start = _snakemake(options)
        found = _find(options)
        if measure and found.config:
            with replacing(measure) as temporary:
                head = f"{HEAD}{start} --configfile {shlex.quote(str(measure))}\n"
                temporary.write_text(head + _yaml(found.config), "utf-8")
    except (OSError, ValueError, SiteError, InputError) as error:
        print(f"tpsweep recommend: {one_line(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        print("\n".join(_lines(found, measure, start)))
    return 0 if found.answer.best else 1


def _check_measure(file: Path) -> None:
    """Raise ``InputError`` for a file that somebody else wrote."""
    if file.exists() and not (file.is_file() and file.read_text("utf-8").startswith(HEAD)):
        raise InputError(f"--measure: {file} exists, allowed: a new file, or one of this command")


def _snakemake(options: argparse.Namespace) -> str:
    """How a config is run on the site that was asked for."""
    profile = options.profile or (options.site.parent if options.site else None)
    return f"snakemake --profile {shlex.quote(str(profile)) if profile else 'cluster/<site>'}"


def _find(options: argparse.Namespace) -> Found:
    inputs = _inputs(options)
    inputs.check(options.model)
    question = _question(options, inputs)
    evidence = gather(inputs.rows, question.model, question.traffic)
    shape = inputs.shape(question.model)
    candidates = Candidates(evidence, inputs.others(question.model), inputs.classes, shape)
    found = answer(question, candidates)
    if not (found.offers or found.refused):
        allowed = f"allowed: {', '.join(inputs.classes)}" if question.most_gpus else "allowed: rows"
        raise InputError(f"{question.model}: no engine to choose from; {allowed} measured here")
    cells = to_measure(found)
    config = None
    if cells:
        entry = inputs.model_entry(question.model)
        config = config_of(cells, question, entry, inputs.given)
    used = [row for one in evidence.values() for row in one.used]
    trust = text.Trust.of(used, found.errors, best=found.best)
    command, environment, script = _start(found.best, inputs)
    return Found(found, trust, cells, config, command, environment, script)


def _inputs(options: argparse.Namespace) -> Inputs:
    folders = [path.absolute() for path in options.results]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder, allowed: a results folder, or an empty one"
            )
    site_file = configfile = None
    if options.profile is not None:
        site_file, profile = site_of(options.profile), options.profile
        configfile = options.configfile or configfile_of(profile)
    elif options.site is not None:
        site_file = existing(options.site)
        configfile = options.configfile or configfile_of(options.site.parent)
    elif options.configfile is not None:
        configfile = options.configfile
    rows, prices = _rows(folders)
    if configfile is None:
        return Inputs(rows, prices, folders)
    if site_file is not None:
        site_file, configfile = enter_project(site_file, configfile)
    # What names a site or a part of the sweep is for a run: the flags say where this is asked.
    raw = {k: v for k, v in read_mapping(configfile).items() if k not in ("site", "only")}
    config = load_config(raw, Path.cwd())
    site = load_site(site_file) if site_file else None
    return Inputs(rows, prices, folders, config, site, raw)


def _rows(folders: Sequence[Path]) -> tuple[list[Record], dict[str, float]]:
    """Measured rows and prices; an empty folder has none, and costs no import."""
    full = [folder for folder in folders if (folder / results_paths.MANIFEST).exists()]
    for folder in folders:
        if folder not in full and any(folder.glob("**/*.parquet")):
            raise InputError(
                f"{folder}: rows without {results_paths.MANIFEST}, allowed: a results folder of a"
                " sweep, or an empty one"
            )
    if not full:
        return [], {}
    from tpsweep.results.load import ResultsError, load, records

    rows: list[Record] = []
    prices: dict[str, float] = {}
    for folder in full:
        try:
            found = load(folder)
        except ResultsError as error:
            raise InputError(str(error)) from error
        rows += records(found.rows)
        for line in records(found.manifest, ["gpu", "gpu_hour_usd"]):
            if line["gpu_hour_usd"] is not None:
                prices[line["gpu"]] = line["gpu_hour_usd"]
    return rows, prices


def _question(options: argparse.Namespace, inputs: Inputs) -> Question:
    usual = inputs.traffic(options.model)
    lengths = {"input": options.input_len, "output": options.output_len}
    for name, value in lengths.items():
        if value is not None and value < 1:
            raise InputError(f"--{name}-len: {value}, allowed: 1 and more tokens")
    if usual is None and None in lengths.values():
        raise InputError(
            "--input-len, --output-len: missing, allowed: tokens; no row or config says"
        )
    traffic = Traffic(
        options.input_len or (usual.input_len if usual else 1),
        options.output_len or (usual.output_len if usual else 1),
    )
    if options.rate is not None and not 0 < options.rate <= MOST_RATE:
        raise InputError(
            f"--rate: {options.rate}, allowed: requests/s above 0, up to {MOST_RATE:g}"
        )
    most_gpus, most = _gpus(options.gpus, inputs)
    is_priced = any(known.gpu_hour_usd for known in inputs.classes.values())
    if options.objective == COST and not is_priced:
        allowed = ", ".join(name for name in OBJECTIVES if name != COST)
        raise InputError(f"--objective: cost, without `prices` in the config; allowed: {allowed}")
    objective = options.objective or (COST if is_priced else GPUS)
    slo = inputs.slo(options.slo)
    return Question(options.model, traffic, options.rate, slo, objective, most_gpus, most)


def _gpus(asked: str | None, inputs: Inputs) -> tuple[dict[str, int | None], int | None]:
    """Of ``H200=4,A100`` or ``4``."""
    if asked is None:
        return {}, None
    if asked.isdecimal() and int(asked) > 0:
        return {}, int(asked)
    found: dict[str, int | None] = {}
    for part in asked.split(","):
        name, given, number = part.strip().partition("=")
        is_number = number.isdecimal() and int(number) > 0
        if name not in inputs.classes or name in found or (given and not is_number):
            allowed = f"a number, or some of {', '.join(inputs.classes)} with =NUMBER, each once"
            raise InputError(f"--gpus: {part!r}, allowed: {allowed}")
        found[name] = int(number) if given else None
    return found, None


def _start(
    best: Offer | None, inputs: Inputs
) -> tuple[str | None, dict[str, str], list[str] | None]:
    if best is None:
        return None, {}, None
    engine = best.engine
    name = engine.model.name
    command = serve_script.vllm_serve(engine, inputs.served_model(engine.model), name)
    environment = serve_script.environment_of(engine)
    site = inputs.site
    script = None
    if site is not None and site.cluster == "slurm" and engine.gpu in site.gpus:
        script = serve_script.batch_script(engine, best.engines, command, site, os.environ)
    return command + (serve_script.FIRST_NODE if engine.nodes > 1 else ""), environment, script


def _lines(found: Found, measure: Path | None, start: str) -> Iterator[str]:
    yield from text.lines(found.answer, found.trust, found.cells)
    if found.config and measure:
        yield f"\nTo measure these cells: {start} --configfile {shlex.quote(str(measure))}"
        yield f"Then ask again with {found.config['results']} beside the results."
    elif measure:
        yield f"\nNo cell would change the answer: {measure} was not written."
    elif found.config:
        yield "\nThese cells as a config (--measure FILE writes it; then name its results, too):\n"
        yield _yaml(found.config).rstrip()
    if found.script:
        yield "\nFor sbatch:\n"
        yield from found.script
    elif found.command:
        yield "\nTo start a server:\n"
        yield from serve_script.exports(found.environment)
        yield found.command
        if found.answer.best and found.answer.best.engine.nodes > 1:
            yield serve_script.OTHER_NODES


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _as_json(found: Found) -> dict[str, Any]:
    question = found.answer.question
    slo = question.slo and {"name": question.slo.name, "limits": question.slo.by_name}
    return {
        "question": {**asdict(question), "most_gpus": dict(question.most_gpus), "slo": slo},
        "answer": text.sentence(found.answer.best) if found.answer.best else text.NOTHING,
        "offers": [_offer_json(offer) for offer in found.answer.offers],
        "refused": [{"layout": one.label, "reason": one.reason} for one in found.answer.refused],
        "measure": [{"layout": c.label, "rates": c.rates, "why": c.why} for c in found.cells],
        "measure_config": found.config,
        "trust": asdict(found.trust),
        "expected_over_measured_tpot": found.answer.errors,
        "command": found.command,
        "environment": found.environment,
        "sbatch": found.script,
    }


def _offer_json(offer: Offer) -> dict[str, Any]:
    names = ("engines", "gpus", "nodes", "rate", "headroom", "latency_at", "has_long_steps")
    engine = offer.engine
    return {
        "layout": offer.label,
        "gpu": engine.gpu,
        **engine.sizes,
        "variant": engine.variant,
        "precision": engine.precision,
        **{name: getattr(offer, name) for name in names},
        "capacity": {**asdict(offer.capacity), "is_measured": offer.capacity.is_measured},
        "usd_per_million_output_tok": offer.usd,
        "joules_per_million_output_tok": offer.joules,
        "percentiles": dict(offer.percentiles),
    }
