"""GPU state: windows over sampler readings, and links from nvidia-smi's matrix."""

from __future__ import annotations

import pytest

from tpsweep.gpus import Sample, link_matrix, weakest_of, window

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


def sample(at: float, **changes: float | str) -> Sample:
    fields: dict[str, float | str] = {
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
    samples = [sample(t / 10) for t in range(40)]
    found = window(samples, "GPU-a", begin=0.5, measured=1.05, end=2.55)
    assert found is not None
    assert found.energy_j == pytest.approx(150.0)
    assert found.power_w == pytest.approx(100.0)


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
