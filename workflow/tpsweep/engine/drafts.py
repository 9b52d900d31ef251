"""Speculative decoding as vLLM counts it: drafts, and how many of their tokens were accepted."""

from __future__ import annotations

from dataclasses import dataclass

from tpsweep.engine.metrics import total


@dataclass(frozen=True)
class Drafts:
    """Counted since the engine's start. A draft is one sequence's in one step."""

    made: float
    accepted: float

    @classmethod
    def read(cls, metrics: str) -> Drafts:
        """From vLLM's metrics in Prometheus' text format (the server's ``/metrics``)."""
        return cls(
            total(metrics, "vllm:spec_decode_num_drafts_total"),
            total(metrics, "vllm:spec_decode_num_accepted_tokens_total"),
        )

    def length_since(self, before: Drafts) -> float | None:
        """Acceptance length: tokens per sequence and step with a draft, the model's own included.

        As vLLM defines it (``vllm/v1/spec_decode/metrics.py``); None where nothing was drafted.
        """
        made = self.made - before.made
        return 1 + (self.accepted - before.accepted) / made if made else None


def in_this_process() -> Drafts:
    """Of the engine whose front end is in this process."""
    import prometheus_client

    return Drafts.read(prometheus_client.generate_latest().decode())
