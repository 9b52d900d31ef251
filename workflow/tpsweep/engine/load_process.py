"""The load generator in a process of its own: client and server share no Python process.

It is forked from a process that has imported vLLM's benchmark code and done nothing else yet, and
stays for the whole session. One that is started later imports by itself, which takes seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tpsweep.core.errors import EngineDiedError
from tpsweep.core.slo_counts import Stop
from tpsweep.engine import load_generator
from tpsweep.engine.load_generator import Sent, Target
from tpsweep.sweep.request_set import RequestSet

END_S = 5.0


class LoadProcess:
    """A process that sends request sets, with the tokenizer of ``model``.

    ``forked``: from this process, which must have no other thread of Python's.
    """

    def __init__(self, model: str, revision: str | None, *, forked: bool) -> None:
        if forked:
            load_generator.import_vllm()
        context = multiprocessing.get_context("fork" if forked else "spawn")
        self._pipe, theirs = multiprocessing.Pipe()
        # A fork has our end of the pipe, too, and would never see that we are gone.
        ours = self._pipe if forked else None
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, ours, model, revision), name="load-generator", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it is there."""
        return self._process.is_alive()

    def send(
        self,
        url: str,
        key: str,
        requests: RequestSet,
        rate: float | None,
        concurrency: int | None,
        seed: int,
        slo: Mapping[str, float],
        stop: Stop | None = None,
    ) -> Sent:
        """As ``load_generator.send``, whose ``ValueError`` is raised here.

        Raises ``EngineDiedError`` if the process is gone: its requests may still be running, so
        that the engine must not measure anything more.
        """
        try:
            self._pipe.send((url, key, requests, rate, concurrency, seed, dict(slo), stop))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(END_S)
            said = f"exit code {self._process.exitcode}"
            raise EngineDiedError(f"the load generator died ({said})") from error
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.kill()
        self._process.join(END_S)


def _serve(pipe: Connection, other: Connection | None, model: str, revision: str | None) -> None:
    """What runs in the process, until the other end of ``pipe`` is closed."""
    if other:
        other.close()
    from vllm.tokenizers import get_tokenizer

    load_generator.import_vllm()
    tokenizer: Any = get_tokenizer(model, revision=revision)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            url, key, *asked = pipe.recv()
            try:
                pipe.send(load_generator.send(Target(url, key, tokenizer), *asked))
            except ValueError as error:  # anything else ends the process, its trace in the log
                pipe.send(ValueError(str(error)))
