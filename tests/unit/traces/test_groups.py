"""Captures of several groups of ranks: each analysed by itself, whatever names the groups."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.made_traces import (
    CUSTOM,
    GATHER,
    GEMM,
    GENERIC,
    NCCL,
    SCATTER,
    SEND,
    Trace,
    info,
    model,
)
from tests.unit.traces.test_made_up_captures import MadeUp
from tpsweep.cli.comm import Wanted, run
from tpsweep.traces import CaptureError, CommReport, analyse, analyse_groups
from tpsweep.traces.sidecar import ModelSizes

WORLD = ("default_pg", [0, 1, 2, 3])


def tensor(trace: Trace, us: float, reduce: str = CUSTOM, **args: Any) -> Trace:
    """Three steps of a model of one layer: three all-reduces and the gather of the logits."""
    for _ in range(3):
        trace.step()
        for _ in range(3):
            trace.run(GEMM, 20)
            trace.run(reduce, us, **args)
        trace.run(GATHER, 6)
    return trace


def dp2_tp2(folder: Path, how: str) -> list[Path]:
    """Ranks 0 and 1 reduce in 10 us, ranks 2 and 3 in 40 us."""
    paths = []
    for rank in range(4):
        mine, dp = [rank // 2 * 2, rank // 2 * 2 + 1], rank // 2
        across = [rank % 2, rank % 2 + 2]
        groups = {
            "described": [WORLD, ("tp", [0, 1]), ("tp", [2, 3])],
            "vLLM's": [
                WORLD,
                ("world:device", [0, 1, 2, 3]),
                ("tp:device", mine),
                ("dp:device", across),
                ("ep:device", [0, 1, 2, 3]),
            ],
            "not described": [WORLD, ("undefined", mine), ("undefined", across)],
        }.get(how, [])
        args = {"Process Group Ranks": str(mine)} if how == "arguments" else {}
        trace = tensor(Trace(), 40 if dp else 10, CUSTOM if how == "kernel" else NCCL, **args)
        name = (
            f"dp{dp}_pp0_tp{rank % 2}_dcp0_ep{rank}_rank{rank}" if how == "files" else f"rank{rank}"
        )
        paths.append(trace.write(folder / f"{name}.pt.trace.json", info(rank, 4, *groups)))
    return paths


def seen(reports: list[CommReport]) -> list[tuple[str, float, list[float], bool]]:
    """Label, transfer in us, waits in ms and self-check of each group."""
    found = []
    for report in reports:
        decode = report.phases["decode"]
        assert report.group and decode.transfer_us and decode.wait_ms_per_step
        waits = list(decode.wait_ms_per_step.values())
        found.append((report.group.label, decode.transfer_us["p50"], waits, report.ok))
    return found


@pytest.mark.parametrize(
    "how", ["described", "vLLM's", "not described", "arguments", "files", "kernel"]
)
def test_dp_by_tp_is_two_groups_whatever_names_them(how: str, tmp_path: Path) -> None:
    reports = analyse_groups(dp2_tp2(tmp_path, how))
    assert seen(reports) == [
        ("dp 0, ranks 0 and 1", 10.0, [0.0, 0.0], True),
        ("dp 1, ranks 2 and 3", 40.0, [0.0, 0.0], True),
    ]


def test_groups_that_nothing_names_are_asked_by_tp(tmp_path: Path) -> None:
    paths = dp2_tp2(tmp_path, "nothing")
    found = seen(analyse_groups(paths, tp=2))
    assert [(transfer, waits) for _, transfer, waits, _ in found] == [
        (10.0, [0.0, 0.0]),
        (40.0, [0.0, 0.0]),
    ]
    with pytest.raises(CaptureError, match=r"4 ranks cannot be groups of 3 \(--tp 3\)"):
        analyse_groups(paths, tp=3)


def test_a_group_is_analysed_without_the_others_but_not_in_part(tmp_path: Path) -> None:
    paths = dp2_tp2(tmp_path, "described")
    assert (
        analyse(paths[2:]).phases["decode"].transfer_us
        == analyse_groups(paths)[1].phases["decode"].transfer_us
    )
    with pytest.raises(CaptureError, match="1 of 2 ranks of the group 2, 3"):
        analyse_groups(paths[:3])
    with pytest.raises(CaptureError, match=r"2 groups of ranks \(dp 0, ranks 0 and 1; dp 1"):
        analyse(paths)


def test_the_command_prints_groups_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = dp2_tp2(tmp_path, "described")
    output = tmp_path / "report.json"
    picture = tmp_path / "step.svg"
    assert run(paths, None, False, Wanted(output=output, timeline=picture)) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "2 groups; decode (ms per step):"
    assert [line.split()[-7:] for line in lines[2:4]] == [
        ["0.096", "0.060", "0.030", "0.000", "-", "-", "ok"],
        ["0.186", "0.060", "0.120", "0.000", "-", "-", "ok"],
    ]
    assert "the picture is of dp 0, ranks 0 and 1" in printed.err and picture.is_file()
    groups = json.loads(output.read_text())["groups"]
    assert [group["group"]["ranks"] for group in groups] == [[0, 1], [2, 3]]
    assert "experts_us" not in groups[0]["phases"]["decode"]


def test_engines_that_each_count_from_0_are_told_apart_by_their_files(tmp_path: Path) -> None:
    paths = [
        tensor(Trace(), 40 if dp else 10).write(
            tmp_path / f"dp{dp}_pp0_tp{tp}_rank{tp}.pt.trace.json", info(tp, 2, ("tp", [0, 1]))
        )
        for dp in (0, 1)
        for tp in (0, 1)
    ]
    found = seen(analyse_groups(paths))
    assert [(label, transfer) for label, transfer, _, _ in found] == [
        ("dp 0, ranks 0 and 1", 10.0),
        ("dp 1, ranks 2 and 3", 40.0),
    ]


@pytest.mark.parametrize("gathered", [0, 2])
def test_pipeline_stages_have_their_own_counts(gathered: int, tmp_path: Path) -> None:
    """3 layers on 2 stages: vLLM puts 2 on the first. ``gathered``: parts of the input that a
    stage puts together again."""
    paths = []
    for rank in range(4):
        stage, trace = rank // 2, Trace()
        for _ in range(4):
            trace.step()
            if stage:
                trace.run(SEND, 50 + rank)
                for _ in range(gathered):
                    trace.run(GATHER, 3)
            for _ in range(2 if stage else 5):
                trace.run(GEMM, 10)
                trace.run(NCCL, 8 if stage else 5)
            trace.run(GATHER, 6) if stage else trace.run(SEND, 7)
        groups = [WORLD, ("tp", [0, 1]), ("tp", [2, 3]), ("pp", [rank % 2, rank % 2 + 2])]
        path = tmp_path / f"rank{rank}.pt.trace.json"
        paths.append(trace.write(path, info(rank, 4, *groups)))
    first, last = analyse_groups(paths, ModelSizes(3, 1000))
    assert first.ok and last.ok
    assert first.group and last.group
    assert (first.group.label, last.group.label) == ("pp 0, ranks 0 and 1", "pp 1, ranks 2 and 3")
    assert first.self_check.expected and first.self_check.expected.all_reduce == 5
    assert first.self_check.expected.all_gather == 0
    assert (
        last.self_check.found.all_reduce == 2 and last.self_check.found.all_gather == 1 + gathered
    )
    early, late = first.phases["decode"], last.phases["decode"]
    assert early.transfer_us and early.transfer_us["p50"] == 5.0
    assert late.transfer_us and late.transfer_us["p50"] == 8.0
    assert early.pipeline_ms_per_step == pytest.approx(0.007)
    assert late.pipeline_ms_per_step == pytest.approx(0.052)
    assert late.wait_ms_per_step == pytest.approx({"2": 0, "3": 0.001})


@pytest.mark.parametrize(
    ("dispatch", "combine"),
    [
        (
            "void deep_ep::internode_ll::dispatch<true, 3, 7168>(x)",
            "deep_ep::internode_ll::combine",
        ),
        ("void deep_ep::intranode::dispatch<8, 768>(x)", "void deep_ep::intranode::combine<bf16>"),
        ("void pplx::dispatchKernel<128>(x)", "void pplx::combineKernel<bf16>(x)"),
        ("moeA2ADispatchKernel<8>", "moeA2ACombineKernel<8>"),
        ("EpDispatchIntraNodeKernel_bf16", "EpCombineIntraNodeKernel_bf16"),
        (GATHER, SCATTER),
    ],
)
def test_experts_exchange_over_the_groups(dispatch: str, combine: str, tmp_path: Path) -> None:
    """DP=2 x TP=2, experts over all four: the last ranks come 30 us late to each dispatch."""
    paths = []
    for rank in range(4):
        trace, late = Trace(), rank // 2
        for _ in range(4):
            trace.step()
            trace.run(CUSTOM, 4)
            for _ in range(2):  # layers
                trace.run(GEMM, 40 if late else 10)
                trace.run(CUSTOM, 4)
                trace.run(dispatch, 20 if late else 50)
                trace.run(GEMM, 30)
                trace.run(combine, 15)
            trace.run(GEMM, 5)
            trace.run(GATHER, 6)
        groups = [WORLD, ("tp", [0, 1]), ("tp", [2, 3]), ("ep", [0, 1, 2, 3])]
        path = tmp_path / f"rank{rank}.pt.trace.json"
        paths.append(trace.write(path, info(rank, 4, *groups)))
    reports = analyse_groups(paths, ModelSizes(2, 1000))
    assert [report.group and report.group.label for report in reports] == [
        "dp 0, ranks 0 and 1",
        "dp 1, ranks 2 and 3",
    ]
    for report, waited in zip(reports, (0.06, 0.0), strict=True):
        decode = report.phases["decode"]
        assert report.ok and report.warnings == []
        assert (report.self_check.found.all_reduce, report.self_check.found.all_gather) == (3, 1)
        assert (report.self_check.found.dispatch, report.self_check.found.combine) == (2, 2)
        assert decode.experts_us and decode.experts_us["p90"] == 20.0
        assert decode.experts_ms_per_step == pytest.approx(2 * 0.035)
        assert decode.transfer_ms_per_step == pytest.approx(3 * 0.004)
        assert list((decode.wait_ms_per_step or {}).values()) == pytest.approx([waited] * 2)
        assert decode.sum_error == 0


def test_experts_at_tp_1_reduce_nothing(tmp_path: Path) -> None:
    """DP=2, experts over both; the sizes of the copies' batches are reduced over DP."""
    paths = []
    for rank in range(2):
        trace = Trace()
        for _ in range(3):
            trace.step()
            trace.run(NCCL, 5, **{"Process Group Ranks": "[0, 1]"})
            trace.run("void deep_ep::layout::get_dispatch_layout<256>", 2)
            trace.run("void deep_ep::intranode::notify_dispatch<2>", 3)
            trace.run("void deep_ep::intranode::dispatch<2>", 20 + rank)
            trace.run(GEMM, 10)
            trace.run("void deep_ep::intranode::combine<2>", 15)
        groups = [("default_pg", [0, 1]), ("tp", [rank]), ("dp", [0, 1]), ("ep", [0, 1])]
        path = tmp_path / f"rank{rank}.pt.trace.json"
        paths.append(trace.write(path, info(rank, 2, *groups)))
    reports = analyse_groups(paths, ModelSizes(1, 1000))
    for report, waited in zip(reports, (0.0, 0.001), strict=True):
        decode = report.phases["decode"]
        assert report.ok and report.backend == "none" and report.unknown == []
        assert decode.experts_ms_per_step == pytest.approx(0.043)  # 5 + 3 + 20 + 15 us
        assert decode.compute_ms_per_step and decode.wait_ms_per_step
        assert list(decode.compute_ms_per_step.values()) == pytest.approx([0.012])
        assert list(decode.wait_ms_per_step.values()) == pytest.approx([waited])


AROUND: dict[str, tuple[str, str, dict[str, Any]]] = {
    "annotation": ("user_annotation", "nccl:{}", {}),
    "recorded": ("cpu_op", "record_param_comms", {"Collective name": "{}"}),
    "on the GPU": ("gpu_user_annotation", "nccl:{}", {}),
    "arguments": ("", "", {}),
}


def generic(how: str | None, rank: int) -> Trace:
    """RCCL: three all-reduces of 10 us and a gather of 6 us, all of one kernel."""
    trace = Trace()
    for _ in range(4):
        trace.step()
        for name, us in [("all_reduce", 10)] * 3 + [("_allgather_base", 6)]:
            trace.run(GEMM, 20)
            if how is None:
                trace.run(GENERIC, us)
            elif how == "arguments":
                trace.run(GENERIC, us, **{"Collective name": name})
            else:
                category, words, args = AROUND[how]
                filled = {key: value.format(name) for key, value in args.items()}
                around = {"cat": category, "name": words.format(name), "args": filled}
                trace.run(GENERIC, us, around)
    return trace


@pytest.mark.parametrize("how", AROUND)
def test_generic_kernels_are_what_their_annotation_says(how: str, tmp_path: Path) -> None:
    paths = [generic(how, r).write(tmp_path / f"rank{r}.json", info(r, 2)) for r in (0, 1)]
    report = analyse(paths)
    decode = report.phases["decode"]
    assert report.ok and report.backend == "nccl"
    assert (report.self_check.found.all_reduce, report.self_check.found.all_gather) == (3, 1)
    assert decode.transfer_us and decode.transfer_us["p90"] == 10.0
    assert decode.all_gather_ms_per_step == pytest.approx(0.006)


def test_generic_kernels_without_annotation_are_told_by_order_or_refused(tmp_path: Path) -> None:
    paths = [generic(None, r).write(tmp_path / f"rank{r}.json", info(r, 2)) for r in (0, 1)]
    with pytest.raises(CaptureError, match="16 of 16 collectives run in kernels that do not say"):
        analyse(paths)
    report = analyse(paths, ModelSizes(1, 1000))
    assert report.ok and report.phases["decode"].all_gather_ms_per_step == pytest.approx(0.006)
    with pytest.raises(CaptureError, match="do not say which they are"):
        analyse(paths, ModelSizes(2, 1000))


def test_a_generic_kernel_after_custom_all_reduces_is_the_gather(tmp_path: Path) -> None:
    paths = []
    for rank in (0, 1):
        trace = Trace()
        for _ in range(3):
            trace.step()
            for _ in range(3):
                trace.run("void aiter::cross_device_reduce_1stage<bf16, 2>", 10)
            trace.run(GENERIC, 6)
        paths.append(trace.write(tmp_path / f"rank{rank}.json", info(rank, 2)))
    report = analyse(paths)
    assert report.ok and report.phases["decode"].all_gather_ms_per_step == pytest.approx(0.006)


def test_a_front_end_beside_the_ranks_is_passed_over(tmp_path: Path) -> None:
    for rank in (0, 1):
        tensor(Trace(), 10).write(tmp_path / f"rank{rank}.17.pt.trace.json", info(rank, 2))
    alone = analyse([tmp_path])
    front = Trace()
    front._event("cpu_op", "aten::empty", 1, 2)
    front.write(tmp_path / "host_4711.async_llm.17.pt.trace.json")
    assert analyse([tmp_path]) == alone
    (tmp_path / "host_4711.async_llm.17.pt.trace.json").write_text('{"traceEvents": []}')
    assert analyse([tmp_path]) == alone


def test_one_process_with_two_gpus_is_two_ranks(tmp_path: Path) -> None:
    first, second = tensor(Trace(0), 10), tensor(Trace(1, 1000.5), 12)
    first.events += [event for event in second.events if event["cat"] == "kernel"]
    report = analyse([first.write(tmp_path / "trace.json")])
    decode = report.phases["decode"]
    assert report.ok and report.ranks == 2 and decode.transfer_us
    assert decode.transfer_us["p50"] == 10.0
    assert decode.wait_ms_per_step == pytest.approx({"0": 0, "1": 0.006})


def no_steps(kind: str, rank: int) -> Trace:
    trace = Trace()
    if kind == "training":
        trace._event("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 1, 2)
    for _ in range(4):
        trace.run(GEMM, 30)
        trace.run(NCCL if kind == "training" else GATHER, 8)
    return trace


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("training", "no inference steps: a capture of training .autograd::engine"),
        ("fsdp", "no inference steps: no step is annotated, and of collectives there is only nccl"),
    ],
)
def test_what_is_not_inference_is_refused_for_that(kind: str, words: str, tmp_path: Path) -> None:
    paths = [no_steps(kind, r).write(tmp_path / f"rank{r}.json", info(r, 2)) for r in (0, 1)]
    with pytest.raises(CaptureError, match=words):
        analyse(paths)


def test_an_export_of_training_is_refused_for_that(tmp_path: Path) -> None:
    made = MadeUp()
    for _ in range(3):
        made.run("void flash_bwd_kernel<x>", 10_000)
        made.collective(NCCL, 4_000)
    with pytest.raises(CaptureError, match=r"a capture of training .void flash_bwd_kernel"):
        analyse([made.write(tmp_path / "made-up.sqlite")])


def test_an_export_of_experts_alone_has_groups_of_one(tmp_path: Path) -> None:
    """DP=2 at TP=1: rank 1 comes 2 us late to each dispatch."""
    made = MadeUp()
    for _ in range(3):
        made.announce()
        made.run(GEMM, 10_000, 12_000)
        made.collective("void deep_ep::internode_ll::dispatch<true>", 4_000)
        made.run(GEMM, 5_000)
        made.collective("void deep_ep::internode_ll::combine<true>", 3_000)
    first, second = analyse_groups([made.write(tmp_path / "made-up.sqlite")], ModelSizes(1, 1000))
    for report, waited in ((first, 0.002), (second, 0.0)):
        decode = report.phases["decode"]
        assert report.ok and report.ranks == 1
        assert decode.experts_ms_per_step == pytest.approx(0.007)
        assert decode.wait_ms_per_step and decode.wait_ms_per_step.popitem()[1] == pytest.approx(
            waited
        )


def test_no_all_reduce_is_never_without_a_warning(tmp_path: Path) -> None:
    paths = []
    for rank in (0, 1):
        trace = Trace()
        for _ in range(3):
            trace.step()
            trace.run("void fancy::sumOverGpus<2>", 10)
            trace.run(GATHER, 6)
        paths.append(trace.write(tmp_path / f"rank{rank}.json", info(rank, 2)))
    report = analyse(paths)
    assert report.self_check.found.all_reduce == 0
    assert "no all-reduce found on 2 ranks (collectives: all_gather)" in report.warnings[0]


def test_sglang_names_its_files_and_steps_differently(tmp_path: Path) -> None:
    for rank in (0, 1):
        trace = Trace()
        for words in ("step[EXTEND bs=2 toks=64]", "step[DECODE bs=2]", "step[DECODE bs=2]"):
            trace.step(words)
            for _ in range(3):
                trace.run("void sglang::cross_device_reduce_1stage<bf16, 2>(x)", 10 + rank)
            trace.run(GATHER, 6)
        trace.write(tmp_path / f"1759130995.32-TP-{rank}.trace.json")
    report = analyse([tmp_path], ModelSizes(1, 1000))
    assert report.ok and report.ranks == 2
    assert {name: phase.steps for name, phase in report.phases.items()} == {
        "decode": 2,
        "prefill": 1,
    }
    assert report.phases["decode"].wait_ms_per_step == pytest.approx({"0": 0, "1": 0.003})


def nsys(reduce: str = NCCL, steps: int = 3, words: str | None = None) -> MadeUp:
    """DP=2 x TP=2 in one export: ranks 0 and 1 reduce in 4 us, ranks 2 and 3 in 9 us."""
    made = MadeUp(ranks=4)
    for _ in range(steps):
        made.announce(words) if words else made.announce()
        for _ in range(3):
            made.run(GEMM, 10_000, 12_000, 10_000, 13_000)
            for pair, transfer in (((0, 1), 4_000), ((2, 3), 9_000)):
                ends = max(made.now[rank] for rank in pair) + transfer
                for rank in pair:
                    made.rows.append((rank, made.now[rank], ends, reduce))
                    made.now[rank] = ends
        made.run(GEMM, 5_000)
        made.run(GATHER, 6_000)
    return made


def check_nsys(reports: list[CommReport]) -> None:
    assert [(transfer, pytest.approx(waits)) for _, transfer, waits, _ in seen(reports)] == [
        (4.0, [0.006, 0.0]),
        (9.0, [0.009, 0.0]),
    ]
    assert all(report.ok for report in reports)


def test_an_export_of_two_groups_is_refused_or_divided_by_tp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nsys().write(tmp_path / "made-up.sqlite")
    config = model(tmp_path / "config.json", 1)
    assert run([path], config, True) == 2
    assert "4 ranks that reduce in groups of 2, not all together; pass --tp 2" in (
        capsys.readouterr().err
    )
    check_nsys(analyse_groups([path], ModelSizes(1, 1000), tp=2))
    assert run([path], config, True, Wanted(tp=2)) == 0


def test_an_export_of_two_groups_by_the_kernels_size(tmp_path: Path) -> None:
    name = CUSTOM.replace(", 2>", ", (int)2>")
    check_nsys(analyse_groups([nsys(name).write(tmp_path / "made-up.sqlite")]))


def test_an_export_of_two_groups_by_the_sidecar(tmp_path: Path) -> None:
    check_nsys(analyse_groups([nsys().write(tmp_path / "made-up.sqlite", tp=2)]))


def test_an_export_of_two_groups_by_the_processes_names(tmp_path: Path) -> None:
    """Devices as each process counts them: 0 and 1 in both copies."""
    path = nsys().write(tmp_path / "made-up.sqlite")
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET deviceId = deviceId % 2")
        base.execute("CREATE TABLE PROCESSES (globalPid, name)")
        names = [(r + 1 << 24, f"VLLM::Worker_DP{r // 2}_TP{r % 2}_EP{r}") for r in range(4)]
        base.executemany("INSERT INTO PROCESSES VALUES (?, ?)", names)
    reports = analyse_groups([path])
    assert [label for label, *_ in seen(reports)] == ["dp 0, ranks 0 and 1", "dp 1, ranks 2 and 3"]
    check_nsys(reports)


def test_an_export_of_two_groups_by_communicator(tmp_path: Path) -> None:
    path = nsys().write(tmp_path / "made-up.sqlite")
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("ALTER TABLE NVTX_EVENTS ADD COLUMN jsonText")
        ranges = [
            ("ncclAllReduce", (r + 1 << 24) + 5, f'{{"NCCL communicator ID": "{7 + r // 2},001"}}')
            for r in range(4)
        ]
        base.executemany("INSERT INTO NVTX_EVENTS VALUES (1, ?, ?, ?)", ranges)
    check_nsys(analyse_groups([path]))


def test_gpus_are_ordered_as_the_node_counts_them(tmp_path: Path) -> None:
    path = nsys().write(tmp_path / "made-up.sqlite")
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET deviceId = deviceId % 2")
        base.execute("CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId, cudaId, pid)")
        gpus = [(r, r % 2, r + 1) for r in range(4)]
        base.executemany("INSERT INTO TARGET_INFO_CUDA_DEVICE VALUES (?, ?, ?)", gpus)
    check_nsys(analyse_groups([path], tp=2))


def test_pipeline_stages_of_an_export_are_told_by_what_they_pass_on(tmp_path: Path) -> None:
    made = MadeUp(ranks=4)
    for _ in range(3):
        made.announce()
        for rank in range(4):
            for name, length in (
                [(NCCL, 4_000)] * 3 + [(SEND, 7_000)]
                if rank < 2
                else [(SEND, 20_000)] + [(NCCL, 4_000)] * 2 + [(GATHER, 6_000)]
            ):
                made.rows.append((rank, made.now[rank], made.now[rank] + length, name))
                made.now[rank] += length
    path = made.write(tmp_path / "made-up.sqlite")
    first, last = analyse_groups([path], ModelSizes(2, 1000), tp=2)
    assert first.ok and last.ok and first.group and last.group
    assert (first.group.label, last.group.label) == ("pp 0, ranks 0 and 1", "pp 1, ranks 2 and 3")
    assert last.phases["decode"].pipeline_ms_per_step == pytest.approx(0.02)


def test_stages_of_one_gpu_each_are_told_by_the_sidecar(tmp_path: Path) -> None:
    """vLLM's traces name no group of a single rank."""
    paths = []
    for stage in range(2):
        trace = Trace()
        for _ in range(3):
            trace.step()
            trace.run(SEND, 20 + stage)
            trace.run(GEMM, 10)
        paths.append(trace.write(tmp_path / f"x.rank{stage}.pt.trace.json", info(stage, 2, WORLD)))
    known = {"tp": 1, "pp": 2, "model": {"num_hidden_layers": 3, "hidden_size": 8}}
    (tmp_path / "x.json").write_text(json.dumps(known))
    first, last = analyse_groups(paths)
    assert first.ok and last.ok and first.group and last.group
    assert (first.group.label, last.group.label) == ("pp 0, rank 0", "pp 1, rank 1")
    assert first.phases["decode"].pipeline_ms_per_step == pytest.approx(0.02)
    assert last.phases["decode"].pipeline_ms_per_step == pytest.approx(0.021)
    with pytest.raises(CaptureError, match="1 of 2 ranks"):
        analyse_groups(paths[:1])


def test_an_export_of_tensorrt_llm_has_its_steps(tmp_path: Path) -> None:
    made = MadeUp()
    for step in range(3):
        made.announce(f"[Executor] _forward_step {step}: 0 ctx reqs, 0 ctx tokens, 4 gen reqs")
        for _ in range(3):
            made.collective("void tensorrt_llm::kernels::oneShotAllReduceKernel<bf16, 2>", 4_000)
        made.collective(GATHER, 6_000)
    report = analyse([made.write(tmp_path / "made-up.sqlite", tp=2)])
    decode = report.phases["decode"]
    assert report.ok and decode.steps == 3
    assert decode.algbw_gb_s == pytest.approx(4 * 2000 / 4000)


def test_a_group_of_another_size_than_its_all_reduces_is_refused(tmp_path: Path) -> None:
    """Attention in groups of 2 within a "tp" of 4: no pair waits for the other."""
    paths = []
    for rank in range(4):
        groups = WORLD, ("tp", [0, 1, 2, 3]), ("tp", [rank // 2 * 2, rank // 2 * 2 + 1])
        trace = tensor(Trace(), 40 if rank > 1 else 10)
        paths.append(trace.write(tmp_path / f"rank{rank}.trace.json", info(rank, 4, *groups)))
    with pytest.raises(
        CaptureError, match="join 2 ranks, but the group 0, 1, 2, 3 has 4; pass --t"
    ):
        analyse_groups(paths)
    first, second = analyse_groups(paths, tp=2)
    for report, us in ((first, 10), (second, 40)):
        decode = report.phases["decode"]
        assert decode.transfer_us and decode.transfer_us["p50"] == us
    with pytest.raises(CaptureError, match="but the group 0 has 1; pass --tp 2"):
        analyse_groups(paths, tp=1)


def test_numbers_of_distributed_info_may_be_text_or_null(tmp_path: Path) -> None:
    paths = []
    for rank in range(2):
        said = {**info(rank, 2, ("tp", [0, 1])), "rank": str(rank), "world_size": "2"}
        paths.append(tensor(Trace(), 10).write(tmp_path / f"rank{rank}.trace.json", said))
    (report,) = analyse_groups(paths)
    assert report.ok and report.ranks == 2
    for rank, path in enumerate(paths):
        tensor(Trace(), 10).write(path, {**info(rank, 2), "rank": None})
    assert analyse_groups(paths)[0].ranks == 2


def test_arguments_that_are_no_object_are_refused(tmp_path: Path) -> None:
    trace = tensor(Trace(), 10)
    next(event for event in trace.events if event["cat"] == "kernel")["args"] = [1]
    with pytest.raises(
        CaptureError, match=r"not a PyTorch profiler trace \(TypeError\('args: \[1\]"
    ):
        analyse_groups([trace.write(tmp_path / "rank0.trace.json", info(0, 1))])


LOGITS = GATHER.replace("RING_LL", "TREE_LL")


def shared_cache(
    folder: Path,
    gathers: int = 2,
    scatters: int = 1,
    dcp: int | None = 2,
    ranks: int = 2,
) -> list[Path]:
    """SYNTHETIC: a model of two layers whose ranks share a cache: in each layer queries and the
    sums of scores are gathered, the results scattered."""
    paths = []
    reduce = CUSTOM.replace("2>", f"{ranks}>")
    for rank in range(ranks):
        trace = Trace()
        for _ in range(4):
            trace.step()
            trace.run(reduce, 4)
            for _ in range(2):
                trace.run(GEMM, 20)
                for _ in range(gathers):
                    trace.run(GATHER, 3)
                for _ in range(scatters):
                    trace.run(SCATTER, 5 + rank)
                for _ in range(2):
                    trace.run(reduce, 4)
            trace.run(LOGITS, 6)
        path = folder / f"b1.rank{rank}.pt.trace.json"
        groups = [("tp", list(range(ranks))), ("dcp", [rank // 2 * 2, rank // 2 * 2 + 1])]
        paths.append(trace.write(path, info(rank, ranks, *groups)))
    known = {"tp": ranks, "pp": 1, "dcp": dcp, "synthetic": True}
    (folder / "b1.json").write_text(json.dumps(known))
    return paths


def test_ranks_that_share_a_cache_have_their_own_counts(tmp_path: Path) -> None:
    """By hand, 2 layers: 2 x 2 + 1 all-reduces and all-gathers, 2 reduce-scatters."""
    report = analyse(shared_cache(tmp_path), ModelSizes(2, 1000))
    found = report.self_check.found
    assert report.ok and report.warnings == []
    assert (found.all_reduce, found.all_gather, found.reduce_scatter) == (5, 5, 2)
    decode = report.phases["decode"]
    # Not of all-reduces alone: what is scattered takes 5 us on the faster rank.
    assert decode.transfer_ms_per_step == pytest.approx(5 * 0.004 + 2 * 0.005)
    assert decode.all_gather_ms_per_step == pytest.approx(4 * 0.003 + 0.006)
    assert report.to_dict()["self_check"]["expected"]["reduce_scatter"] == 2


@pytest.mark.parametrize(
    ("gathers", "scatters", "dcp"), [(1, 1, 2), (2, 2, 2), (2, 0, 2), (2, 1, 1), (2, 1, None)]
)
def test_counts_of_another_sharing_fail(
    gathers: int, scatters: int, dcp: int | None, tmp_path: Path
) -> None:
    """Another exchange, or a capture that says that nothing is shared."""
    report = analyse(shared_cache(tmp_path, gathers, scatters, dcp), ModelSizes(2, 1000))
    assert not report.ok
    assert report.phases["decode"].transfer_us is None


@pytest.mark.parametrize("is_named", [False, True])
def test_a_cache_that_parts_of_the_ranks_share_has_no_times(is_named: bool, tmp_path: Path) -> None:
    """Also where the trace names the parts: they are of no experts."""
    paths = shared_cache(tmp_path, ranks=4)
    if is_named:
        for rank, path in enumerate(paths):
            said = json.loads(path.read_text())
            for event in said["traceEvents"]:
                if event["name"] in (GATHER, SCATTER):
                    event["args"]["Process Group Ranks"] = str([rank // 2 * 2, rank // 2 * 2 + 1])
            path.write_text(json.dumps(said))
    report = analyse(paths, ModelSizes(2, 1000))
    assert not report.ok
    found = report.self_check.found
    assert (found.all_gather, found.reduce_scatter, found.dispatch) == (5, 2, None)
    assert "dcp 2 of tp 4: parts of the ranks share their cache" in report.warnings[-1]
