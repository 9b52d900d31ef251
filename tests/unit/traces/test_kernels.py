"""The table of kernels: every row by the names that it must know, and names that it must not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tpsweep.traces.kernels import Kernel, classify, table

NAMES: dict[str, list[Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "data/kernel_names.yaml").read_text("utf-8")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_its_class(name: str) -> None:
    row = table().rows[classify([name]).row[0]]
    found = [row.collective, row.backend, row.algorithm, row.fused, row.lower_bound]
    assert found == NAMES[name]


def test_no_row_of_the_table_goes_untested() -> None:
    used = set(classify(list(NAMES)).row.tolist())
    local = {at for at, row in enumerate(table().rows) if row.collective == "local"}
    assert used == set(range(len(table().rows))) - local
    assert all(row.source and row.versions for row in table().rows)


@pytest.mark.parametrize(
    "name",
    [
        "void vllm::rms_norm_kernel<c10::BFloat16>",
        "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>",
        "triton_red_fused_fused_add_rms_norm_0",
        "void cublasLt::splitKreduce_kernel<(int)32>",
        "void vllm::beam::oneshot<int>",
        "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_TNT",
        "void deep_ep::layout::get_dispatch_layout<256, 32>",
        "moeA2APrepareDispatchKernel<8>",
        "void vllm::moe::topk_dispatch<x>",
        "void cub::DeviceReduceKernel<x>",
    ],
)
def test_no_communication_and_no_candidate(name: str) -> None:
    classes = classify([name])
    assert classes.row[0] == -1 and not classes.unknown[0]


@pytest.mark.parametrize(
    "name",
    [
        "superAllReduceKernel<bf16>",
        "void x::all_to_all_single",
        "nvshmemi_put",
        "deep_ep::x",
        "rcclKernel_new",
        "mori_shmem_put",
        "void all2all_x<2>",
        "peer_reduce_x",
    ],
)
def test_candidates(name: str) -> None:
    classes = classify([name])
    assert classes.row[0] == -1 and classes.unknown[0]


def test_a_row_with_an_impossible_word_is_refused() -> None:
    with pytest.raises(ValueError, match="collective: 'allreduce'; allowed: all_reduce"):
        Kernel("x", "allreduce", "custom", "here", "all")
