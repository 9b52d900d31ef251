"""The analysis on made-up captures (labelled SYNTHETIC in the file), whose truth is known."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tpsweep.traces import CaptureError, CommReport, analyse

CUSTOM = "void vllm::cross_device_reduce_1stage<__nv_bfloat16, (int)2>(vllm::RankData *)"
GATHER = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)"
GEMM = "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_TNT"
MNNVL = "void flashinfer::trtllm_mnnvl_allreduce::"

NAMES: dict[str, list[Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "data/kernel_names.yaml").read_text("utf-8")
)


@dataclass
class MadeUp:
    """A made-up nsys export: ranks whose kernels run back to back; times in ns."""

    ranks: int = 2
    clock_offset: int = 0  # of each rank to the one before
    now: list[int] = field(default_factory=list)
    rows: list[tuple[int, int, int, str]] = field(default_factory=list)
    notes: list[tuple[int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = [1_000_000] * self.ranks

    def run(self, name: str, *durations: int, gap: int = 0) -> None:
        """One kernel on every rank, of one duration or one per rank, after a pause."""
        for rank in range(self.ranks):
            start = self.now[rank] + gap
            self.now[rank] = start + durations[rank % len(durations)]
            self.rows.append((rank, start, self.now[rank], name))

    def collective(self, name: str, transfer: int, head: str = "", tail: str = "") -> None:
        """Starts when a rank is there, ends on all ranks ``transfer`` after the last came.
        ``head`` and ``tail`` are kernels of 100 ns just before and after it."""
        if head:
            self.run(head, 100)
        ends = max(self.now) + transfer
        self.run(name, *[ends - now for now in self.now])
        if tail:
            self.run(tail, 100)

    def announce(self, text: str = "execute_context_0(0)_generation_1(1)") -> None:
        """The step's range, as vLLM's workers make it under ``profiler=cuda``."""
        self.notes += [(rank, self.now[rank], text) for rank in range(self.ranks)]

    def step(self, reduce: str = CUSTOM, layers: int = 1, **parts: str) -> None:
        """2 * layers + 1 all-reduces of 4 us after unequal compute, a gap, the all-gather."""
        self.announce()
        for _ in range(2 * layers + 1):
            self.run(GEMM, *range(10_000, 10_000 + 1_000 * self.ranks, 1_000))
            self.collective(reduce, 4_000, **parts)
        self.run(GEMM, 5_000, gap=2_000)
        self.collective(GATHER, 6_000)

    def write(self, path: Path, tp: int | None = None) -> Path:
        """The export; a sidecar beside it for TP=``tp`` and one layer of 1,000 values."""
        names = {name: index for index, name in enumerate(dict.fromkeys(r[3] for r in self.rows))}
        with closing(sqlite3.connect(path)) as base, base:
            base.executescript(
                "CREATE TABLE META_DATA_EXPORT (name, value);"
                "INSERT INTO META_DATA_EXPORT VALUES ('SYNTHETIC', 'made up for a test');"
                "CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value);"
                "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start, end, deviceId, streamId,"
                " correlationId, globalPid, demangledName);"
                "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start, globalTid, correlationId);"
                "CREATE TABLE NVTX_EVENTS (start, text, globalTid);"
            )
            base.executemany(
                "INSERT INTO StringIds VALUES (?, ?)", [(i, n) for n, i in names.items()]
            )
            numbers = [0] * (self.ranks + 1)  # each process counts its own correlation ids
            for rank, start, end, name in self.rows:
                shift, process = rank * self.clock_offset, rank + 1 << 24
                numbers[rank] += 1
                base.execute(
                    "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, 7, ?, ?, ?)",
                    (start + shift, end + shift, rank, numbers[rank], process, names[name]),
                )
                base.execute(
                    "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?)",
                    (start + shift, process + 5, numbers[rank]),
                )
            base.executemany(
                "INSERT INTO NVTX_EVENTS VALUES (?, ?, ?)",
                [
                    (at + r * self.clock_offset, text, (r + 1 << 24) + 5)
                    for r, at, text in self.notes
                ],
            )
        if tp is not None:
            model = {"num_hidden_layers": 1, "hidden_size": 1000}
            sidecar = {"model": model, "dtype": "bfloat16", "tp": tp, "link": "NV18"}
            path.with_suffix(".json").write_text(json.dumps({**sidecar, "synthetic": True}))
        return path


def analysed(made: MadeUp, folder: Path, tp: int | None = None) -> CommReport:
    """The kernels that name a number of GPUs get that of the capture."""
    gpus = re.compile(r"(cross_device_reduce_\w+<.*?,\s*(?:\(int\)\s*)?)\d+(?=[,>])")
    made.rows = [(*row[:3], gpus.sub(rf"\g<1>{made.ranks}", row[3])) for row in made.rows]
    return analyse([made.write(folder / "made-up.sqlite", tp)])


REDUCES = [
    name
    for name, known in NAMES.items()
    if known[0] == "all_reduce" and known[1] not in ("cpu_shm", "gloo")
]


@pytest.mark.parametrize("name", REDUCES)
def test_every_all_reduce_is_counted_and_timed(name: str, tmp_path: Path) -> None:
    made = MadeUp()
    for _ in range(3):
        made.step(name)
    report = analysed(made, tmp_path, tp=2)
    decode = report.phases["decode"]
    lower = NAMES[name][4]
    given, other = decode.transfer_us, decode.transfer_lower_us
    if lower:
        given, other = other, given
    assert report.ok and report.backend == NAMES[name][1] and report.warnings == []
    assert other is None and given and given["p10"] == given["p99"] == 4.0
    plain = not NAMES[name][3] and not lower
    assert (decode.busbw_gb_s is not None) == plain
    if plain:
        assert decode.busbw_gb_s == pytest.approx(2000 / 4000)  # 1 token x 1000 x 2 bytes, 4 us


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_terms_are_the_known_ones(ranks: int, tmp_path: Path) -> None:
    made = MadeUp(ranks)
    for _ in range(5):
        made.step()
    report = analysed(made, tmp_path, tp=ranks)
    decode = report.phases["decode"]
    assert report.ok and report.ranks == ranks and decode.steps == 5
    assert decode.transfer_ms_per_step == pytest.approx(3 * 4e-3)
    assert decode.all_gather_ms_per_step == pytest.approx(6e-3)
    for rank in range(ranks):
        compute = 3 * (10e-3 + rank * 1e-3) + 5e-3
        assert (decode.compute_ms_per_step or {})[str(rank)] == pytest.approx(compute)
        waited = 3 * (ranks - 1 - rank) * 1e-3
        assert (decode.wait_ms_per_step or {})[str(rank)] == pytest.approx(waited)
        assert (decode.gap_ms_per_step or {})[str(rank)] == pytest.approx(2e-3)
    assert decode.busbw_gb_s == pytest.approx(0.5 * 2 * (ranks - 1) / ranks)
    assert decode.link_share == pytest.approx(0.5 * (ranks - 1) / 450)  # one-shot


def test_clocks_need_not_agree(tmp_path: Path) -> None:
    one, other = MadeUp(), MadeUp(clock_offset=77_000_000)
    for made in (one, other):
        for _ in range(3):
            made.step()
    (tmp_path / "other").mkdir()
    same, apart = analysed(one, tmp_path), analysed(other, tmp_path / "other")
    assert same.phases["decode"].transfer_clock_us == 4.0
    assert apart.phases["decode"].transfer_clock_us is None
    assert same.phases["decode"].transfer_us == apart.phases["decode"].transfer_us
    assert same.phases["decode"].wait_ms_per_step == apart.phases["decode"].wait_ms_per_step


def test_a_straggler_is_wait_of_the_others_not_transfer(tmp_path: Path) -> None:
    made = MadeUp(ranks=4)
    for _ in range(3):
        made.announce()
        for _ in range(3):
            made.run(GEMM, 10_000, 10_000, 60_000, 10_000)
            made.collective(CUSTOM, 4_000)
        made.collective(GATHER, 6_000)
    decode = analysed(made, tmp_path, tp=4).phases["decode"]
    assert decode.transfer_us and decode.transfer_us["p99"] == 4.0
    waits = decode.wait_ms_per_step
    assert waits == pytest.approx({"0": 0.15, "1": 0.15, "2": 0.0, "3": 0.15})


@pytest.mark.parametrize(
    ("name", "head", "tail", "transfer"),
    [
        (f"{MNNVL}twoshotAllreduceKernel<2>", "", f"{MNNVL}rmsNormLamport<__nv_bfloat16>", 4.1),
        ("two_shot_all_reduce_kernel<float>", "direct_copy_kernel_cuda", "direct_copy_kernel", 4.2),
        (CUSTOM, "direct_copy_kernel", "", 4.1),
        (CUSTOM, "", "direct_copy_kernel", 4.0),  # a copy after it is somebody else's
    ],
)
def test_kernels_of_one_collective_are_one(
    name: str, head: str, tail: str, transfer: float, tmp_path: Path
) -> None:
    made = MadeUp()
    for _ in range(3):
        made.step(name, head=head, tail=tail)
    report = analysed(made, tmp_path, tp=2)
    decode = report.phases["decode"]
    assert report.ok and decode.all_reduce_per_step == 3
    found = decode.transfer_us or decode.transfer_lower_us
    assert found and found["p50"] == pytest.approx(transfer)
    assert decode.sum_error == 0


def test_neighbouring_copies_go_to_one_collective_each(tmp_path: Path) -> None:
    """copy-reduce-copy twice without compute between: four copies, two collectives."""
    made = MadeUp()
    copy, name = "direct_copy_kernel", "one_shot_all_reduce_kernel<float>"
    for _ in range(2):
        made.announce()
        for _ in range(3):
            made.collective(name, 4_000, head=copy, tail=copy)
        made.collective(GATHER, 6_000)
    decode = analysed(made, tmp_path, tp=2).phases["decode"]
    assert decode.transfer_us and decode.transfer_us["p10"] == decode.transfer_us["p99"] == 4.2
    assert decode.compute_ms_per_step == {"0": 0.0, "1": 0.0}


def test_unknown_communication_is_listed_and_breaks_the_check(tmp_path: Path) -> None:
    made = MadeUp()
    name = "void next::superAllReduceKernel<bf16>"
    for _ in range(2):
        made.announce()
        made.collective(CUSTOM, 4_000)
        made.collective(CUSTOM, 4_000)
        made.collective(name, 7_000)
        made.collective(GATHER, 6_000)
    report = analysed(made, tmp_path, tp=2)
    assert [(one.name, one.count, one.total_us) for one in report.unknown] == [(name, 4, 28.0)]
    assert not report.ok and report.self_check.found.all_reduce == 2
    assert report.phases["decode"].transfer_ms_per_step is None
    assert any(name in warning for warning in report.warnings)


def test_phases_of_prefill_mixed_and_decode_steps(tmp_path: Path) -> None:
    made = MadeUp()
    texts = (
        "execute_context_0(0)_generation_0(0)",  # no request, no step
        "execute_context_2(64)_generation_0(0)",
        "execute_context_1(32)_generation_2(2)",
        "execute_context_0(0)_generation_3(3)",
        "execute_context_0(0)_generation_3(3)",
    )
    for text in texts:
        made.announce(text)
        if "0(0)_generation_0" in text:
            continue
        for _ in range(3):
            made.collective(CUSTOM, 4_000)
        made.collective(GATHER, 6_000)
    phases = analysed(made, tmp_path, tp=2).phases
    assert {name: phase.steps for name, phase in phases.items()} == {
        "decode": 2,
        "prefill": 1,
        "mixed": 1,
    }
    for name, tokens in {"decode": 3, "prefill": 64, "mixed": 34}.items():
        assert phases[name].algbw_gb_s == pytest.approx(tokens * 2000 / 4000)


def test_overlap_counts_once_and_is_said(tmp_path: Path) -> None:
    """Compute beside a collective on another stream: the time is the collective's."""
    made = MadeUp()
    for _ in range(2):
        made.announce()
        for _ in range(3):
            begin = list(made.now)
            made.collective(CUSTOM, 4_000)
            made.rows += [(rank, begin[rank], begin[rank] + 3_000, GEMM) for rank in (0, 1)]
        made.collective(GATHER, 6_000)
    report = analysed(made, tmp_path, tp=2)
    decode = report.phases["decode"]
    assert decode.compute_ms_per_step == {"0": 0.0, "1": 0.0} and decode.sum_error == 0
    assert "compute under a collective" in " ".join(report.warnings)


def test_collectives_that_overlap_break_the_sum(tmp_path: Path) -> None:
    made = MadeUp()
    for _ in range(2):
        made.announce()
        for _ in range(3):
            made.collective(CUSTOM, 4_000)
            made.now = [now - 2_000 for now in made.now]
        made.collective(GATHER, 6_000)
    report = analysed(made, tmp_path, tp=2)
    assert not report.ok and "miss a step" in " ".join(report.warnings)


def test_tp1_has_steps_by_annotation_and_no_communication(tmp_path: Path) -> None:
    made = MadeUp(ranks=1)
    for _ in range(4):
        made.announce()
        made.run(GEMM, 10_000)
        made.run(GEMM, 10_000, gap=5_000)
    report = analysed(made, tmp_path, tp=1)
    decode = report.phases["decode"]
    assert report.ok and report.backend == "none" and decode.steps == 4
    assert decode.step_ms and decode.step_ms["p50"] == pytest.approx(0.025)
    assert decode.compute_ms_per_step == {"0": 0.02} and decode.gap_ms_per_step == {"0": 0.005}
    assert decode.transfer_us is None and decode.transfer_fraction_profiled == 0


def test_a_context_without_collectives_is_no_rank(tmp_path: Path) -> None:
    made = MadeUp()
    for _ in range(2):
        made.step()
    made.rows.append((2, 1_000_000, 1_001_000, GEMM))
    report = analysed(made, tmp_path, tp=2)
    assert report.ok and report.ranks == 2 and "left out" in report.warnings[0]


def test_one_rank_of_two_is_refused(tmp_path: Path) -> None:
    made = MadeUp(ranks=1)
    made.step()
    with pytest.raises(CaptureError, match=r"1 of at least 2 ranks.*--trace-fork-before-exec=true"):
        analysed(made, tmp_path)


def test_collectives_after_the_last_step_are_left_out_and_said(tmp_path: Path) -> None:
    made = MadeUp()
    for _ in range(2):
        made.step()
    made.collective(CUSTOM, 4_000)
    report = analysed(made, tmp_path, tp=2)
    assert report.ok and "2 collectives after the last whole step" in report.warnings[0]


def test_steps_by_annotation_where_gathers_are_not_one_per_step(tmp_path: Path) -> None:
    """Two small all-gathers per step, collectives before the first step, unequal clocks."""
    made = MadeUp(clock_offset=77_000_000)
    made.collective(CUSTOM, 9_000)
    for _ in range(4):
        made.announce()
        made.run(GEMM, 10_000, 12_000)
        made.collective(CUSTOM, 4_000)
        made.collective(GATHER, 2_000)
        made.collective(GATHER, 3_000)
    report = analysed(made, tmp_path)
    decode = report.phases["decode"]
    assert report.ok and decode.steps == 4
    assert (decode.all_reduce_per_step, decode.all_gather_per_step) == (1, 2)
    assert decode.transfer_us and decode.transfer_us["p10"] == decode.transfer_us["p99"] == 4.0
    assert decode.all_gather_ms_per_step == pytest.approx(5e-3)
    assert decode.wait_ms_per_step == pytest.approx({"0": 2e-3, "1": 0.0})


def test_what_encloses_a_known_collective_is_no_candidate(tmp_path: Path) -> None:
    made = MadeUp()
    for _ in range(2):
        made.announce()
        begin = list(made.now)
        made.run(GEMM, 1_000)
        made.collective(CUSTOM, 4_000)
        made.rows += [(r, begin[r], made.now[r], "vllm::all_reduce wrapper") for r in (0, 1)]
        made.collective(GATHER, 2_000)
    assert analysed(made, tmp_path).unknown == []
