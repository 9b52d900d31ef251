"""Two results folders cell by cell, among them the null experiment: all cells are made up."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.analysis.compare import Comparison, compare
from tpsweep.analysis.verdicts import APART, OVERLAP
from tpsweep.cli.main import main
from tpsweep.core.stats import DIFFERS_WITHIN, NOT_SIGNIFICANT, SAME_WITHIN, SIGNIFICANT, speedup
from tpsweep.results.load import ResultsError

SPREAD_WITHIN, SPREAD_BETWEEN = 0.004, 0.015
"""Standard deviations, relative: of repeats in an engine start, and of engine starts."""
SPLITS = 20


def engine_start(rng: random.Random, decode: float = 4.0, prefill: float = 90.0) -> Record:
    """Figures of one made-up engine start, whose samples share its luck."""
    luck = rng.gauss(1, SPREAD_BETWEEN)
    times = {
        name: [typical * luck * rng.gauss(1, SPREAD_WITHIN) for _ in range(10)]
        for name, typical in (("tpot_ms", decode), ("prefill_ms", prefill))
    }
    whole = [p + 127 * d for p, d in zip(times["prefill_ms"], times["tpot_ms"], strict=True)]
    return {
        **{f"{name}_samples": samples for name, samples in times.items()},
        **{name: sorted(samples)[5] for name, samples in times.items()},
        "e2e_ms_samples": whole,
        "output_tok_s": 128e3 / sorted(whole)[5],
    }


def folder(root: Path, starts: list[Record], **axes: Any) -> Path:
    sweep = Sweep(root)
    for at, measured in enumerate(starts):
        sweep.add(2, measured=measured, run=at + 1, **axes)
    sweep.write_manifest()
    return root


def only_cell(comparison: Comparison) -> dict[str, Any]:
    (pair,) = comparison.pairs
    return {change.figure: change for change in pair.changes}


def test_null_experiment(tmp_path: Path) -> None:
    """The same cell, labelled A and B at random: significant in at most 1 of 20 splits."""
    rng = random.Random(6)
    starts = [engine_start(rng) for _ in range(8)]
    found = dict.fromkeys(("decode", "prefill", "output"), 0)
    for split in range(SPLITS):
        rng.shuffle(starts)
        a = folder(tmp_path / f"a{split}", starts[:4])
        b = folder(tmp_path / f"b{split}", starts[4:])
        for name, change in only_cell(compare(a, b)).items():
            assert change.kind == "between runs"
            found[name] += change.verdict == SIGNIFICANT
    assert max(found.values()) <= 1, found


def test_null_rate_over_many_cells() -> None:
    """That no lucky seed makes the null experiment pass: at most 5 % over independent cells."""
    significant = 0
    for seed in range(600):
        rng = random.Random(seed)
        a, b = ([engine_start(rng)["tpot_ms_samples"] for _ in range(3)] for _ in "ab")
        significant += speedup(a, b).verdict == SIGNIFICANT
    assert 0 < significant <= 0.05 * 600


def test_a_real_difference_is_found(tmp_path: Path) -> None:
    """So that the null experiment does not pass because nothing is ever significant."""
    rng = random.Random(7)
    a = folder(tmp_path / "a", [engine_start(rng) for _ in range(4)])
    b = folder(tmp_path / "b", [engine_start(rng, decode=4.4) for _ in range(4)])
    found = only_cell(compare(a, b))
    decode = found["decode"]
    assert decode.verdict == SIGNIFICANT
    assert decode.change_pct == pytest.approx(10, abs=4)
    assert decode.change_pct_lo < decode.change_pct < decode.change_pct_hi
    assert found["prefill"].verdict == NOT_SIGNIFICANT
    assert found["output"].verdict == SIGNIFICANT and found["output"].change_pct < 0


def test_two_runs_are_not_enough_to_be_significant(tmp_path: Path) -> None:
    rng = random.Random(8)
    a = folder(tmp_path / "a", [engine_start(rng) for _ in range(2)])
    b = folder(tmp_path / "b", [engine_start(rng, decode=8.0) for _ in range(4)])
    comparison = compare(a, b)
    decode = only_cell(comparison)["decode"]
    assert (decode.verdict, decode.kind) == (DIFFERS_WITHIN, "within session")
    assert (comparison.judged, comparison.significant) == (0, 0)


def test_a_folder_against_itself(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [engine_start(random.Random(9))])
    for change in only_cell(compare(a, a)).values():
        assert change.change_pct == 0
        assert change.verdict == SAME_WITHIN


def test_values_and_difference(tmp_path: Path) -> None:
    """Samples at 0.99, 1 and 1.01 of the figure: medians and their difference by hand."""
    for name, factor in (("a", 1.0), ("b", 0.8)):
        sweep = Sweep(tmp_path / name)
        sweep.add(1, tpot=10 * factor, prefill=100)
        sweep.offline(1, 20 / factor)
        sweep.online(1, 50 * factor, itl=10 * factor)
        sweep.write_manifest()
    comparison = compare(tmp_path / "a", tmp_path / "b")
    found = {
        (pair.cell["workload"], change.figure): (change.a, change.b, round(change.change_pct, 6))
        for pair in comparison.pairs
        for change in pair.changes
    }
    assert found == {
        ("latency", "decode"): (10, 8, -20),
        ("latency", "prefill"): (100, 100, 0),
        ("latency", "output"): (100, 125, 25),
        ("throughput", "output"): (2000, 2500, 25),
        ("throughput", "served"): (20, 25, 25),
        ("serve", "TTFT p50"): (50, 40, -20),
        ("serve", "ITL p50"): (10, 8, -20),
        ("serve", "output"): (390, 390, 0),
        ("serve", "served"): (3.9, 3.9, 0),
    }
    served = next(pair for pair in comparison.pairs if pair.cell["workload"] == "serve")
    assert [change.verdict for change in served.changes] == [APART, APART, OVERLAP, OVERLAP]


def test_cells_of_one_side_are_named(tmp_path: Path) -> None:
    a, b = Sweep(tmp_path / "a"), Sweep(tmp_path / "b")
    for sweep in (a, b):
        sweep.add(1, tpot=10)
    a.add(2, tpot=6)
    b.fail(b.add(2), "crash", "the engine died")
    a.add(4, tpot=4)
    a.add(1, tpot=10, batch=8, settings="one")
    b.add(1, tpot=10, batch=8, settings="other")
    a.add(8)
    for sweep in (a, b):
        sweep.write_manifest()
    comparison = compare(a.root, b.root)
    assert len(comparison.pairs) == 1
    assert {(one.cell["tp"], one.cell["batch"]): one.other for one in comparison.only_a} == {
        (2, 1): "failed: crash",
        (4, 1): "not in its matrix",
        (1, 8): "other settings: not recorded in the rows",
    }
    assert [one.cell["batch"] for one in comparison.only_b] == [8]
    assert comparison.neither == 1


def settings(**changed: Any) -> Record:
    """What a row records of its settings; made up."""
    recorded = {
        "warmups": 2,
        "repeats": 10,
        "engine_args": {"max_num_seqs": 16},
        "engine_env": {"NCCL_DEBUG": "INFO"},
        **changed,
    }
    return {k: json.dumps(v) if isinstance(v, dict) else v for k, v in recorded.items()}


def compared(tmp_path: Path, **changed: Any) -> Comparison:
    rng = random.Random(13)
    sides = {"a": settings(), "b": settings(**changed)}
    for name, recorded in sides.items():
        folder(tmp_path / name, [engine_start(rng) | recorded], settings=name)
    return compare(tmp_path / "a", tmp_path / "b")


def test_settings_that_change_no_value_are_named_and_block_nothing(tmp_path: Path) -> None:
    proxy = {"NCCL_DEBUG": "INFO", "https_proxy": "http://proxy:3128"}
    (pair,) = compared(tmp_path, warmups=3, repeats=8, engine_env=proxy).pairs
    assert pair.unlike == [
        "warm-ups 2 and 3",
        "repeats 10 and 8",
        "environment https_proxy unset and http://proxy:3128",
    ]
    assert pair.changes


def test_where_a_model_lies_blocks_nothing(tmp_path: Path) -> None:
    """One made from a shape lies in each results folder; what it is, the digest says."""
    args = {"max_num_seqs": 16, "model": "b/models/llama"}
    known = {"model_digest": "same"}
    rng = random.Random(13)
    folder(tmp_path / "a", [engine_start(rng) | settings(**known)], settings="a")
    elsewhere = settings(**known, engine_args=args, repeats=8)
    folder(tmp_path / "b", [engine_start(rng) | elsewhere], settings="b")
    (pair,) = compare(tmp_path / "a", tmp_path / "b").pairs
    assert pair.unlike == ["repeats 10 and 8"]
    # Without a digest the place is all that is known of the model.
    folder(tmp_path / "c", [engine_start(rng) | settings(engine_args=args)], settings="c")
    comparison = compare(tmp_path / "a", tmp_path / "c")
    assert not comparison.pairs
    assert "model unset and b/models/llama" in comparison.only_a[0].other


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine_args": {"max_num_seqs": 32}}, "max_num_seqs 16 and 32"),
        ({"engine_env": {}}, "environment NCCL_DEBUG INFO and unset"),
        ({"method": 2, "repeats": 8}, "repeats 10 and 8, method 1 and 2"),
        ({"model_digest": "other"}, "model files"),
        ({"slo": {"ttft_ms": 200}}, "slo ttft_ms unset and 200"),
    ],
)
def test_settings_that_change_values_are_named(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    comparison = compared(tmp_path, **changed)
    assert comparison.pairs == []
    assert [one.other for one in comparison.only_a] == [f"other settings: {said}"]


def test_a_copy_is_called_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = engine_start(random.Random(14)) | {"engine_id": "e1", "started_at": "2026-01-01"}
    a, b = folder(tmp_path / "a", [start]), folder(tmp_path / "b", [start])
    assert main(["compare", str(a), str(b)]) == 0
    assert "The same rows: B holds the measurements of A (1 cells)." in capsys.readouterr().out


def test_across_versions(tmp_path: Path) -> None:
    rng = random.Random(10)
    a = folder(tmp_path / "a", [engine_start(rng)], vllm_version="0.31.0")
    b = folder(tmp_path / "b", [engine_start(rng)], vllm_version="0.32.0")
    assert not compare(a, b).pairs
    assert len(compare(a, b, ["vllm_version"]).pairs) == 1


def test_across_needs_one_value_a_side(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "a")
    sweep.add(1, tpot=10, variant="default")
    sweep.add(1, tpot=20, variant="eager")
    sweep.write_manifest()
    with pytest.raises(ResultsError, match=r"--across variant.*default, eager"):
        compare(sweep.root, sweep.root, ["variant"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(11)
    a = folder(tmp_path / "a", [engine_start(rng) for _ in range(3)])
    b = folder(tmp_path / "b", [engine_start(rng) for _ in range(3)])
    assert main(["compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("SYNTHETIC: made-up rows, never measured.\n")
    assert "decode (ms/token)" in text
    assert ", 1 replica," in text
    assert "3 with 3 runs per side" in text
    assert main(["compare", str(a), str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compared"] == 3
    assert [change["figure"] for change in found["pairs"][0]["changes"]] == [
        *("decode", "prefill", "output")
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["there", "nowhere"], "nowhere: no such folder; give two results folders"),
        (["there", "empty"], "no such manifest"),
        (["there", "there", "--across", "colour"], "--across: 'colour'; allowed: site, "),
        (["there", "there", "--across", "workload"], "--across: 'workload'; allowed: site, "),
        (["there/matrix.parquet", "there"], "matrix.parquet: no such folder"),
        (["there", "damaged"], "matrix.parquet: not a manifest of tpsweep"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "there", [engine_start(random.Random(12))])
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "matrix.parquet").write_bytes(b"PAR1")
    assert main(["compare", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_what_all_cells_are_unlike_in_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(13)
    for name, env in (("a", "INFO"), ("b", "WARN")):
        sweep = Sweep(tmp_path / name)
        for batch in (1, 8):
            recorded = settings(engine_env={"no_proxy": env}, warmups=2 if batch == 1 else len(env))
            recorded |= {"repeats": 10 if batch == 1 or name == "a" else 8}
            sweep.add(2, measured=engine_start(rng) | recorded, batch=batch)
        sweep.write_manifest()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "Unlike in all cells: environment no_proxy INFO and WARN\n" in out
    assert out.count("no_proxy") == 1 and out.count("repeats 10 and 8") >= 1
