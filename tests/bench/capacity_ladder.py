"""Whether the search for a capacity agrees with a ladder of rates, on real vLLM on a CPU.

    python -m tests.bench.capacity_ladder [--write docs/generated/capacity.md]

One engine of the tiny model at TP=1, and the SLOs of `make sweep`. A ladder of rates, each 5 %
above the one before and chosen before anything is searched, is climbed three times with a seed of
its own, its rungs in an order of their own. Between the climbs two searches find the capacity, one
with long probes and one with those of `make sweep`: a machine that is slower for some minutes is
slower for both. A rung is judged as a search confirms a rate: by all its seeds, counted together.
The ladder's answer is the highest rung below the first that fails.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from tpsweep.core.cell import Cell, Engine, Model
from tpsweep.core.slo_counts import SATURATED, slos_of
from tpsweep.measure import capacity
from tpsweep.measure.capacity import Probed
from tpsweep.measure.capacity_search import CONFIRM, Ask, all_kept, rounded
from tpsweep.measure.probe_log import ProbeLog
from tpsweep.perfmodel.model_folder import make_model_folder
from tpsweep.sweep import request_set
from tpsweep.sweep.request_set import RequestSet

ROOT = Path(__file__).resolve().parents[2]
SHAPE = ROOT / "workflow/models/tiny-llama.json"
SWEEP = ROOT / "cluster/local/sweep.yaml"
LONG_S = 15.0
"""Seconds of judged requests in a probe of the ladder and of one search."""
SEEDS, FIRST_SEED = 3, 1000
"""Seeds of the ladder: one before, between and after the two searches."""
RUNG = 1.05
LEAST, MOST = 0.55, 1.1
"""The ladder's ends, of what the server does when all requests come at once."""
AT_ONCE = 200
TEXT = """# Capacity, searched and by a ladder

Written by `make bench-capacity` on {date}: {cpus} processors, {system}, Python
{python}, vLLM {vllm}; the tiny model of `make sweep` at TP=1, {input_len} tokens in,
{output_len} out. CPU numbers only show that the search works.

The ladder probed each of its rates with {seeds} seeds and {probe_s:g} s of judged requests, one
seed after the other, its rungs in another order each time. The searches ran between its seeds. A
rung is judged as a search confirms a rate: by all its seeds, counted together. The ladder's answer
is the highest rung below the first one that fails; where none fails it is a lower bound.

| SLO | probes | search: requests/s, to failing | verdict | ladder: requests/s | search / ladder |
|---|---|---|---|---|---|
{answers}

{ladders}
"""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Rung:
    """A rate of the ladder and what its seeds showed together; ``holds``: by SLO."""

    request_s: float
    holds: Mapping[str, bool]
    probed: list[Probed]


def main() -> int:
    """Print the page, and write it if asked; 1 if they disagree by more than 10 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--keep", type=Path, help="leave the probes in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ladder-") as name:
        folder = options.keep or Path(name)
        make_model_folder(SHAPE, Path(name) / "model")
        text, agrees = _measure(str(Path(name) / "model"), folder)
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")
    return 0 if agrees else 1


@cache
def _sweep() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(SWEEP.read_text("utf-8"))
    return content


def _entry() -> dict[str, Any]:
    """The search of `make sweep`."""
    entry: dict[str, Any] = _sweep()["workloads"]["capacity"]
    return entry


def _cell(model: str, probe_s: float) -> Cell:
    import vllm

    entry = _entry()
    engine = Engine(
        tp=1,
        replicas=1,
        site="bench",
        gpu="here",
        gpu_card="CPU",
        model=Model("tiny-llama", model, None, "float32", "dummy", is_hub=False, digest="bench"),
        variant="eager",
        allreduce_backend="none",
        vllm_version=vllm.__version__,
        args={**entry["engine"], "gpu_memory_utilization": 0.9, "enforce_eager": True},
        mode="engine",
        run=0,
    )
    extra = {
        "slos": _sweep()["slos"],
        "probe_s": probe_s,
        "probe_requests": entry["probe_requests"],
        "max_request_rate": 1000.0,
        "max_probes": 40,
    }
    return Cell(
        workload="capacity",
        engine=engine,
        dataset="random",
        input_len=entry["input_len"][0],
        output_len=entry["output_len"][0],
        warmups=32,
        repeats=SEEDS if probe_s == LONG_S else 2,
        num_prompts=1000,
        extra=extra,
    )


def _measure(model: str, folder: Path) -> tuple[str, bool]:
    from tpsweep.engine import provenance, vllm_api
    from tpsweep.engine.host import EngineHost

    cell = _cell(model, LONG_S)
    searched = (LONG_S, float(_entry()["probe_s"]))
    os.environ.update(vllm_api.engine_env(cell.engine, provenance.usable_cpus()))
    vllm_api.import_engine(cell.engine.mode)
    host = EngineHost(vllm_api.llm_arguments(cell.engine), served=True)
    try:
        send = partial(host.send, slo={})
        requests = request_set.of_cell(cell, None, host.vocabulary, _no_file)
        few = RequestSet(requests.prompts[:AT_ONCE], requests.output_lens[:AT_ONCE])
        send(few, None, None, 0)  # the first requests of an engine take longer
        ladder: dict[float, list[Probed]] = {
            rate: [] for rate in rungs(AT_ONCE / send(few, None, None, 0).duration_s)
        }
        searches = {}
        _climb(cell, requests, send, FIRST_SEED, ladder)
        for seed, probe_s in enumerate(searched, FIRST_SEED + 1):
            wanted = _cell(model, probe_s)
            log = ProbeLog(folder / f"search-{probe_s:g}s.jsonl", {"bench": wanted.cell_id})
            found = capacity.run(wanted, requests, send, host.counters, log, None, "bench")
            if found.refusals:
                raise SystemExit("; ".join(found.refusals))
            searches[probe_s] = found.figures
            _climb(cell, requests, send, seed, ladder)
    finally:
        host.close()
    return _page(searches, [judged(rate, probed) for rate, probed in ladder.items()])


def judged(rate: float, probed: list[Probed]) -> Rung:
    """A rung, as a search confirms a rate."""
    probes = [one.probe for one in probed]
    slos = slos_of(_sweep()["slos"])
    return Rung(rate, {slo.name: all_kept(slo, probes) for slo in slos}, probed)


def rungs(most: float) -> list[float]:
    """Rates around what a server should do that does ``most`` when all comes at once, rising."""
    count = math.ceil(math.log(MOST / LEAST, RUNG)) + 1
    return [rounded(LEAST * most * RUNG**k) for k in range(count)]


def _climb(
    cell: Cell, requests: Any, send: Any, seed: int, ladder: Mapping[float, list[Probed]]
) -> None:
    """Probe every rate with one seed."""
    slos = slos_of(cell.extra["slos"])
    for rate in random.Random(seed).sample(list(ladder), len(ladder)):
        ask = Ask(rate, seed, CONFIRM, tuple(slo.name for slo in slos))
        count = capacity.judged_requests(cell, slos, rate)
        load = capacity.make_load(ask, requests, count, 200.0)
        sent = send(load.requests, rate, None, seed)
        if reasons := capacity.problems(load.requests, sent):
            raise SystemExit("; ".join(reasons))
        found = capacity.judge(ask, load, slos, sent, "bench")
        ladder[rate].append(found)
        print(rate, seed, found.ttft_p50_ms, found.probe.lost, file=sys.stderr, flush=True)


def _page(searches: Mapping[float, Figures], ladder: Sequence[Rung]) -> tuple[str, bool]:
    import vllm

    lines, agrees = [], True
    for probe_s, figures in searches.items():
        for place, name in enumerate(figures["slo_names"]):
            low, high = (figures[f"capacity_{end}request_s"][place] for end in ("", "upper_"))
            answer = ladders_answer(name, ladder)
            ratio = low / answer if low and answer else math.nan
            agrees &= abs(ratio - 1) <= 0.1
            low, high = low or math.nan, high or math.inf
            verdict = figures["capacity_verdicts"][place]
            shown = "none of its rungs" if answer is None else f"{answer:.4g}"
            shown += " or more" if all(rung.holds[name] for rung in ladder) else ""
            probes = f"{len(figures['probe_request_s'])} of {probe_s:g} s"
            cells = (name, probes, f"{low:.4g} to {high:.4g}", verdict, shown, f"{ratio:.2f}")
            lines.append("| " + " | ".join(cells) + " |")
    text = TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        cpus=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        vllm=vllm.__version__,
        input_len=_entry()["input_len"][0],
        output_len=_entry()["output_len"][0],
        seeds=SEEDS,
        probe_s=LONG_S,
        answers="\n".join(lines),
        ladders="\n\n".join(_shown(name, ladder) for name in _sweep()["slos"]),
    )
    return text, agrees


def ladders_answer(slo: str, ladder: Sequence[Rung]) -> float | None:
    """The highest rung below the first that fails; None where the lowest does."""
    answer = None
    for rung in ladder:
        if not rung.holds[slo]:
            break
        answer = rung.request_s
    return answer


def _shown(name: str, ladder: Sequence[Rung]) -> str:
    limits = ", ".join(f"{limit} {value:g}" for limit, value in _sweep()["slos"][name].items())
    lines = [
        f"Ladder of `{name}` ({limits}):",
        "",
        "| requests/s | holds | kept, by seed |",
        "|---|---|---|",
    ]
    for rung in ladder:
        seeds = [
            ", ".join(f"{found.kept / found.of:.1%}" for found in one.probe.counts[name].values())
            + (" (saturated)" if one.probe.lost.get(name) == SATURATED else "")
            for one in rung.probed
        ]
        held = "yes" if rung.holds[name] else "no"
        lines.append(f"| {rung.request_s:g} | {held} | {'; '.join(seeds)} |")
    return "\n".join(lines)


def _no_file(*_: Any) -> Any:
    raise ValueError("the ladder has random lengths")


if __name__ == "__main__":
    sys.exit(main())
