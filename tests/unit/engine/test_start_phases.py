"""Where the seconds of a start go, by vLLM's own lines."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from tpsweep.engine.start_phases import phases_of

# Lines as vLLM writes them (0.25 to 0.33), of two workers and a compiled model; prefixes shortened.
LOG = """\
(Worker_TP0 pid=1) INFO [gpu_model_runner.py:5150] Model loading took 7.51 GiB memory and 5.200000 seconds
(Worker_TP1 pid=2) INFO [gpu_model_runner.py:5150] Model loading took 7.51 GiB memory and 6.500000 seconds
(Worker_TP0 pid=1) INFO [monitor.py:53] torch.compile took 21.30 s in total
(Worker_TP0 pid=1) INFO [gpu_model_runner.py:6582] Graph capturing finished in 9 secs, took 0.61 GiB
(EngineCore pid=3) INFO [core.py:395] init engine (profile, create kv cache, warmup model) took \
40.30 s (compilation: 21.30 s)
"""  # noqa: E501


def test_the_parts_sum_up_to_the_start() -> None:
    phases = phases_of(LOG, imports_s=8.0, http_s=1.5, start_s=90.0)
    assert (phases.start_weights_s, phases.start_compile_s, phases.start_graphs_s) == (6.5, 21.3, 9)
    assert phases.start_kv_s == pytest.approx(40.3 - 21.3 - 9)
    assert phases.start_processes_s == pytest.approx(90 - 8 - 1.5 - 6.5 - 40.3)
    assert sum(x for x in astuple(phases) if x is not None) == pytest.approx(90)


def test_what_the_log_does_not_tell_is_with_its_neighbour() -> None:
    # vLLM's CPU build in eager mode tells the initialization alone.
    text = "[core.py:403] init engine (profile, create kv cache, warmup model) took 2.50 s\n"
    phases = phases_of(text, imports_s=8.0, http_s=0.0, start_s=30.0)
    assert (phases.start_weights_s, phases.start_compile_s, phases.start_graphs_s) == (None,) * 3
    assert phases.start_kv_s == 2.5
    assert phases.start_processes_s == pytest.approx(30 - 8 - 2.5)
    assert phases_of("", 8.0, 0.0, 30.0).start_kv_s is None
