"""GPU state: windows over sampler readings, and links from nvidia-smi's matrix."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tpsweep.engine.nvml import PhaseState, Sample, link_matrix, node_uuids, weakest_of, window
from tpsweep.perfmodel import nvlink

# Written by `nvidia-smi topo -m` on a host with two H200s, and shortened; then one made up.
TWO_H200 = """\
\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNV18\t0-31\t0\t\tN/A
GPU1\tNV18\t X \t0-31\t0\t\tN/A

Legend:
"""
SYNTHETIC_THREE = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\x1b[0m
GPU0\t X \tNV4\tSYS\tPIX\t0-7
GPU1\tNV4\t X \tPHB\tSYS\t0-7
GPU2\tSYS\tPHB\t X \tSYS\t8-15
NIC0\tPIX\tSYS\tSYS\t X \t
"""


def sample(at: float, **changes: float | str | None) -> Sample:
    fields: dict[str, float | str | None] = {
        "uuid": "GPU-a",
        "power_w": 100.0,
        "energy_j": 100.0 * at,
        "memory_used_b": 5,
        "utilisation_pct": 50.0,
        "sm_clock_mhz": 1500.0,
        "mem_clock_mhz": 2600.0,
        "temperature_c": 40.0,
    }
    return Sample(at=at, **{**fields, **changes})  # type: ignore[arg-type]


def test_energy_is_read_between_the_samples() -> None:
    samples = [sample(t / 10) for t in range(80)]
    found = window(samples, "GPU-a", begin=0.5, measured=1.05, end=7.55)
    assert found is not None
    assert found.energy_j == pytest.approx(650.0)
    assert found.power_w == pytest.approx(100.0)


def test_over_less_than_five_seconds_there_is_no_energy() -> None:
    samples = [sample(t / 10) for t in range(80)]
    found = window(samples, "GPU-a", begin=0.5, measured=1.0, end=5.9)
    assert found is not None
    assert found.energy_j is None


def test_nvlink_traffic_is_the_counters_difference() -> None:
    rate = 9765625  # KiB/s: 10 GB/s
    samples = [
        sample(t / 10, nvlink_sent_kib=5 + rate * t // 10, nvlink_received_kib=7) for t in range(40)
    ]
    found = window(samples, "GPU-a", begin=0.5, measured=1.05, end=2.55)
    assert found is not None
    assert found.nvlink_sent_gb_s == pytest.approx(10.0, rel=1e-6)
    assert found.nvlink_received_gb_s == 0.0


def test_a_gpu_that_does_not_count_has_no_traffic_rather_than_none_at_all() -> None:
    found = window([sample(t / 10) for t in range(40)], "GPU-a", 0.5, 1.0, 2.5)
    assert found is not None
    assert (found.nvlink_sent_gb_s, found.nvlink_received_gb_s) == (None, None)


class StandInNvml:
    """NVML as far as the counters use it."""

    class NVMLError(Exception): ...

    NVML_SUCCESS = 0

    def __init__(self, returns: tuple[int, int] = (0, 0), fails: bool = False) -> None:
        self.returns, self.fails = returns, fails

    def nvmlDeviceGetFieldValues(self, gpu: object, fields: list[tuple[int, int]]) -> list[object]:  # noqa: N802
        if self.fails:
            raise self.NVMLError
        assert fields == [(138, 0xFFFFFFFF), (139, 0xFFFFFFFF)]
        return [
            SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(ullVal=10 + at))
            for at, code in enumerate(self.returns)
        ]


@pytest.mark.parametrize(
    ("nvml", "expected"),
    [
        (StandInNvml(), (10, 11)),
        (StandInNvml(returns=(0, 3)), None),
        (StandInNvml(fails=True), None),
    ],
)
def test_counters_that_cannot_be_read_are_not_zero(
    nvml: StandInNvml, expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert nvlink.counters(object()) == expected


def test_every_gpu_of_the_node_is_listed_but_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class LostError(Exception):
        """What NVML says of a GPU that has fallen off the bus."""

    def handle(index: int) -> int:
        if index == 1:
            raise LostError
        return index

    standin = SimpleNamespace(
        NVMLError=LostError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
    )
    monkeypatch.setitem(sys.modules, "pynvml", standin)
    assert node_uuids() == ["GPU-0", "GPU-2"]


def test_the_peak_of_a_link_class() -> None:
    assert nvlink.peak_gb_s("NV18", "NVIDIA H200") == 450.0
    assert nvlink.peak_gb_s("NV12", "NVIDIA A100-SXM4-80GB") == 300.0
    assert nvlink.peak_gb_s("NV18", "NVIDIA B200") == 900.0  # NVLink 5: twice as much a link
    assert [nvlink.peak_gb_s(x, "NVIDIA H200") for x in ("PIX", "SYS", None)] == [None] * 3
    assert nvlink.peak_gb_s("NV18", None) == nvlink.peak_gb_s("NV18", "made up") == 450.0


def test_a_window_sees_its_own_gpu_and_time_only() -> None:
    samples = [sample(t / 10) for t in range(30)]
    samples += [sample(t / 10, uuid="GPU-b", utilisation_pct=99.0) for t in range(30)]
    samples += [sample(5.0, utilisation_pct=98.0), sample(0.0, sm_clock_mhz=1.0)]
    found = window(samples, "GPU-a", begin=1.0, measured=1.5, end=2.5)
    assert found is not None
    assert (found.utilisation_pct, found.sm_clock_min_mhz) == (50.0, 1500.0)


def test_a_gpu_without_samples_has_no_window() -> None:
    assert window([sample(1.0), sample(2.0)], "GPU-b", 0.0, 1.0, 3.0) is None


def test_links() -> None:
    assert weakest_of(link_matrix(TWO_H200), [0, 1]) == "NV18"
    matrix = link_matrix(SYNTHETIC_THREE)
    assert weakest_of(matrix, [0, 1]) == "NV4"
    assert weakest_of(matrix, [0, 1, 2]) == "SYS"
    assert weakest_of(matrix, [1, 2]) == "PHB"
    assert weakest_of(matrix, [0, 3]) is None


def test_phases_are_pooled_over_repeats_and_short_ones_say_nothing() -> None:
    samples = [
        sample(t / 10, sm_clock_mhz=1200.0 if t % 10 < 3 else 1980.0, power_now_w=float(t % 10))
        for t in range(80)
    ]
    # Of each second the first three samples are prefill, the others decode.
    prefill = [(second - 0.05, second + 0.25) for second in range(1, 7)]
    decode = [(second + 0.25, second + 0.95) for second in range(1, 7)]
    phases = {"prefill": prefill, "decode": decode, "other": prefill[:1]}
    found = window(samples, "GPU-a", 0.5, 1.0, 7.5, phases)
    assert found is not None
    assert found.phases["prefill"] == PhaseState(18, 1200.0, 1.0)
    assert found.phases["decode"] == PhaseState(42, 1980.0, 6.0)
    assert found.phases["other"] == PhaseState(3)


def test_a_phase_has_no_power_where_the_driver_tells_none_of_the_moment() -> None:
    found = window([sample(t / 10) for t in range(80)], "GPU-a", 0.5, 1.0, 7.5, {"p": [(2, 3)]})
    assert found is not None
    assert (found.phases["p"].sm_clock_mhz, found.phases["p"].power_w) == (1500.0, None)
