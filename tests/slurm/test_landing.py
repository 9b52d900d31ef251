"""A matrix over three partitions and three GPU counts lands where it should."""

from __future__ import annotations

import pytest

from tests.slurm.lab import Lab
from tests.slurm.workflow import SlurmWorkflow

CLASSES = [(gpu, n) for gpu, most in (("h100", 4), ("h200", 4), ("a100", 2)) for n in (1, 2, 4)]
PER_NODE = {"h100": 4, "h200": 4, "a100": 2}


@pytest.mark.slurm
def test_every_element_has_its_partition_its_gres_and_its_gpus(
    lab: Lab, flow: SlurmWorkflow
) -> None:
    classes = [(gpu, n) for gpu, n in CLASSES if n <= PER_NODE[gpu]]
    cells = {
        f"{gpu}x{n}-{run}-{k}": {"gpu": gpu, "gpus": n, "session": f"{gpu}x{n}-{run}", "order": k}
        for gpu, n in classes
        for run in (1, 2)
        for k in range(2)
    }
    flow.write(cells)
    code, said = flow.run()
    assert code == 0, said
    # Two sessions of equal parameters are one array of two elements.
    assert said.count("submitted ") == len(classes) == 8
    assert flow.starts() == len(flow.sessions()) == 2 * len(classes)
    events = {event.cell: event for event in flow.events() if event.what == "done"}
    assert set(events) == set(cells)
    # Accounting hears of the last jobs a little later.
    flow.wait_for(lambda: len(rows(lab, events.values())) == 2 * len(classes), 30)
    accounted = rows(lab, events.values())
    for cell, asked in cells.items():
        event = events[cell]
        gpu, n = asked["gpu"], asked["gpus"]
        partition, tres, state = accounted[event.job]
        print(f"{cell}: {event.job} {partition} {tres} {event.devices}")
        assert (partition, state) == (f"gpu-{gpu}", "COMPLETED")
        assert f"gres/gpu:{gpu}={n}" in tres.split(",")
        assert event.partition == partition
        assert event.node.startswith(gpu)
        devices = event.devices.split(",")
        assert len(set(devices)) == n
        assert set(devices) <= {str(k) for k in range(PER_NODE[gpu])}


def rows(lab: Lab, events: object) -> dict[str, tuple[str, str, str]]:
    """Job -> partition, TRES and state of finished elements, from sacct."""
    arrays = {event.job.partition("_")[0] for event in events}  # type: ignore[attr-defined]
    text = lab.sacct(",".join(arrays), "JobID,Partition,AllocTRES,State")
    return {row[0]: (row[1], row[2], row[3]) for row in text if row[3] == "COMPLETED"}
