"""The benchmark's two ways find the same figures, on a short repetition of the capture."""

from pathlib import Path

from tests.bench.capture_million import CAPTURE, WAYS, agree, repeat


def test_both_ways_agree(tmp_path: Path) -> None:
    path = tmp_path / "short.sqlite"
    kernels = repeat(CAPTURE, path, 30_000)
    assert kernels >= 30_000
    runs = {way: [measure(path)] for way, measure in WAYS.items()}
    assert agree(runs) == []
    assert runs["tpsweep"][0]["steps"] == 15 * (kernels // 15980)
    runs["pandas"][0]["gap_ms"] *= 1.01
    assert agree(runs) == ["gap_ms"]
