"""Tables of a synthetic sweep of which a fifth is missing, failed or infeasible, at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.made_up import Sweep

BATCHES, TPS, RUNS = (1, 2, 4, 8, 16, 32), (1, 2, 4), (1, 2, 3)


@pytest.mark.parametrize("seed", range(4))
def test_holes_are_lines_and_measured_lines_have_figures(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sweep = Sweep(tmp_path / "results")
    whole: dict[tuple[int, int], int] = dict.fromkeys(((t, b) for t in TPS for b in BATCHES), 0)
    for tp, batch in whole:
        for run in RUNS:
            axes = {"batch": batch, "run": run}
            state = str(rng.choice(["measured"] * 12 + ["missing", "failed", "infeasible"]))
            if state == "measured":
                sweep.add(tp, tpot=8 / tp + 0.1 * batch + 0.01 * run, **axes)
                whole[tp, batch] += 1
            elif state == "infeasible":
                sweep.add(tp, status="infeasible", reason="made up", **axes)
            else:
                cell = sweep.add(tp, **axes)
                if state == "failed":
                    sweep.fail(cell, "invalid", "made up")
    assert not sweep.tables().complete
    scaling = {(line["tp"], line["batch"]): line for line in sweep.read("batch_scaling")}
    assert scaling.keys() == whole.keys()
    for place, line in scaling.items():
        assert line["runs"] == whole[place]
        assert (line["tpot_ms"] is None) == (whole[place] == 0)
        assert (line["state"] == "measured") == (whole[place] == len(RUNS))
    pairs = sweep.read("tp_pairs")
    assert len(pairs) == 3 * len(BATCHES)
    for line in pairs:
        sides = [whole[line[side], line["batch"]] for side in ("tp_from", "tp_to")]
        assert (line["decode_speedup"] is None) == (min(sides) == 0)
        significant = line["decode_speedup_verdict"] in ("significant", "not significant")
        assert significant == (min(sides) == len(RUNS))
    for line in sweep.read("crossover"):
        for batch in BATCHES:
            if min(whole[line[side], batch] for side in ("tp_from", "tp_to")) == 0:
                assert f"batch {batch} " in line["why"]
    assert len(sweep.read("floors")) == len(sweep.manifest)
    assert len(sweep.read("expected")) == len(sweep.manifest)
    models = {(line["tp"], line["batch"]): line for line in sweep.read("models")}
    assert models.keys() == whole.keys()
    for place, line in models.items():
        assert (line["tpot_ms"] is None) == (whole[place] == 0)
        assert (line["state"] == "measured") == (whole[place] == len(RUNS))
    for line in sweep.read("metrics"):
        if line["source"] == "tp_comparison":
            count = whole[int(line["tp"]), line["batch"]]
            assert (line["value"] is None) == (count == 0) == (line["said"] is not None)
    refused = sum(line["kind"] == "refused" for line in sweep.read("validity"))
    assert refused == len(list((sweep.root / "failures").iterdir()))
    for line in sweep.read("layouts"):
        assert (line["output_tok_s"] is None) == (line["source"] is None)
