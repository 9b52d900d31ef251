"""A checked config and a site, put together: what the Snakefile and the commands work on."""

from __future__ import annotations

import json
import random
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.repeated import repeated_key
from snakemake_executor_plugin_submitit.site import Site, SiteError, load_site
from tpsweep.config.load import Config, ConfigError, load_config
from tpsweep.config.settings import ModelEntry
from tpsweep.core import results_paths
from tpsweep.core.capture_report import is_report
from tpsweep.core.cell import Cell, Engine, slug
from tpsweep.core.owned_environment import owned_problem
from tpsweep.core.preflight_record import Request, class_name, marker
from tpsweep.core.program import Program
from tpsweep.core.workloads import CAPTURE, ENGINE, KINDS, SERVER
from tpsweep.sweep.damaged import damaged
from tpsweep.sweep.expand import Planned, expand
from tpsweep.sweep.feasibility import refuse
from tpsweep.sweep.filters import selected
from tpsweep.sweep.manifest import is_of, other_sites

AGAIN = ".again"
"""There only while rows that cannot be read are measured again, below the results root."""
CAPTURES_LAST = 10**12
"""A profiler that has run may leave its mark on the engine: nothing is timed after a capture."""
REASONS = 3
"""Number of reasons printed when a sweep starts; the manifest has all."""


class InputError(ValueError):
    """The config or the site is unusable; the text is one line with key, value and choice."""


@dataclass(frozen=True)
class Job:
    """A planned cell as a Snakemake job. Paths are relative to where Snakemake runs."""

    cell: Cell
    minutes: int
    session: str  # cells with an equal key share an engine
    model_marker: str  # the file that says that the model's files are there
    session_command: str  # the command line that starts the engine daemon
    dataset: str  # the file of the cell's requests; "" without one

    @property
    def json(self) -> str:
        """The cell as its client gets it: a change of it reruns the cell."""
        return self.cell.to_json()

    @property
    def gpu_type(self) -> str:
        """The site's node class."""
        return self.cell.engine.gpu

    @property
    def gpus(self) -> int:
        """GPUs of the class that the engine holds."""
        return self.cell.engine.gpus

    @property
    def nodes(self) -> int:
        """Nodes that hold them, in equal parts."""
        return self.cell.engine.nodes

    @property
    def order(self) -> int:
        """Where in its session the cell runs: shuffled, so that no axis is the order, too.

        Drawn from the cell's id, which has the run in it: every run has an order of its own, and
        a sweep that goes on keeps it. Captures come last.
        """
        drawn = random.Random(f"order {self.cell.cell_id}").randrange(CAPTURES_LAST)
        return drawn + (CAPTURES_LAST if KINDS[self.cell.workload].is_profiled else 0)


@dataclass(frozen=True)
class Sweep:
    """A config on a site. ``planned`` is every cell of the matrix, feasible or not.

    ``only`` holds the ids of the cells that this run should make; None: all.
    """

    config: Config
    site: Site
    raw: str  # config and site as canonical JSON, as Snakemake merged them
    planned: list[Planned]
    only: set[str] | None = None

    @property
    def results(self) -> str:
        """The results root as the config has it."""
        return self.config.results

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Planned cells by the path of their row, results root included."""
        planned = [item for item in self.planned if item.status == "planned"]
        # One engine object serves many cells: its key is hashed once.
        started = {id(item.cell.engine): item.started for item in planned}
        keys = {found: engine.session for found, engine in started.items()}
        served = {keys[id(i.cell.engine)] for i in planned if i.cell.engine.mode == SERVER}
        commands: dict[str, str] = {}
        jobs = {}
        for item in planned:
            cell, session = item.cell, keys[id(item.cell.engine)]
            if session not in commands:
                engine = started[id(cell.engine)]
                commands[session] = self._session_command(engine, session in served)
            marker = self._model_marker(cell.engine.model.name)
            entry = self.config.settings.workloads[item.entry]
            dataset = getattr(entry, "dataset_path", None) or ""
            job = Job(cell, item.minutes, session, marker, commands[session], dataset)
            jobs[f"{self.results}/{cell.path}"] = job
        return jobs

    @cached_property
    def wanted(self) -> list[str]:
        """Paths of the rows that this run asks for: those of ``only``, and those that are there."""
        if self.only is None:
            return list(self.jobs)
        only = self.only
        return [
            path for path, job in self.jobs.items() if job.cell.cell_id in only or _is_there(path)
        ]

    @property
    def communication(self) -> list[str]:
        """Report and picture of each capture that this run asks for."""
        files = (results_paths.capture_report, results_paths.capture_picture)
        return [f"{self.results}/{of(row)}" for row in self._captures for of in files]

    @property
    def _captures(self) -> list[str]:
        """Paths, below the results root, of the captures' rows that this run asks for."""
        wanted = (self.jobs[path].cell for path in self.wanted)
        return [cell.path for cell in wanted if cell.workload == CAPTURE]

    def job(self, path: str) -> Job:
        """The job that makes the row at ``path`` below the results root."""
        return self.jobs[f"{self.results}/{path}"]

    def is_manifest_current(self) -> bool:
        """Whether the results root has the manifest of this config and site."""
        return is_of(Path(self.results, results_paths.MANIFEST), self.raw)

    @property
    def to_repeat(self) -> str:
        """One line on the rows to measure again because they are unreadable; "" if none."""
        if not self.damaged:
            return ""
        first, n = next(iter(self.damaged)), len(self.damaged)
        more = f" and {n - 1} more" if n > 1 else ""
        return f"{self.results}/{first}{more}: unreadable row, will be measured again"

    @property
    def left_out(self) -> str:
        """One line on the cells that get no job, with the most frequent reasons; "" if none."""
        left = Counter((p.status, p.reason) for p in self.planned if p.status != "planned")
        if not left:
            return ""
        said = [f"{n} {status}: {reason}" for (status, reason), n in left.most_common(REASONS)]
        more = f"; and {len(left) - REASONS} more reasons" if len(left) > REASONS else ""
        planned = len(self.jobs)
        return f"{planned} of {len(self.planned)} cells planned ({'; '.join(said)}{more})"

    @property
    def part(self) -> str:
        """One line on what ``only`` leaves for other runs; "" without it."""
        if self.only is None:
            return ""
        return f"only: {len(self.only)} of {len(self.jobs)} planned cells are selected"

    def inputs(self, path: str) -> list[str]:
        """The markers of model and preflight, for a row that is still to be measured.

        A row that is there needs none: in a copied or cloned results folder the model is missing,
        or newer than the rows, and neither must rerun a cell.
        """
        again = [f"{self.results}/{AGAIN}"] if path in self.damaged else []
        if not again and Path(self.results, path).exists():
            return []
        job = self.job(path)
        preflight = [self._marker(_class(job))] if self._has_preflight else []
        return [job.model_marker, *preflight, *again]

    @cached_property
    def damaged(self) -> dict[str, None]:
        """Rows that are there and cannot be read, by their paths below the results root."""
        rows = (path.removeprefix(f"{self.results}/") for path in self.wanted)
        return dict.fromkeys(damaged(Path(self.results), rows))

    @cached_property
    def unread(self) -> list[str]:
        """Reports on captures that are there and cannot be read: they are made again."""
        reports = (Path(self.results, results_paths.capture_report(row)) for row in self._captures)
        return [str(path) for path in reports if path.exists() and not is_report(path)]

    def analysis_inputs(self, row: str) -> list[str]:
        """Inputs that make the analysis of a capture run again; ``row``: path of its row."""
        report = str(Path(self.results, results_paths.capture_report(row)))
        return [f"{self.results}/{AGAIN}"] if report in self.unread else []

    def failure_record(self, path: str) -> str:
        """Where to say why a row is missing."""
        return f"{self.results}/{results_paths.failure_record(self.job(path).cell.cell_id)}"

    @property
    def preflight_markers(self) -> list[str]:
        """The markers of all classes that have a planned cell."""
        return [self._marker(name) for name in sorted(self._preflights)]

    def preflights_to_run(self, paths: Iterable[str]) -> set[str]:
        """The classes whose preflight the cells of these rows wait for, and that are not made."""
        if not self._has_preflight:
            return set()
        names = {_class(self.jobs[path]) for path in paths}
        return {name for name in names if not Path(self._marker(name)).exists()}

    def preflight(self, name: str) -> Request:
        """What the preflight of a class (``<gpu>x<gpus>``) must check before its cells run."""
        return self._preflights[name]

    def preflight_program(self, name: str) -> str:
        """Where a class's preflight looks for vLLM, as JSON; "": where Snakemake itself runs."""
        program = self.program(self._preflights[name].gpu)
        return program.to_json() if program else ""

    def preflight_models(self, name: str) -> list[str]:
        """The markers of the models that a class will load.

        Those of rows that are still to be measured: weights that no cell needs any more are not
        fetched again. All models if every row exists: then a user started the preflight by hand.
        """
        jobs = [(path, job) for path, job in self.jobs.items() if _class(job) == name]
        wanted = {job.model_marker for path, job in jobs if not Path(path).exists()}
        return sorted(wanted or {job.model_marker for _, job in jobs})

    @property
    def _has_preflight(self) -> bool:
        asked = self.site.preflight
        return self.site.cluster == "slurm" if asked is None else asked

    def _marker(self, name: str) -> str:
        return f"{self.results}/{marker(name)}"

    @cached_property
    def _preflights(self) -> dict[str, Request]:
        real: dict[tuple[str, int, int, str], set[str]] = {}
        for job in (self.jobs[path] for path in self.wanted):
            engine = job.cell.engine
            key = job.gpu_type, job.gpus, job.nodes, engine.vllm_version
            markers = real.setdefault(key, set())
            if engine.model.weights == "real":
                markers.add(job.model_marker)
        requests = [
            Request(
                gpu=gpu,
                gpus=gpus,
                card=self.site.gpus[gpu].card,
                is_cpu=self.site.gpus[gpu].is_cpu,
                vllm_version=version,
                real_weights=sorted(markers),
                memory_gib=self.site.gpus[gpu].memory_gib,
                imports=self.site.cluster == "slurm",
                nodes=nodes,
            )
            for (gpu, gpus, nodes, version), markers in real.items()
        ]
        return {request.name: request for request in requests}

    def model(self, slugged: str) -> ModelEntry:
        """A model of the config by the slug of its name."""
        return self._models_by_slug[slugged][1]

    def fetch_request(self, slugged: str) -> str:
        """What the fetch rule needs of a model, as JSON (``tpsweep.sweep.download.Request``)."""
        name, model = self._models_by_slug[slugged]
        fields = {"name": name, "path": model.path, "revision": model.revision}
        fields |= {"weights": model.weights, "hf_home": self.config.hf_home}
        return json.dumps(fields, sort_keys=True)

    @cached_property
    def _models_by_slug(self) -> dict[str, tuple[str, ModelEntry]]:
        return {slug(name): (name, model) for name, model in self.config.models.items()}

    def _model_marker(self, name: str) -> str:
        made_here = self.config.models[name].path is None
        marker = "config.json" if made_here else "available.json"
        return f"{self.results}/models/{slug(name)}/{marker}"

    def program(self, gpu: str) -> Program | None:
        """The site's own environment for vLLM on a node class; None: that of Snakemake."""
        asked, known = self.site.programs_of(gpu), self.site.gpus.get(gpu)
        if not (asked.python or asked.container):
            return None
        return Program(
            python=asked.python,
            image=asked.container.apptainer if asked.container else None,
            bind=tuple(asked.container.bind) if asked.container else (),
            packages=asked.packages,
            has_gpus=known is None or not known.is_cpu,
            paths=self._paths if asked.container else (),
        )

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        """What cells read and write, relative to where Snakemake runs: a container must show it."""
        datasets = (
            getattr(w, "dataset_path", None) for w in self.config.settings.workloads.values()
        )
        models = (model.path for model in self.config.models.values())
        found = [self.results, self.config.hf_home, *models, *datasets]
        return tuple(dict.fromkeys(path for path in found if path))

    def _session_command(self, engine: Engine, is_served: bool) -> str:
        program = self.program(engine.gpu)
        launch = ["-m", "tpsweep.measure.launch", program.to_json()] if program else []
        words = [sys.executable, *launch]
        words += ["-m", "tpsweep.measure.daemon", "--engine", engine.to_json()]
        if engine.mode == ENGINE and is_served:
            words.append("--served")
        words += ["--starts", f"{self.results}/{results_paths.ENGINE_STARTS}"]
        if self.config.hf_home:
            words += ["--hf-home", self.config.hf_home]
        return shlex.join(words)


def _is_there(path: str) -> bool:
    return Path(path).exists()


def _class(job: Job) -> str:
    """The name of a node class and a number of GPUs, as ``Request.name``."""
    return class_name(job.gpu_type, job.gpus)


def check_files(paths: Iterable[str | Path]) -> None:
    """What is lost once the config's files have been read: keys that are there twice.

    Raises ``InputError``.
    """
    for path in map(Path, paths):
        if twice := repeated_key(path.read_text("utf-8")):
            raise InputError(f"config: {twice} of {path.name}, allowed: once")


def _refuse_other_sites(config: Config, site: Site, base: Path) -> None:
    others = other_sites(base / config.results / results_paths.MANIFEST, site.name)
    if others:
        allowed = f"it holds rows of site {', '.join(others)}; allowed: a folder for each site"
        raise ConfigError("results", config.results, allowed)


def load_sweep(raw: Mapping[str, Any], base: Path) -> Sweep:
    """Check a config (with the key ``site``: the path of a site.yaml) and expand its matrix.

    ``base`` is where relative paths start. The key ``only`` says which cells this run makes.
    Raises ``InputError`` with one line.
    """
    data = dict(raw)
    only = data.pop("only", None)
    site_file = data.pop("site", None)
    if not isinstance(site_file, str):
        raise InputError(
            "site: missing, allowed: the path of a site.yaml; use --profile cluster/<site>, or add "
            "site=cluster/<site>/site.yaml to --config"
        )
    try:
        site = load_site(base / Path(site_file).expanduser())
        if problem := owned_problem(site.environment, of_site=True):
            raise SiteError(f"{site_file}: {problem}")
        config = load_config(data, base)
        planned = expand(config, site)
        refuse(config, site, planned)
        _refuse_other_sites(config, site, base)
    except (ConfigError, SiteError) as error:
        raise InputError(str(error)) from error
    kept = {key: value for key, value in raw.items() if key != "only"}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    whole = Sweep(config, site, canonical, planned)
    if only is None:
        return whole
    try:
        return replace(whole, only=selected(only, (job.cell for job in whole.jobs.values())))
    except ConfigError as error:
        raise InputError(str(error)) from error
