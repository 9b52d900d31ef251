"""Acceptance length from vLLM's counters."""

from __future__ import annotations

import pytest

from tpsweep.engine.drafts import Drafts

METRICS = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 30.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 10.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="m"} 1.7e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 120.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 61.0
vllm:spec_decode_num_accepted_tokens_total{engine="1",model_name="m"} 5.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 40.0
"""


def test_all_engines_of_a_server_count() -> None:
    assert Drafts.read(METRICS) == Drafts(made=40, accepted=66)


def test_length_is_of_the_drafts_since_then() -> None:
    assert Drafts(40, 66).length_since(Drafts(20, 20)) == pytest.approx(1 + 46 / 20)


def test_without_drafts_there_is_no_length() -> None:
    assert Drafts.read("vllm:request_success_total 3.0\n") == Drafts(0, 0)
    assert Drafts(5, 3).length_since(Drafts(5, 3)) is None
