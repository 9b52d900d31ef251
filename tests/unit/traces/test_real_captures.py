"""The analysis on real captures: 2x H200 (nsys and torch), and vLLM on a CPU (torch)."""

import json
import lzma
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tpsweep.cli.comm import run
from tpsweep.traces import CommReport, analyse, analyse_groups
from tpsweep.traces.phases import Phase

DATA = Path(__file__).parents[2] / "data/captures"
NSYS = DATA / "llama8b-tp2-bs1-h200x2.sqlite.xz"
TORCH = [DATA / f"llama8b-tp2-bs1-h200x2.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]
STAGES = [DATA / f"llama8b-pp2-bs1-h200x2.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]
CPU = [DATA / f"tiny4l-tp2-bs2-cpu.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]


@pytest.fixture(scope="module")
def nsys() -> CommReport:
    return analyse([NSYS], decode_ms=3.6)


def unpacked(folder: Path) -> Path:
    path = folder / "real.sqlite"
    path.write_bytes(lzma.decompress(NSYS.read_bytes()))
    return path


def change(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as base, base:
        for statement in statements:
            base.execute(statement)
    return path


def sum_of(phase: Phase, rank: str) -> float:
    ranked = (phase.compute_ms_per_step, phase.wait_ms_per_step, phase.gap_ms_per_step)
    common = (phase.transfer_ms_per_step or 0) + (phase.all_gather_ms_per_step or 0)
    return common + sum((term or {})[rank] for term in ranked)


def test_counts_and_steps(nsys: CommReport) -> None:
    assert nsys.ok and nsys.backend == "custom" and nsys.ranks == 2
    assert nsys.self_check.expected == nsys.self_check.found
    assert (nsys.self_check.found.all_reduce, nsys.self_check.found.all_gather) == (65, 1)
    assert {name: phase.steps for name, phase in nsys.phases.items()} == {
        "prefill": 1,
        "decode": 15,
    }
    assert [(kind.collective, kind.algorithm, kind.count) for kind in nsys.collectives] == [
        ("all_reduce", "one_shot", 16 * 65 * 2),
        ("all_gather", None, 16 * 2),
    ]
    assert nsys.unknown == [] and nsys.warnings == []


def test_transfer_of_the_nsys_capture(nsys: CommReport) -> None:
    decode = nsys.phases["decode"]
    assert decode.transfer_us and decode.step_ms
    assert decode.transfer_us["p50"] == pytest.approx(3.87, rel=0.01)
    assert decode.transfer_clock_us == pytest.approx(3.87, rel=0.01)
    assert decode.transfer_ms_per_step == pytest.approx(0.251, abs=0.001)
    assert decode.transfer_fraction_profiled == pytest.approx(0.058, abs=0.002)
    assert decode.transfer_fraction == pytest.approx(0.070, abs=0.001)
    assert decode.step_ms["p50"] == pytest.approx(4.3, abs=0.05)


def test_terms_of_the_nsys_capture_add_up(nsys: CommReport) -> None:
    for phase in nsys.phases.values():
        assert phase.sum_error is not None and phase.sum_error < 0.01
    prefill = nsys.phases["prefill"]  # one step: its medians are its terms
    for rank in ("0", "1"):
        assert sum_of(prefill, rank) == pytest.approx((prefill.sum_ms_per_step or {})[rank])
    decode = nsys.phases["decode"]
    busy = sum_of(decode, "0") - (decode.gap_ms_per_step or {})["0"]
    assert busy == pytest.approx(3.27, abs=0.02)  # facts: GPU 0 is busy 3.27 of 4.3 ms
    assert (decode.wait_ms_per_step or {})["1"] > 20 * (decode.wait_ms_per_step or {})["0"]
    assert decode.all_gather_ms_per_step == pytest.approx(0.0065, abs=0.0002)


def test_bandwidth_needs_the_model_and_follows_nccl_tests(nsys: CommReport, tmp_path: Path) -> None:
    decode = nsys.phases["decode"]
    expected = 4096 * 2 / 3.872e-6 / 1e9  # one token of bfloat16
    assert decode.algbw_gb_s == pytest.approx(expected)
    assert decode.busbw_gb_s == pytest.approx(expected)  # n = 2: 2(n-1)/n is 1
    assert decode.link_share == pytest.approx(expected / 450)  # NV18, one-shot at n = 2
    alone = analyse([unpacked(tmp_path)])  # no sidecar there
    assert alone.self_check.expected is None and alone.self_check.ok
    assert alone.phases["decode"].busbw_gb_s is None
    assert alone.phases["decode"].transfer_us == decode.transfer_us


def test_prefill_copies_belong_to_its_all_reduces(nsys: CommReport) -> None:
    """Outside the graphs the custom all-reduce copies 2 MB into its buffer first."""
    prefill = nsys.phases["prefill"].transfer_us
    assert prefill and 13 < prefill["p50"] < 15  # 10.9 us the kernel alone


def test_torch_traces_say_the_same(nsys: CommReport) -> None:
    torch = analyse(TORCH)
    assert torch.ok and torch.self_check == nsys.self_check
    assert {name: phase.steps for name, phase in torch.phases.items()} == {
        "prefill": 1,
        "decode": 15,
    }
    ours, theirs = torch.phases["decode"], nsys.phases["decode"]
    assert ours.transfer_us and theirs.transfer_us
    assert ours.transfer_us["p50"] == pytest.approx(theirs.transfer_us["p50"], rel=0.01)
    assert ours.transfer_ms_per_step == pytest.approx(theirs.transfer_ms_per_step, rel=0.02)
    for rank in ("0", "1"):
        compute = (theirs.compute_ms_per_step or {})[rank]
        assert (ours.compute_ms_per_step or {})[rank] == pytest.approx(compute, rel=0.02)


def test_order_of_the_traces_does_not_matter() -> None:
    forward, backward = analyse(TORCH), analyse(TORCH[::-1])
    assert replace(forward, capture="") == replace(backward, capture="")


def test_cpu_operators() -> None:
    report = analyse(CPU)
    assert report.ok and report.backend == "cpu_shm" and report.unknown == []
    assert "compute under a collective" not in " ".join(report.warnings)
    assert (report.self_check.found.all_reduce, report.self_check.found.all_gather) == (9, 1)
    assert {name: phase.steps for name, phase in report.phases.items()} == {
        "prefill": 1,
        "decode": 7,
    }
    assert report.phases["decode"].sum_error == pytest.approx(0, abs=0.01)


def test_steps_by_annotation_where_no_all_gather_marks_them(
    nsys: CommReport, tmp_path: Path
) -> None:
    path = change(
        unpacked(tmp_path),
        "DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE demangledName IN "
        "(SELECT id FROM StringIds WHERE value LIKE 'ncclDevKernel_AllGather%')",
    )
    decode, whole = analyse([path]).phases["decode"], nsys.phases["decode"]
    assert decode.steps == 15 and decode.all_reduce_per_step == 65
    assert decode.step_ms and whole.step_ms
    assert decode.step_ms["p50"] == pytest.approx(whole.step_ms["p50"], rel=0.01)
    assert decode.transfer_us == whole.transfer_us


def test_phases_without_nvtx(tmp_path: Path) -> None:
    """By the sidecar's lengths; without one they are unknown, and said to be."""
    path = change(unpacked(tmp_path), "DELETE FROM NVTX_EVENTS")
    report = analyse([path])
    assert list(report.phases) == ["unknown"] and "phases unknown" in report.warnings[0]
    path.with_suffix(".json").write_text((DATA / "llama8b-tp2-bs1-h200x2.json").read_text())
    report = analyse([path])
    assert {name: phase.steps for name, phase in report.phases.items()} == {
        "prefill": 1,
        "decode": 15,
    }
    assert report.phases["decode"].busbw_gb_s == pytest.approx(2.116, abs=0.01)


def test_one_lost_all_reduce_is_marked_not_averaged(tmp_path: Path) -> None:
    path = change(
        unpacked(tmp_path),
        "DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE start = (SELECT max(start) FROM "
        "CUPTI_ACTIVITY_KIND_KERNEL JOIN StringIds ON id = demangledName "
        "WHERE value LIKE '%cross_device_reduce%' AND deviceId = 1) AND deviceId = 1",
    )
    report = analyse([path])
    assert not report.ok and report.self_check.found.all_reduce == [64, 65]
    assert report.phases["decode"].transfer_us is None
    assert "self-check failed" in report.warnings[0]


def test_command_prints_json_and_says_by_its_status_what_it_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run([NSYS], None, as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["phases"]["decode"]["transfer_us"]["p50"] == pytest.approx(3.87, rel=0.01)
    assert set(report["phases"]["decode"]["wait_ms_per_step"]) == {"0", "1"}
    other = tmp_path / "config.json"
    other.write_text('{"num_hidden_layers": 80, "hidden_size": 8192}')
    assert run([NSYS], other, as_json=False) == 1
    printed = capsys.readouterr()
    assert "FAILED" in printed.out and "expected 161 and 1" in printed.out
    other.write_text('{"num_hidden_layers": 0, "hidden_size": 8192}')
    assert run([NSYS], other, as_json=False) == 2
    assert capsys.readouterr().err.endswith(
        "num_hidden_layers: 0; allowed: a whole number above 0\n"
    )


def test_text_has_all_terms_of_all_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([NSYS], None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    decode = lines[lines.index(next(line for line in lines if line.startswith("decode"))) :][:5]
    assert "15 steps" in decode[0] and "3.87 us" in decode[1] and "5.8%" in decode[1]
    numbers = [float(word) for word in decode[3].split()]
    assert numbers[0] == 0 and numbers[-1] == pytest.approx(sum(numbers[1:-1]), rel=0.01)


def test_stages_wait_for_each_other() -> None:
    """Batch 1 on two stages: one computes while the other waits, but for what the host adds."""
    first, last = analyse_groups(STAGES)
    assert first.ok and last.ok and first.group and last.group
    assert (first.group.label, last.group.label) == ("pp 0, rank 0", "pp 1, rank 1")
    for report, computes, waits in ((first, 2.22, 3.57), (last, 2.53, 1.51)):
        decode = report.phases["decode"]
        assert decode.steps == 32 and decode.compute_ms_per_step
        assert list(decode.compute_ms_per_step.values()) == pytest.approx([computes], abs=0.01)
        assert decode.pipeline_ms_per_step == pytest.approx(waits, abs=0.01)
    # A step sends hidden state and residual, and broadcasts the tokens in two parts.
    assert sum(k.count for k in first.collectives if k.collective == "send_recv") == 64 * 4
