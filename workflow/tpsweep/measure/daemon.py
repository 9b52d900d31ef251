"""The engine daemon: one vLLM engine or server, and the cells that it measures one after another.

Started once per session as ``python -m tpsweep.measure.daemon --engine JSON --starts FILE`` with
``SESSION_DIR`` set. It loads the engine, listens on ``$SESSION_DIR/engine.sock``, makes the file
``$SESSION_DIR/ready``, and then serves clients (``measure.client``) one at a time: a cell comes in
as a line of JSON, its row is written, a line of JSON goes back. If the load fails,
``$SESSION_DIR/start_failure.json`` says why. If the engine dies during a cell, the daemon answers,
and ends: the session's runner starts another for the cells that are left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from tpsweep.core.cell import Cell, Engine
from tpsweep.core.errors import EngineDiedError, StartError
from tpsweep.core.failure import classify, log_since, log_size
from tpsweep.core.joined_rows import keep_part
from tpsweep.core.owned_environment import owned_problem
from tpsweep.core.place import Place
from tpsweep.core.program import same_version
from tpsweep.core.request import SOCKET_NAME, Answer, Request, StartFailure
from tpsweep.core.row_file import write_row
from tpsweep.core.workloads import ENGINE, SERVER
from tpsweep.engine import network, nsys_session, nvml, profiler, provenance, vllm_api
from tpsweep.engine.api_server import Server
from tpsweep.engine.host import EngineHost
from tpsweep.engine.offline import OfflineEngine
from tpsweep.engine.start_phases import phases_of
from tpsweep.engine.watchdog import Guard
from tpsweep.measure import workloads
from tpsweep.measure.build_row import Context, EngineRecord, Nodes, make_row, refusals


@dataclass(frozen=True)
class Start:
    """One line of the log of engine starts (``core.results_paths.ENGINE_STARTS``); ``at``: UTC."""

    at: str
    session: str
    session_id: str | None
    host: str
    pid: int


class Daemon:
    """One engine start and its cells; ``served``: some of them are sent over HTTP. ``place``: of an
    engine over several nodes, the first."""

    def __init__(
        self, engine: Engine, folder: Path, *, served: bool = False, place: Place | None = None
    ) -> None:
        log = os.environ.get("SESSION_LOG", "")
        log_begin = log_size(log)  # an earlier start of this session has its lines before
        self.engine = engine
        self.order = 0
        self.last_end: float | None = None
        environment = _prepare(engine, place)
        began = psutil.Process().create_time()
        vllm_api.import_engine(engine.mode)
        imports_s = time.time() - began
        gpus = _gpu_group(engine)
        uuids = [info.uuid for info in gpus.infos]
        self.sampler = nvml.Sampler(uuids, folder / "nvml.jsonl") if uuids else None
        self.loaded: workloads.Loaded
        if engine.mode == SERVER:
            self.loaded = Server(engine, log)
        elif engine.mode == ENGINE:
            arguments = vllm_api.llm_arguments(engine) | vllm_api.node_arguments(place)
            self.loaded = EngineHost(arguments, profiler.of_session(folder), served=served)
        else:
            arguments = vllm_api.llm_arguments(engine) | vllm_api.node_arguments(place)
            self.loaded = OfflineEngine(arguments, profiler.of_session(folder))
        recorded = vllm_api.without_places if place else dict
        said, start_s = log_since(log, log_begin), time.time() - began
        self.record = EngineRecord(
            engine_id=uuid.uuid4().hex[:12],
            start_s=start_s,
            phases=phases_of(said, imports_s, getattr(self.loaded, "http_s", 0.0), start_s),
            log_facts=vllm_api.log_facts(said, engine.tp),
            arguments=recorded(self.loaded.arguments),
            environment=recorded(environment),
            software=provenance.software(),
            host=provenance.host(os.environ),
            gpus=gpus,
            shape=self.loaded.shape,
            ran=self.loaded.ran,
            nodes=_nodes(place),
        )
        # pyarrow's first write takes 0.2 s: not in the gap between the first two cells.
        write_row({}, folder / "warm-up.parquet")
        self.written: defaultdict[Path, dict[str, str]] = defaultdict(dict)
        """Rows of this start: by results root, the cell's path below it."""
        self._ready = folder / "ready"
        self._client: socket.socket | None = None
        self._guard = Guard(self._engine_died, self.loaded.processes)

    def serve_cell(self, request: Request) -> Answer:
        """Measure one cell and write its row; an ``Answer`` for whatever can go wrong with it."""
        cell = Cell.from_json(request.cell)
        if not self.engine.serves(cell.engine):
            return Answer(False, "invalid", f"the cell wants the engine {cell.engine.session}")
        utc_at_zero = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        root = Path(request.row).parents[len(Path(cell.path).parts) - 1]
        files = workloads.Files(root, Path(request.dataset) if request.dataset else None)
        try:
            measured = workloads.measure(cell, self.loaded, files, self.record)
        except EngineDiedError as error:
            return Answer(False, "crash", str(error))
        except ValueError as error:  # vLLM's own refusal of a request: the engine lives on
            return Answer(False, "invalid", str(error))
        except OSError as error:
            return Answer(False, "write", f"{error.filename}: {error.strerror}")
        ended = time.monotonic()
        windows: list[nvml.GpuWindow | None] = []
        if self.sampler:
            # Energy is interpolated at the end of the kept repeats: one more reading after it.
            times = measured.times
            time.sleep(max(0.0, times.kept_until + 2 * nvml.INTERVAL_S - ended))
            samples = self.sampler.read()
            span = times.began, times.measured, times.kept_until
            windows = [
                nvml.window(samples, i.uuid, *span, times.phases) for i in self.record.gpus.infos
            ]
        context = Context(request, self.order, self.last_end, ended, utc_at_zero)
        self.order, self.last_end = self.order + 1, ended
        row = make_row(cell, self.record, measured, windows, context)
        reasons = measured.refusals + refusals(cell, self.record, windows, row)
        if reasons:
            _remove(measured.scratch)
            return Answer(False, "invalid", "; ".join(reasons))
        try:
            write_row(row, Path(request.row))
        except OSError as error:
            return Answer(False, "write", f"{request.row}: {error.strerror}")
        _remove(measured.scratch)
        self.written[root][cell.cell_id] = cell.path
        return Answer(True)

    def serve(self, listener: socket.socket) -> int:
        """Answer clients until the engine dies (returns 1); ended by SIGTERM otherwise."""
        self._ready.touch()
        while self.loaded.alive:
            self._client, _ = listener.accept()
            with self._client:
                line = self._client.makefile("rb").readline()
                if line:
                    answer = self.serve_cell(Request.from_line(line))
                    if not self.loaded.alive:
                        self._ready.unlink(missing_ok=True)  # before the next cell can come
                    _answer(self._client, answer)
            self._client = None
        return 1

    def _engine_died(self, what: str) -> None:
        """Called in the guard's thread: vLLM may wait forever, so nobody else may answer."""
        self._ready.unlink(missing_ok=True)  # the session's runner starts another engine
        client = self._client
        if client is not None:
            _answer(client, Answer(False, "crash", what))
        print(what, file=sys.stderr, flush=True)
        self.loaded.kill()
        os._exit(1)

    def close(self) -> None:
        """End the engine's processes and the sampler."""
        self._guard.stop()
        self.loaded.close()
        if self.sampler:
            self.sampler.stop()
        # The GPUs are free. Only speed depends on it, so nothing may come of a failure.
        for root, places in self.written.items():
            with contextlib.suppress(OSError):
                keep_part(root, self.record.engine_id, places)


def _prepare(engine: Engine, place: Place | None) -> dict[str, str]:
    """Set the environment of an engine's part here, and return it; raises ``StartError`` if it
    cannot start here."""
    nodes = place.nodes if place else 1
    if nodes != engine.nodes:
        said = f"nodes: {engine.nodes} were planned, the session has {nodes}"
        raise StartError("engine_start", said)
    if problem := owned_problem(os.environ):
        raise StartError("engine_start", problem)
    environment = vllm_api.engine_env(engine, provenance.usable_cpus(), place)
    os.environ.update(environment)
    _check_version(engine)
    return environment


def _check_version(engine: Engine) -> None:
    try:
        import vllm
    except ModuleNotFoundError as error:
        said = f"vllm: not installed ({error}); allowed: a Python that has it, see `make install`"
        raise StartError("engine_start", said) from error

    if not same_version(engine.vllm_version, vllm.__version__):
        raise StartError(
            "invalid",
            f"vllm_version: {engine.vllm_version} was requested, {vllm.__version__} is "
            "installed; change one of them",
        )


def _gpu_group(engine: Engine) -> nvml.GpuGroup:
    """The GPUs of an engine on this node: the first ones of those that CUDA shows."""
    if vllm_api.is_cpu(engine):
        return nvml.GpuGroup(note="no GPU: the node class is CPU")
    visible, count = nvml.visible_uuids(), engine.gpus_per_node
    if len(visible) < count:
        said = f"gpus: {count} were requested, {len(visible)} are visible"
        raise StartError("engine_start", said)
    uuids = visible[:count]
    infos = nvml.describe(uuids)
    others = {info.name for info in infos} - {engine.gpu_card}
    if others:
        raise StartError(
            "invalid", f"gpu_card: {engine.gpu_card} was planned, found {sorted(others)}"
        )
    return nvml.GpuGroup(infos, nvml.node_uuids(), nvml.weakest_link(uuids))


def _nodes(place: Place | None) -> Nodes:
    if place is None:
        return Nodes()
    names = os.environ.get("SLURM_JOB_NODELIST")
    return Nodes(place.nodes, names, network.link_of(place.address))


def run_part(engine: Engine, place: Place) -> int:
    """The engine's part on a node that is not its first: until SIGTERM, or the end of a rank here.

    Nothing is measured here. The session's runner ends it with the part on the first node.
    """
    # Ranks that have lost their peers hang when they end in order, and nothing of them is kept. The
    # runner has made a process group for them.
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    _prepare(engine, place)
    _gpu_group(engine)
    vllm_api.run_headless(vllm_api.llm_arguments(engine) | vllm_api.node_arguments(place))
    print(f"node {place.node}: a rank of the engine has ended", file=sys.stderr, flush=True)
    return 1


def _remove(files: Iterable[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):  # one that stays is of a cell that has its row
            path.unlink(missing_ok=True)


def _answer(client: socket.socket, answer: Answer) -> None:
    with contextlib.suppress(OSError):  # the client has gone: its runner knows why
        client.sendall(answer.to_line())


def main() -> int:
    """Entry point; 0 when ended by SIGTERM, 1 when the engine did not start or died."""
    parser = argparse.ArgumentParser(description="Load one engine and serve its session's cells.")
    parser.add_argument("--engine", required=True, help="the engine, as canonical JSON")
    parser.add_argument("--starts", required=True, type=Path, help="append-only log of starts")
    parser.add_argument("--served", action="store_true", help="some cells need its HTTP server")
    parser.add_argument("--hf-home", help="Hugging Face cache that holds the weights")
    options = parser.parse_args()
    if options.hf_home:
        os.environ["HF_HOME"] = options.hf_home
    engine = Engine.from_json(options.engine)
    folder = Path(os.environ["SESSION_DIR"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log_offset = log_size(os.environ.get("SESSION_LOG", ""))
    place = Place.of(os.environ)
    if place is not None and not place.is_first:
        return run_part(engine, place)
    try:
        nsys_session.enter(engine)
        _log_start(options.starts, engine)
        daemon = Daemon(engine, folder, served=options.served, place=place)
    except Exception as error:  # whatever vLLM raises is the reason of the session's cells
        _leave_start_failure(folder, error, log_offset)
        raise
    with contextlib.closing(daemon), _listening(folder / SOCKET_NAME) as listener:
        return daemon.serve(listener)


def _log_start(path: Path, engine: Engine) -> None:
    """One line per engine start, appended in one write: what engine starts are counted from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = Start(
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        session=engine.session,
        session_id=os.environ.get("SESSION_ID"),
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(asdict(start)).encode() + b"\n")
    finally:
        os.close(descriptor)


def _leave_start_failure(folder: Path, error: Exception, log_offset: int) -> None:
    log = log_since(os.environ.get("SESSION_LOG", ""), log_offset)  # a session starts several
    type_ = getattr(error, "type", None) or classify("engine_start", f"{error}\n{log}")
    message = str(error) if isinstance(error, StartError) else f"{type(error).__name__}: {error}"
    StartFailure(type_, message.splitlines()[0]).write(folder)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A listening unix socket at ``path``, readable by its owner only."""
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        old = os.umask(0o077)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        listener.listen()
        yield listener


if __name__ == "__main__":
    sys.exit(main())
