"""NVLink: the peak of a link class, and NVML's counters of what went over a GPU's links."""

from __future__ import annotations

import re
from typing import Any

from tpsweep.perfmodel.gpu_specs import card_by_name

LINK_GB_S, LINK5_GB_S = 25.0, 50.0
"""One direction of one link, GB/s: NVLink 3 and 4 (datasheets: 12 x 25 A100, 18 x 25 H100/H200),
and NVLink 5 (18 x 50 B200)."""
SENT, RECEIVED = 138, 139
"""NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX (nvml.h): KiB of payload. The older counter
(nvmlDeviceGetNvLinkUtilizationCounter) is deprecated."""
ALL_LINKS = 0xFFFFFFFF
"""As the field's scope: the sum over the GPU's links."""


def peak_gb_s(link: str | None, card: str | None) -> float | None:
    """Peak of one direction between two GPUs of a ``topo -m`` class; None but for ``NV<k>``.

    ``card``: its name, which tells NVLink 5; any other, or none, is taken for NVLink 3 or 4.
    """
    match = re.fullmatch(r"NV([1-9]\d?)", link or "")
    known = card_by_name(card or "")
    if match is None:
        return None
    return int(match[1]) * (LINK5_GB_S if known and "NVLink 5" in known.link else LINK_GB_S)


def counters(gpu: Any) -> tuple[int, int] | None:
    """KiB sent and received by a GPU (NVML handle) over all its links, since some time.

    None where it has no NVLink or the driver does not count: never 0 for what is not known.
    """
    import pynvml

    try:
        fields = pynvml.nvmlDeviceGetFieldValues(gpu, [(SENT, ALL_LINKS), (RECEIVED, ALL_LINKS)])
    except pynvml.NVMLError:
        return None
    if any(field.nvmlReturn != pynvml.NVML_SUCCESS for field in fields):
        return None
    sent, received = (int(field.value.ullVal) for field in fields)
    return sent, received
