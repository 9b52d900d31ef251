"""Whether the search for a capacity agrees with a ladder of rates, on real vLLM on a CPU.

    python -m tests.bench.capacity_ladder [--write docs/generated/capacity.md]

One engine of the tiny model at TP=1. Two searches find the capacity for two SLOs, one with long
probes and one with those of the small sweep. Then every rung of a ladder around the answers is
probed with seeds that the searches had not, whatever the outcome, each rung 5 % above the one
before. A rung is judged as a search confirms a rate: by all its seeds, counted together. Each seed
visits all rungs before the next one does, in an order of its own, so that a machine that is slower
for some minutes is slower for no rung alone. The ladder's answer is the highest rung below the
first that fails.
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
from functools import partial
from pathlib import Path
from typing import Any

from tpsweep.core.cell import Cell, Engine, Model
from tpsweep.core.slo_counts import SATURATED, JudgedSlo, slos_of
from tpsweep.measure import capacity
from tpsweep.measure.capacity import Probed
from tpsweep.measure.capacity_search import CONFIRM, Ask, rounded
from tpsweep.measure.probe_log import ProbeLog
from tpsweep.perfmodel.model_folder import make_model_folder
from tpsweep.sweep import request_set

ROOT = Path(__file__).resolve().parents[2]
SHAPE = ROOT / "workflow/models/tiny-llama.json"
SLOS = {
    "chat": {"ttft_p90_ms": 200.0, "tpot_p90_ms": 40.0},
    "batch": {"e2e_p90_ms": 1000.0},
}
LONG_S, SHORT_S = 20.0, 4.0
"""Seconds of judged requests in a probe: of the ladder and one search, and of `make sweep`."""
SEEDS, RUNG = 3, 1.05
CONFIRMED_BY = {LONG_S: SEEDS, SHORT_S: 2}
"""Seeds that confirm an answer, by the length of the probes: as the ladder's, and the sweep's."""
BELOW, ABOVE = 4, 3
"""Rungs around the searches' answers."""
FIRST_SEED = 1000
TEXT = """# Capacity, searched and by a ladder

Written by `make bench-capacity` on {date}: {cpus} processors, {system}, Python
{python}, vLLM {vllm}; the tiny model of `make sweep` at TP=1, 64 tokens in, 16 out. CPU numbers
only show that the search works.

The searches ran first. The ladder then probed every rate of its rungs with {seeds} seeds of its
own and {probe_s:g} s of judged requests each; each seed visits all rungs, in an order of its own.
A rung is judged as a search confirms a rate: by all its seeds, counted together. The ladder's
answer is the highest rung below the first one that fails; where none fails it is a lower bound.

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


def _cell(model: str, probe_s: float) -> Cell:
    import vllm

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
        args={
            "max_model_len": 512,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 2048,
            "gpu_memory_utilization": 0.9,
            "enforce_eager": True,
        },
        mode="engine",
        run=0,
    )
    extra = {
        "slos": SLOS,
        "probe_s": probe_s,
        "probe_requests": 200,
        "max_request_rate": 1000.0,
        "max_probes": 40,
    }
    return Cell(
        workload="capacity",
        engine=engine,
        dataset="random",
        input_len=64,
        output_len=16,
        warmups=32,
        repeats=CONFIRMED_BY[probe_s],
        num_prompts=1000,
        extra=extra,
    )


def _measure(model: str, folder: Path) -> tuple[str, bool]:
    from tpsweep.engine import provenance, vllm_api
    from tpsweep.engine.host import EngineHost

    cell = _cell(model, LONG_S)
    os.environ.update(vllm_api.engine_env(cell.engine, provenance.usable_cpus()))
    vllm_api.import_engine(cell.engine.mode)
    host = EngineHost(vllm_api.llm_arguments(cell.engine), served=True)
    try:
        send = partial(host.send, slo={})
        requests = request_set.of_cell(cell, None, host.vocabulary, _no_file)
        searches = {}
        for probe_s in (LONG_S, SHORT_S):
            searched = _cell(model, probe_s)
            log = ProbeLog(folder / f"search-{probe_s:g}s.jsonl", {"bench": searched.cell_id})
            found = capacity.run(searched, requests, send, host.counters, log, None, "bench")
            if found.refusals:
                raise SystemExit("; ".join(found.refusals))
            if None in found.figures["capacity_request_s"]:
                raise SystemExit(
                    f"the search with probes of {probe_s:g} s found no rate for an SLO"
                )
            searches[probe_s] = found.figures
        ladder = _climb(cell, requests, send, rungs(searches))
    finally:
        host.close()
    return _page(searches, ladder)


def rungs(searches: Mapping[float, Figures]) -> list[float]:
    """Rates around all answers of the searches, rising."""
    answers = [rate for figures in searches.values() for rate in figures["capacity_request_s"]]
    low = min(answers) / RUNG**BELOW
    count = math.ceil(math.log(max(answers) / low, RUNG)) + ABOVE + 1
    return [rounded(low * RUNG**k) for k in range(count)]


def _climb(cell: Cell, requests: Any, send: Any, rates: Sequence[float]) -> list[Rung]:
    """Probe every rate with every seed."""
    slos = slos_of(SLOS)
    probed: dict[float, list[Probed]] = {rate: [] for rate in rates}
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        for rate in random.Random(seed).sample(rates, len(rates)):
            ask = Ask(rate, seed, CONFIRM, tuple(SLOS))
            judged = capacity.judged_requests(cell, slos, rate)
            load = capacity.make_load(ask, requests, judged, 200.0)
            sent = send(load.requests, rate, None, seed)
            if reasons := capacity.problems(load.requests, sent):
                raise SystemExit("; ".join(reasons))
            found = capacity.judge(ask, load, slos, sent, "bench")
            probed[rate].append(found)
            print(rate, seed, found.ttft_p50_ms, found.probe.lost, file=sys.stderr, flush=True)
    return [
        Rung(rate, {slo.name: holds(slo, probed[rate]) for slo in slos}, probed[rate])
        for rate in rates
    ]


def holds(slo: JudgedSlo, probed: Sequence[Probed]) -> bool:
    """Whether the seeds of a rung keep an SLO, put together; one that is saturated keeps none."""
    counts = [one.probe.counts[slo.name] for one in probed]
    return not any(one.probe.lost for one in probed) and all(
        limit.is_kept(
            sum(one[limit.name].kept for one in counts), sum(one[limit.name].of for one in counts)
        )
        for limit in slo.limits
    )


def _page(searches: Mapping[float, Figures], ladder: Sequence[Rung]) -> tuple[str, bool]:
    import vllm

    lines, agrees = [], True
    for probe_s, figures in searches.items():
        for place, name in enumerate(figures["slo_names"]):
            low, high = (figures[f"capacity_{end}request_s"][place] for end in ("", "upper_"))
            answer = ladders_answer(name, ladder)
            ratio = low / answer if answer else float("nan")
            agrees &= abs(ratio - 1) <= 0.1
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
        seeds=SEEDS,
        probe_s=LONG_S,
        answers="\n".join(lines),
        ladders="\n\n".join(_shown(name, ladder) for name in SLOS),
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
    limits = ", ".join(f"{limit} {value:g}" for limit, value in SLOS[name].items())
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
