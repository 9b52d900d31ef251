"""An SLO from a command line: what cannot be meant is one line, never another SLO."""

from __future__ import annotations

import re

import pytest

from tpsweep.core.slo import Slo


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft_p99_ms=500,ttft_p99_ms=100", "ttft_p99_ms: given twice, allowed: once"),
        ("ttft_ms=500", "'ttft_ms=500': allowed: goodput_share together with ttft_ms, tpot_ms or"),
        ("ttft_p99_ms=9,goodput_share=0.9", "allowed: goodput_share together with ttft_ms, tpot_"),
        ("goodput_share=95,ttft_ms=500", "goodput_share: 95.0, allowed: above 0, up to 0.999"),
        ("goodput_share=1,ttft_ms=500", "goodput_share: 1.0, allowed: above 0, up to 0.999"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        Slo.parse(text)
    assert "\n" not in str(caught.value)


def test_a_share_and_its_limits_are_taken() -> None:
    assert Slo.parse("goodput_share=0.9, e2e_ms=20000").by_name == {
        "e2e_ms": 20000.0,
        "goodput_share": 0.9,
    }
