"""A vLLM API server of a session: on loopback, with a port and a key of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from tpsweep.core.cell import Engine
from tpsweep.core.errors import EngineDiedError, StartError
from tpsweep.core.failure import log_since, log_size, telling_lines
from tpsweep.core.slo_counts import Stop
from tpsweep.engine import load_generator, vllm_api
from tpsweep.engine.drafts import Drafts
from tpsweep.engine.load_generator import Sent
from tpsweep.engine.metrics import total
from tpsweep.perfmodel.layout_problem import data_problem
from tpsweep.perfmodel.model_shape import shape_of
from tpsweep.sweep.request_set import RequestSet

HOST = "127.0.0.1"
PORT_TRIES = 2
"""Another process may take the port between our check and the server's start."""
_PORT_TAKEN = "address already in use"
_END_S = 20.0


@dataclass(frozen=True)
class Counters:
    """What a server has counted since its start: prompt tokens found in its prefix cache, and
    requests that it has finished, whoever sent them."""

    prefix_hits: float
    finished: float


def read_metrics(url: str) -> str:
    """The metrics of the server at ``url``, in Prometheus' text format."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        return str(response.read().decode())


def read_counters(url: str) -> Counters:
    """What the server at ``url`` has counted."""
    metrics = read_metrics(url)
    return Counters(
        total(metrics, "vllm:prefix_cache_hits_total"),
        total(metrics, "vllm:request_success_total"),
    )


def free_port() -> int:
    """A TCP port that nobody listens on at HOST now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """A server that answers, for one engine; ``log`` is the file that its output goes to.

    Raises ``StartError`` if it does not come up as asked.
    """

    def __init__(self, engine: Engine, log: str, port: Callable[[], int] = free_port) -> None:
        self.engine = engine
        self.arguments: dict[str, Any] = vllm_api.server_arguments(
            engine, load_generator.MODEL_NAME
        )
        self._key = secrets.token_urlsafe(32)
        for left in reversed(range(PORT_TRIES)):
            offset, number = log_size(log), port()
            self.url = f"http://{HOST}:{number}"
            self.process = self._start(number)
            load_generator.import_vllm()
            if self._await_ready():
                break
            said = log_since(log, offset)
            if _PORT_TAKEN not in said.lower():
                raise StartError("engine_start", self._last_words(said))
            if not left:
                taken = f"port: {number}: in use by another process, like the one before"
                raise StartError("engine_start", f"{taken}; allowed: a free port; try again")
        self._check_engines()
        self._read_model(log_since(log, offset))

    @property
    def alive(self) -> bool:
        """Whether its main process is there."""
        return self.process.poll() is None

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """Its main process, by a name for people."""
        return {"API server": psutil.Process(self.process.pid)}

    def send(
        self,
        requests: RequestSet,
        rate: float | None,
        concurrency: int | None,
        seed: int,
        slo: Mapping[str, float],
        stop: Stop | None = None,
    ) -> Sent:
        """Send a request set once; raises ``EngineDiedError`` if the server is gone after it."""
        target = load_generator.Target(self.url, self._key, self.tokenizer)
        sent = load_generator.send(target, requests, rate, concurrency, seed, slo, stop)
        if any(sent.errors) and not self._answers():
            raise EngineDiedError("vLLM's server died while requests were being sent")
        return sent

    def counters(self) -> Counters:
        """What the server has counted since its start."""
        return read_counters(self.url)

    def drafts(self) -> Drafts:
        """What became of draft tokens since its start."""
        return Drafts.read(read_metrics(self.url))

    def close(self) -> None:
        """End the server and all below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_S)
            self.kill(below)

    def kill(self, below: list[psutil.Process] | None = None) -> None:
        """End the server and its processes (``below``, or those that it has now) at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = below or psutil.Process(self.process.pid).children(recursive=True)
        for process in below or []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        words += ["--host", HOST, "--port", str(port), "--uvicorn-log-level", "warning"]
        words += vllm_api.command_line(self.arguments)
        # The key goes through the environment: everyone can read a command line.
        return subprocess.Popen(words, env={**os.environ, "VLLM_API_KEY": self._key})

    def _await_ready(self) -> bool:
        """Wait for as long as the server tries; the session has a limit for a start."""
        while self.alive:
            if self._answers():
                return True
            time.sleep(0.1)
        return False

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _last_words(self, said: str) -> str:
        lines = telling_lines(said)
        why = lines[-1] if lines else "it logged nothing"
        return f"vLLM's server ended with exit code {self.process.returncode}: {why}"

    def _check_engines(self) -> None:
        """Each data-parallel engine has a core; one for all would be another measurement."""
        titles = [
            " ".join(process.cmdline())
            for process in psutil.Process(self.process.pid).children(recursive=True)
        ]
        cores = sum(title.startswith(f"{vllm_api.PROCESS_TITLE}EngineCore") for title in titles)
        if cores != self.engine.engines:
            said = f"{self.engine.engines} engines were requested, {cores} run"
            raise StartError("invalid", f"{self.engine.product}: {said}")

    def _read_model(self, said: str) -> None:
        from vllm.tokenizers import get_tokenizer
        from vllm.transformers_utils.config import get_config

        model, revision = self.engine.model.path, self.arguments.get("revision")
        config = get_config(model, trust_remote_code=False, revision=revision)
        self.shape = shape_of(config.to_dict())
        if self.shape and (problem := data_problem(self.engine, self.shape)):
            raise StartError("invalid", problem)  # not known when it was planned
        self.vocabulary = int(config.vocab_size)
        self.tokenizer = get_tokenizer(model, revision=revision)
        self.ran = vllm_api.log_facts(said, self.engine.tp).ran
        if self.ran["tp"] is None or self.ran["pp"] is None:
            raise StartError("invalid", "tp, pp: vLLM's log does not say which ones run")
