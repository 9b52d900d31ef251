"""Whether the search for a capacity agrees with a ladder of rates, on real vLLM on a CPU.

    python -m tests.bench.capacity_ladder [--write docs/generated/capacity.md]

One engine of the tiny model at TP=1. The search finds the capacity for two SLOs; then every rung of
a ladder around it is probed with seeds that the search had not, whatever the outcome: a fraction
below to one above, each rung 5 % above the one before. The ladder's answer is the highest rung
below the first that fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
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
from tpsweep.perfmodel.model_shape import make_model_folder
from tpsweep.sweep import request_set

ROOT = Path(__file__).resolve().parents[2]
SHAPE = ROOT / "workflow/models/tiny-llama.json"
SLOS = {
    "chat": {"ttft_p90_ms": 200.0, "tpot_p90_ms": 40.0},
    "batch": {"e2e_p90_ms": 1000.0},
}
PROBE_S, SEEDS, RUNG = 6.0, 3, 1.05
BELOW, ABOVE = 4, 3
"""Rungs around the search's answer."""
FIRST_SEED = 1000
TEXT = """# Capacity, searched and by a ladder

Written by `make bench-capacity` on {date}: {cpus} processors, {system}, Python
{python}, vLLM {vllm}; the tiny model of `make sweep` at TP=1, 64 tokens in, 16 out. CPU numbers
only show that the search works.

The search ran first ({probes} probes for both SLOs, {seconds:.0f} s). The ladder then probed every
rate of its rungs with {seeds} seeds of its own, put together for the verdict. Its answer is the
highest rung below the first one that fails; where none fails it is a lower bound. Each probe
judged {probe_s:g} s of requests: in so short a time, an overload hardly reaches a limit of seconds.

| SLO | search: requests/s, to failing | verdict | ladder: requests/s | search / ladder |
|---|---|---|---|---|
{answers}

{ladders}
"""


@dataclass(frozen=True)
class Rung:
    """A rate of the ladder and what its seeds showed together."""

    request_s: float
    holds: bool
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
        text, agrees = _measure(_cell(str(Path(name) / "model")), folder)
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")
    return 0 if agrees else 1


def _cell(model: str) -> Cell:
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
        "probe_s": PROBE_S,
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
        repeats=2,
        num_prompts=1000,
        extra=extra,
    )


def _measure(cell: Cell, folder: Path) -> tuple[str, bool]:
    from tpsweep.engine import provenance, vllm_api
    from tpsweep.engine.host import EngineHost

    os.environ.update(vllm_api.engine_env(cell.engine, provenance.usable_cpus()))
    vllm_api.import_engine(cell.engine.mode)
    host = EngineHost(vllm_api.llm_arguments(cell.engine), served=True)
    try:
        send = partial(host.send, slo={})
        requests = request_set.of_cell(cell, None, host.vocabulary, _no_file)
        log = ProbeLog(folder / "search.jsonl", {"bench": cell.cell_id})
        found = capacity.run(cell, requests, send, host.counters, log, None, "bench")
        if found.refusals:
            raise SystemExit("; ".join(found.refusals))
        ladders = {}
        for place, slo in enumerate(slos_of(SLOS)):
            at = found.figures["slo_names"].index(slo.name)
            middle = found.figures["capacity_request_s"][at]
            if middle is None:
                raise SystemExit(f"{slo.name}: the search found no rate")
            rates = [rounded(middle * RUNG**k) for k in range(-BELOW, ABOVE + 1)]
            seeds = range(FIRST_SEED * (place + 1), FIRST_SEED * (place + 1) + SEEDS)
            ladders[slo.name] = [_rung(cell, requests, send, slo, rate, seeds) for rate in rates]
    finally:
        host.close()
    return _page(found.figures, found.times.kept_until - found.times.began, ladders)


def _rung(
    cell: Cell, requests: Any, send: Any, slo: JudgedSlo, rate: float, seeds: Sequence[int]
) -> Rung:
    probed = []
    for seed in seeds:
        ask = Ask(rate, seed, CONFIRM, (slo.name,))
        load = capacity.make_load(ask, requests, capacity.judged_requests(cell, [slo], rate), 200.0)
        sent = send(load.requests, rate, None, seed)
        if reasons := capacity.problems(load.requests, sent):
            raise SystemExit("; ".join(reasons))
        probed.append(capacity.judge(ask, load, [slo], sent, "bench"))
        print(
            rate, seed, probed[-1].ttft_p50_ms, probed[-1].probe.lost, file=sys.stderr, flush=True
        )
    return Rung(rate, _holds(slo, probed), probed)


def _holds(slo: JudgedSlo, probed: Sequence[Probed]) -> bool:
    saturated = sum(SATURATED in one.probe.lost.values() for one in probed)
    counts = [one.probe.counts[slo.name] for one in probed]
    return saturated <= len(probed) / 2 and all(
        limit.is_kept(
            sum(one[limit.name].kept for one in counts), sum(one[limit.name].of for one in counts)
        )
        for limit in slo.limits
    )


def _page(
    figures: dict[str, Any], seconds: float, ladders: dict[str, list[Rung]]
) -> tuple[str, bool]:
    import vllm

    lines, agrees = [], True
    for place, name in enumerate(figures["slo_names"]):
        low, high = (figures[f"capacity_{end}request_s"][place] for end in ("", "upper_"))
        answer = _answer(ladders[name])
        ratio = low / answer if answer else float("nan")
        agrees &= abs(ratio - 1) <= 0.1
        verdict = figures["capacity_verdicts"][place]
        shown = "none of its rungs" if answer is None else f"{answer:.4g}"
        shown += " or more" if all(rung.holds for rung in ladders[name]) else ""
        lines.append(f"| {name} | {low:.4g} to {high:.4g} | {verdict} | {shown} | {ratio:.2f} |")
    text = TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        cpus=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        vllm=vllm.__version__,
        probes=len(figures["probe_request_s"]),
        seconds=seconds,
        seeds=SEEDS,
        probe_s=PROBE_S,
        answers="\n".join(lines),
        ladders="\n\n".join(_ladder(name, rungs) for name, rungs in ladders.items()),
    )
    return text, agrees


def _answer(rungs: Sequence[Rung]) -> float | None:
    answer = None
    for rung in rungs:
        if not rung.holds:
            break
        answer = rung.request_s
    return answer


def _ladder(name: str, rungs: Sequence[Rung]) -> str:
    limits = ", ".join(f"{limit} {value:g}" for limit, value in SLOS[name].items())
    lines = [
        f"Ladder of `{name}` ({limits}):",
        "",
        "| requests/s | holds | kept, by seed |",
        "|---|---|---|",
    ]
    for rung in rungs:
        seeds = [
            ", ".join(f"{found.kept / found.of:.1%}" for found in one.probe.counts[name].values())
            + (" (saturated)" if one.probe.lost else "")
            for one in rung.probed
        ]
        lines.append(
            f"| {rung.request_s:g} | {'yes' if rung.holds else 'no'} | {'; '.join(seeds)} |"
        )
    return "\n".join(lines)


def _no_file(*_: Any) -> Any:
    raise ValueError("the ladder has random lengths")


if __name__ == "__main__":
    sys.exit(main())
