"""How vLLM starts a static batch on pipeline stages, and when the last of them is done.

Under a pipeline requests are not held until all are queued (docs/measuring.md). The first request
is a step of its own. While that step is handed to the workers some more requests come, which are
the second step; by the third all are there. Pure; docs/expectation.md has vLLM's code behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Filled:
    """Steps of a static batch's prefill. ``prompts``: how many each computes, a part of a prompt
    counting in part. ``group``: sequences of the largest group that decodes together."""

    prompts: tuple[float, ...]
    group: int


def filled(batch: int, input_len: int, step_tokens: int, pp: int, behind: int) -> Filled:
    """The steps of ``batch`` prompts, each of at most ``step_tokens`` tokens.

    ``behind``: requests that come while the first step is handed out. A sequence is in every
    ``pp``-th step from that of its last prompt token on, and so is one whose prompt ended ``pp``
    steps later: the two are one group.
    """
    return _filled((1, 1 + behind), batch, input_len, step_tokens, pp)


def at_once(batch: int, input_len: int, step_tokens: int) -> Filled:
    """The same of a batch that was held until all of it was queued, on one stage."""
    return _filled((), batch, input_len, step_tokens, pp=1)


def _filled(come: Sequence[int], batch: int, input_len: int, step_tokens: int, pp: int) -> Filled:
    """``come``: requests that are there by the first steps; by the next ones all are."""
    prompts: list[float] = []
    groups = [0] * pp
    done, whole = 0, batch * input_len
    for here in itertools.chain(come, itertools.repeat(batch)):
        if done == whole:
            break
        tokens = min(min(here, batch) * input_len - done, step_tokens)
        if tokens == 0:  # nobody came behind the first: the step is the next ones'
            continue
        ended = (done + tokens) // input_len - done // input_len
        groups[len(prompts) % pp] += ended
        prompts.append(tokens / input_len)
        done += tokens
    return Filled(tuple(prompts), max(groups))


def last_end(times: Sequence[Sequence[float]], sends: Sequence[float]) -> float:
    """When the last step leaves the last stage.

    ``times``: of each step, its time on every stage; ``sends``: of each step, what handing it to
    the next stage takes. A stage begins its next step when the stage behind has begun the last
    one: vLLM waits for a send before the next step, and a send of this size for its receiver.
    """
    stages = len(times[0])
    began, ended = [0.0] * stages, [0.0] * stages
    for step, send in zip(times, sends, strict=True):
        # What the stage behind began last, until it is overwritten: the step before.
        before = began.copy()
        given = 0.0
        for stage in range(stages):
            taken_over = before[stage + 1] if stage + 1 < stages else 0.0
            began[stage] = max(given, ended[stage], taken_over)
            ended[stage] = began[stage] + step[stage]
            given = ended[stage] + send
    return ended[-1]
