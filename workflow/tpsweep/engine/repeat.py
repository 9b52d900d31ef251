"""One generate() call of an offline engine, and whether it may count (measuring rule 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tpsweep.engine import vllm_api


@dataclass(frozen=True)
class Finished:
    """What one request came to, of all that ``vllm.RequestOutput`` holds. Times in seconds."""

    prompt_tokens: int
    output_tokens: int
    finish_reason: str | None
    cached_tokens: int
    times: vllm_api.RequestTimes


@dataclass(frozen=True)
class Repeat:
    """One generate() call: its wall time and its requests, in the order of the prompts.

    ``outputs_at``: the engine core's time of each step that gave tokens, seconds, on the clock of
    the requests' times. ``held``: the scheduler was paused until all requests were queued.
    """

    wall_s: float
    requests: list[Finished]
    outputs_at: tuple[float, ...] = ()
    held: bool = False

    @property
    def scheduled_instants(self) -> int:
        """Scheduler steps in which requests were first scheduled: 1 for a batch in one piece."""
        return len({request.times.scheduled for request in self.requests})


class Generate(Protocol):
    """One generate() call on the engine; prompts are token ids, output lengths one per prompt."""

    def __call__(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat: ...


def refusals(
    repeats: Sequence[Repeat], prompt_lens: Sequence[int], output_lens: Sequence[int]
) -> list[str]:
    """Why repeats must not become a row; empty if they may. Lengths: one per request."""
    reasons = []
    if any(len(repeat.requests) != len(prompt_lens) for repeat in repeats):
        reasons.append(f"a repeat returned another number of requests than {len(prompt_lens)}")
    requests = [request for repeat in repeats for request in repeat.requests]
    asked = [pair for repeat in repeats for pair in zip(prompt_lens, output_lens, strict=True)]
    both = list(zip(requests, asked, strict=False))
    wrong = [(r.output_tokens, length) for r, (_, length) in both if r.output_tokens != length]
    if wrong:
        reasons.append(
            f"{len(wrong)} of {len(requests)} requests gave another number of tokens than "
            f"{wrong[0][1]}, e.g. {wrong[0][0]}"
        )
    prompts = [(r.prompt_tokens, length) for r, (length, _) in both if r.prompt_tokens != length]
    if prompts:
        reasons.append(f"prompts had {prompts[0][0]} tokens, not {prompts[0][1]}")
    ends = {r.finish_reason for r in requests} - {"length"}
    if ends:
        reasons.append(f"requests ended with {sorted(map(str, ends))}, not only by length")
    cached = sum(r.cached_tokens for r in requests)
    if cached:
        reasons.append(f"{cached} prompt tokens came from the prefix cache")
    return reasons
