"""What rows, config and site offer to choose from: node classes, engines, shapes, prices, SLOs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.site import Site
from tpsweep.analysis.recommend.evidence import Record, engine_of, traffic_of
from tpsweep.analysis.recommend.question import NodeClass, Traffic, place_of
from tpsweep.config.load import Config
from tpsweep.config.settings import Pins
from tpsweep.core.cell import Engine, Model, slug
from tpsweep.core.layout import Layout
from tpsweep.core.slo import Slo
from tpsweep.core.workloads import CAPACITY, SERVE, SERVER
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape, UnknownShapeError

SHAPES = Path(__file__).parents[3] / "models"
"""config.json files that come with tpsweep."""
MOST_TP = 8
"""The largest TP that is looked at, where a node has room for it."""


class InputError(ValueError):
    """Nothing can be said: one line with what is missing and what is allowed."""


def _version(text: str) -> list[int]:
    """Sorts versions of vLLM."""
    return [int(part) for part in re.findall(r"\d+", text)]


@dataclass(frozen=True)
class Inputs:
    """``rows`` of all results folders; ``prices``: USD per GPU hour by class, from manifests.

    ``raw``: the config as the file has it; ``folders``: where rows are from.
    """

    rows: Sequence[Record] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    folders: Sequence[Path] = ()
    config: Config | None = None
    site: Site | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def own(self) -> list[Record]:
        """The rows without imported ones: nothing is known of the machines of those."""
        return [row for row in self.rows if not row.get("imported")]

    def check(self, model: str) -> None:
        """Raise ``InputError`` unless something is known of ``model``."""
        names = {row["model"]: None for row in self.own}
        names |= dict.fromkeys(self.config.models) if self.config else {}
        if not names:
            said = "no rows, allowed: a results folder with rows, or --profile cluster/<site>"
            raise InputError(f"{', '.join(map(str, self.folders))}: {said}")
        if model not in names:
            raise InputError(f"--model: {model!r}, allowed: {', '.join(names)}")
        if not self.classes:
            raise InputError("no node class is known, allowed: --profile cluster/<site>, --site")

    def traffic(self, model: str) -> Traffic | None:
        """The lengths that most served rows have, else those of the config's workloads, else of
        static batches."""
        for kinds in ((CAPACITY, SERVE), None):
            found = Counter(
                traffic
                for row in self.own
                if row["model"] == model and (kinds is None or row["workload"] in kinds)
                if (traffic := traffic_of(row)) and traffic.output_len > 1
            )
            if found:
                return found.most_common(1)[0][0]
            for entry in self._entries(model, kinds):
                if entry.input_len and entry.output_len:
                    return Traffic(entry.input_len[0], entry.output_len[0])
        return None

    def slo(self, asked: str | None) -> Slo | None:
        """By its name in the config or in a row, or by its limits. Raises ``InputError``."""
        if asked is None:
            return None
        try:
            if "=" in asked:
                return Slo.parse(asked)
            named = self._slos
            if asked in named:
                return self._one_of(asked, named[asked])
        except ValueError as error:
            raise InputError(f"--slo: {error}") from None
        known = f"{', '.join(named)}, or limits" if named else "limits"
        raise InputError(f"--slo: {asked!r}, allowed: {known} such as ttft_p99_ms=500")

    def _one_of(self, name: str, found: Sequence[Mapping[str, Any]]) -> Slo:
        """The SLO of that name, of which rows of two sweeps may have two."""
        slos = list(dict.fromkeys(Slo.of(name, limits) for limits in found))
        if len(slos) > 1:
            words = " | ".join(slo.words for slo in slos)
            raise ValueError(f"{name!r}: of several limits ({words}), allowed: the limits")
        return slos[0]

    @cached_property
    def slos(self) -> dict[str, Any]:
        """Limits by the SLO's name in the config or in a row."""
        return {name: found[-1] for name, found in self._slos.items()}

    @cached_property
    def _slos(self) -> dict[str, list[Mapping[str, Any]]]:
        """Limits by name: the config's, else all that rows have."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.own:
            for name, limits in json.loads(row.get("slos") or "{}").items():
                found.setdefault(name, []).append(limits)
        named = self.raw.get("slos")
        return found | {name: [one] for name, one in named.items()} if named else found

    @cached_property
    def classes(self) -> dict[str, NodeClass]:
        """Node classes by name: the site's, and those that rows were measured on."""
        prices = {**self.prices, **(self.config.settings.prices if self.config else {})}
        found: dict[str, NodeClass] = {}
        for row in self.own:
            uuids = row.get("node_gpu_uuids")
            held = (row["gpus"] or 0) // (row.get("nodes") or 1)
            seen = max(0 if uuids is None else len(uuids), held)
            known = found.get(row["gpu"])
            most = max(seen, (known.per_node or 0) if known else 0) or None
            price = prices.get(row["gpu"])
            found[row["gpu"]] = NodeClass(row["gpu"], row["gpu_card"], most, price)
        for name, gpu in self.site.gpus.items() if self.site else ():
            found[name] = NodeClass(
                name, gpu.card, gpu.per_node, prices.get(name), gpu.memory_gib, gpu.nodes
            )
        return found

    @property
    def given(self) -> dict[str, Any]:
        """The config, with the prices of rows if it has none."""
        return ({"prices": dict(self.prices)} if self.prices else {}) | dict(self.raw)

    def shape(self, model: str) -> Shape | None:
        """The config's, else that of the folder beside the rows, else of that name in tpsweep."""
        if self.config and (known := self.config.shapes.get(model)):
            return known
        files = [folder / "models" / slug(model) / "config.json" for folder in self.folders]
        for path in (*files, SHAPES / f"{slug(model)}.json"):
            try:
                return Shape.from_config(read_config(path))
            except (OSError, ValueError, UnknownShapeError):
                continue
        return None

    def others(self, model: str) -> list[Engine]:
        """Engines that were not measured: the config's layouts, and TP as far as nodes go."""
        like = self._like(model)
        if like is None:
            return []
        found: dict[Any, Engine] = {}
        shape = self.shape(model)
        for known in self.classes.values():
            for layout in self._layouts(known, has_experts=bool(shape and shape.experts)):
                engine = Engine(
                    **{**layout.sizes, "replicas": 1},
                    site=self.site.name if self.site else like.site,
                    gpu=known.gpu,
                    gpu_card=known.card,
                    model=like.model,
                    variant=like.variant,
                    allreduce_backend=layout.backend("auto"),
                    vllm_version=like.vllm_version,
                    args=like.args,
                    mode=SERVER,
                    run=0,
                    environment=dict(self.site.environment) if self.site else {},
                    nodes=known.spans(layout) or 1,
                )
                found.setdefault(place_of(engine), engine)
        return list(found.values())

    def _layouts(self, known: NodeClass, *, has_experts: bool) -> Iterator[Layout]:
        """TP in powers of two, of experts also whole ones and with attention replicated, and what
        the config has. Replicas are what several servers are."""
        most = min(known.per_node or 1, MOST_TP)
        sizes = [2**n for n in range(most.bit_length()) if 2**n <= most]
        found = {Layout(tp=size) for size in sizes}
        if has_experts and known.card != "CPU":
            for size in sizes[1:]:
                found |= {Layout(tp=size, ep=True), Layout(tp=1, dp=size, ep=True)}
        if self.config is not None:
            for entry in self.config.settings.workloads.values():
                asked = (replace(one, replicas=1) for one in self.config.layouts(entry))
                found |= {layout for layout in asked if known.spans(layout)}
        yield from sorted(found, key=lambda layout: layout.order)

    def _like(self, model: str) -> Engine | None:
        """An engine whose arguments the others have: of a served row, else the config's pins."""
        rows = [row for row in self.own if row["model"] == model]
        rows.sort(key=lambda row: _version(row["vllm_version"]), reverse=True)
        rows.sort(key=lambda row: (row["workload"] not in (CAPACITY, SERVE), row["variant"]))
        if rows:
            return engine_of(rows[0])
        if self.config is None or model not in self.config.models:
            return None
        pins = next((entry.engine for entry in self._entries(model, None)), Pins())
        variant, args = next(iter(self.config.settings.variants.items()))
        return Engine(
            tp=1,
            site="",
            gpu="",
            gpu_card="",
            model=self.config.cell_models[model],
            variant=variant,
            allreduce_backend="auto",
            vllm_version=self.config.settings.vllm_version,
            args={**pins.model_dump(), **args},
            mode=SERVER,
            run=0,
        )

    def _entries(self, model: str, kinds: Sequence[str] | None) -> list[Any]:
        """The config's workloads of the model, served ones first."""
        if self.config is None:
            return []
        entries = [
            entry
            for entry in self.config.settings.workloads.values()
            if (not entry.models or model in entry.models)
            and (kinds is None or entry.kind in kinds)
        ]
        return sorted(entries, key=lambda entry: entry.kind not in (CAPACITY, SERVE))

    def model_entry(self, model: str) -> dict[str, Any]:
        """The model as a config names it."""
        models = self.raw.get("models")
        if isinstance(models, dict) and isinstance(models.get(model), dict):
            return dict(models[model])
        known = next(engine_of(row).model for row in self.own if row["model"] == model)
        entry: dict[str, Any] = {"dtype": known.dtype, "weights": known.weights}
        shape = SHAPES / f"{slug(model)}.json"
        if known.weights == "dummy" and shape.exists():
            return entry | {"shape": f"workflow/models/{shape.name}"}
        entry |= {"path": known.path}
        return entry | ({"revision": known.revision} if known.revision else {})

    def served_model(self, model: Model) -> str | None:
        """What ``vllm serve`` is to load; None: the rows have dummy weights, made from a shape."""
        entry = self.config.models.get(model.name) if self.config else None
        if entry is not None and entry.path:
            return str(entry.path)
        return None if model.weights == "dummy" else model.path
