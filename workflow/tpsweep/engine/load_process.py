"""The load generator in a process of its own: client and server share no Python process.

It imports vLLM's benchmark code while the engine starts, and stays for the whole session.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import psutil

from tpsweep.core.errors import EngineDiedError
from tpsweep.engine.load_generator import Sent, Target
from tpsweep.sweep.request_set import RequestSet

END_S = 5.0


class LoadProcess:
    """A process that sends request sets, with the tokenizer of ``model``."""

    def __init__(self, model: str, revision: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, model, revision), name="load-generator", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it is there."""
        return self._process.is_alive()

    @property
    def process(self) -> psutil.Process:
        """The process."""
        return psutil.Process(self._process.pid)

    def send(
        self,
        url: str,
        key: str,
        requests: RequestSet,
        rate: float | None,
        concurrency: int | None,
        seed: int,
        slo: Mapping[str, float],
    ) -> Sent:
        """As ``load_generator.send``, whose ``ValueError`` is raised here.

        Raises ``EngineDiedError`` if the process is gone: its requests may still be running, so
        that the engine must not measure anything more.
        """
        try:
            self._pipe.send((url, key, requests, rate, concurrency, seed, dict(slo)))
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


def _serve(pipe: Connection, model: str, revision: str | None) -> None:
    """What runs in the process, until the other end of ``pipe`` is closed."""
    from vllm.tokenizers import get_tokenizer

    from tpsweep.engine import load_generator

    load_generator.import_vllm()
    tokenizer: Any = get_tokenizer(model, revision=revision)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            url, key, *asked = pipe.recv()
            try:
                pipe.send(load_generator.send(Target(url, key, tokenizer), *asked))
            except ValueError as error:  # anything else ends the process, its trace in the log
                pipe.send(ValueError(str(error)))
