"""The cells' client as the real program, against stand-in daemons on real unix sockets.

No stand-in measures: they are small programs that answer, or die, as told.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cells import latency_cell
from tpsweep.core.failure import Failure

PROGRAM = Path(__file__).parents[3] / "scripts" / "measure.py"
LIMIT_S = 20
CELL = latency_cell()
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"

Finished = subprocess.CompletedProcess[str]


@dataclass
class Session:
    """A stand-in session: its folder, its log, and the environment that the runner would set."""

    folder: Path
    results: Path
    log: Path
    state: str = "ready"
    asked: list[dict[str, Any]] = field(default_factory=list)
    got_request: threading.Event = field(default_factory=threading.Event)

    def command(self, cell: str | None = None, session_command: str = "false") -> list[str]:
        words = [sys.executable, str(PROGRAM), "--workload", "latency"]
        words += ["--cell", CELL.to_json() if cell is None else cell]
        words += ["--results", str(self.results), "--session-command", session_command]
        return [*words, "--log", str(self.results / "logs" / "cell.log")]

    @property
    def environment(self) -> dict[str, str]:
        said = {"SESSION_DIR": str(self.folder), "SESSION_STATE": self.state}
        return {**os.environ, **said, "SESSION_ID": "stand-in-1", "SESSION_LOG": str(self.log)}

    def run(self, cell: str | None = None) -> Finished:
        return self._run(self.command(cell), self.environment)

    def run_alone(self, session_command: str) -> Finished:
        """Without a session: the client starts the command itself."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SESSION_")}
        return self._run(self.command(session_command=session_command), environment)

    def _run(self, command: list[str], environment: dict[str, str]) -> Finished:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )

    def serve(self, react: Callable[[socket.socket], None]) -> None:
        """A stand-in daemon: takes one request, reacts, and closes the connection."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / "engine.sock"))
        listener.listen()

        def once() -> None:
            with listener, listener.accept()[0] as connection:
                self.asked.append(json.loads(connection.makefile("rb").readline()))
                self.got_request.set()
                react(connection)

        threading.Thread(target=once, daemon=True).start()

    @property
    def record(self) -> Path:
        return self.results / "failures" / f"{CELL.cell_id}.json"

    @property
    def failure(self) -> Failure:
        return Failure(**json.loads(self.record.read_text("utf-8")))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    # A unix socket's path has at most 107 bytes: pytest's own folders may be longer.
    folder = Path(tempfile.mkdtemp(prefix="tpsweep-test-", dir="/tmp"))
    log = tmp_path / "session.log"
    log.write_text("INFO the engine is ready\n", "utf-8")
    yield Session(folder, tmp_path / "results", log)
    shutil.rmtree(folder)


def answers(**answer: Any) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(json.dumps(answer).encode() + b"\n")


def test_a_measured_cell_removes_its_old_failure(session: Session) -> None:
    Failure(CELL.cell_id, "latency", CELL.path, "crash", "of last time").write(
        session.results / "failures"
    )
    session.serve(answers(ok=True))
    done = session.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"measured {CELL.path}\n", "")
    assert not session.record.exists()
    assert session.asked == [
        {
            "cell": CELL.to_json(),
            "row": str((session.results / CELL.path).resolve()),
            "session_id": "stand-in-1",
            "session_log": str(session.log),
            "dataset": "",
        }
    ]
    told = (session.results / "logs" / "cell.log").read_text("utf-8")
    assert f"measured {CELL.path}" in told and str(session.log) in told


def test_a_refused_measurement_keeps_its_type_and_message(session: Session) -> None:
    session.log.write_text(OUT_OF_MEMORY, "utf-8")  # of before: no reason to call it that
    session.serve(answers(ok=False, type="invalid", message="tp=2 was requested, 1 ran"))
    done = session.run()
    assert (done.returncode, done.stderr) == (65, "invalid: tp=2 was requested, 1 ran\n")
    failure = session.failure
    assert (failure.type, failure.message) == ("invalid", "tp=2 was requested, 1 ran")
    assert (failure.cell, failure.workload) == (CELL.path, "latency")
    assert (failure.session_id, failure.log) == ("stand-in-1", str(session.log))


def test_a_daemon_that_dies_in_a_cell_is_a_crash(session: Session) -> None:
    session.log.write_text(OUT_OF_MEMORY, "utf-8")  # of an earlier cell in the same log
    session.serve(lambda _: None)
    done = session.run()
    assert done.returncode == 1
    assert session.failure.type == "crash"
    assert "the engine daemon died" in session.failure.message


def test_a_daemon_that_dies_without_memory_is_out_of_memory(session: Session) -> None:
    def die(_: socket.socket) -> None:
        with session.log.open("a", encoding="utf-8") as log:
            log.write(f"INFO step 7\n{OUT_OF_MEMORY}")

    session.serve(die)
    assert session.run().returncode == 65  # it would fail again
    assert session.failure.type == "out_of_memory"
    assert session.failure.telling_lines == [OUT_OF_MEMORY.strip()]


def test_a_half_answer_is_a_crash(session: Session) -> None:
    session.serve(lambda connection: connection.sendall(b'{"ok": tr'))
    assert session.run().returncode == 1
    assert session.failure.type == "crash"


def test_a_daemon_that_is_gone_is_a_crash(session: Session) -> None:
    assert session.run().returncode == 1
    assert session.failure.type == "crash"
    assert "lost the engine daemon" in session.failure.message


def start_failure(folder: Path) -> None:
    said = {"type": "out_of_memory", "message": "KV cache does not fit"}
    (folder / "start_failure.json").write_text(json.dumps(said), "utf-8")
    (folder / "failed").write_text("the command ended with 1\n", "utf-8")


def failed_only(folder: Path) -> None:
    (folder / "failed").write_text("not ready after 1200 s\n", "utf-8")


@pytest.mark.parametrize(
    ("leave", "type_", "message"),
    [
        (start_failure, "out_of_memory", "KV cache does not fit"),
        (failed_only, "engine_start", "not ready after 1200 s"),
        (lambda _: None, "engine_start", "the engine did not start"),
    ],
    ids=["start_failure.json", "failed", "neither"],
)
def test_an_engine_that_did_not_start(
    session: Session, leave: Callable[[Path], None], type_: str, message: str
) -> None:
    leave(session.folder)
    session.state = "failed"
    done = session.run()
    code = 65 if type_ == "out_of_memory" else 1
    assert (done.returncode, done.stderr) == (code, f"{type_}: {message}\n")
    assert (session.failure.type, session.failure.message) == (type_, message)


@pytest.mark.parametrize(
    ("number", "reason", "type_"),
    [
        (signal.SIGTERM, "timeout", "timeout"),
        (signal.SIGTERM, None, "preempted"),
        (signal.SIGINT, None, "cancelled"),
    ],
    ids=["timeout", "preempted", "cancelled"],
)
def test_a_signal_ends_the_cell_with_its_reason(
    session: Session, number: signal.Signals, reason: str | None, type_: str
) -> None:
    released = threading.Event()

    def measure_on(_: socket.socket) -> None:
        released.wait(LIMIT_S)

    session.serve(measure_on)
    client = subprocess.Popen(
        session.command(), env=session.environment, stderr=subprocess.PIPE, text=True
    )
    assert session.got_request.wait(LIMIT_S)
    if reason:
        (session.folder / "cell_end_reason").write_text(f"{reason}\n", "utf-8")
    client.send_signal(number)
    stderr = client.communicate(timeout=LIMIT_S)[1]
    released.set()
    assert (client.returncode, stderr) == (1, f"{type_}: ended by {number.name}\n")
    assert session.failure.type == type_


def test_a_second_signal_changes_nothing(session: Session) -> None:
    log = session.results / "logs" / "cell.log"
    log.parent.mkdir(parents=True)
    os.mkfifo(log)  # holds the client at its last step, until somebody reads
    released = threading.Event()

    def measure_on(_: socket.socket) -> None:
        released.wait(LIMIT_S)

    session.serve(measure_on)
    client = subprocess.Popen(
        session.command(), env=session.environment, stderr=subprocess.PIPE, text=True
    )
    assert session.got_request.wait(LIMIT_S) and client.stderr
    client.send_signal(signal.SIGTERM)
    assert client.stderr.readline() == "preempted: ended by SIGTERM\n"
    client.send_signal(signal.SIGTERM)
    client.send_signal(signal.SIGINT)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)  # blocking, a dead client would hang us
    with os.fdopen(reader, "rb") as told:
        assert client.wait(LIMIT_S) == 1
        assert client.stderr.read() == ""
        assert told.read().startswith(b"preempted: ")
    assert session.failure.type == "preempted"
    released.set()


def test_a_failure_that_cannot_be_recorded_is_told_of(session: Session) -> None:
    session.results.mkdir()
    (session.results / "failures").write_text("a file where the folder should be", "utf-8")
    session.serve(answers(ok=False, type="write", message="no space"))
    done = session.run()
    assert done.returncode == 1
    assert "failure record not written" in done.stderr
    assert done.stderr.endswith("write: no space\n") and "Traceback" not in done.stderr


STAND_IN_DAEMON = """
# A stand-in for the engine daemon: answers one cell, notes its arguments and its end.
import json, os, signal, socket, sys
from pathlib import Path
notes, *arguments = sys.argv[1:]
def note(**what):
    with open(notes, "a") as file:
        file.write(json.dumps(what) + "\\n")
def end(*_):
    note(ended=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
folder = Path(os.environ["SESSION_DIR"])
note(arguments=arguments, folder=str(folder))
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(folder / "engine.sock"))
listener.listen()
(folder / "ready").touch()
while True:
    connection, _ = listener.accept()
    connection.makefile("rb").readline()
    connection.sendall(b'{"ok": true}\\n')
    connection.close()
"""

AWKWARD = [
    "--engine",
    '{"a b": "it\'s \\"quoted\\" $HOME `id` \\\\ ; rm"}',
    "",
    "two  spaces\n",
    "é*",
]


def test_without_a_session_the_command_is_started_and_ended(
    session: Session, tmp_path: Path
) -> None:
    script, notes = tmp_path / "stand in.py", tmp_path / "it's notes.jsonl"
    script.write_text(STAND_IN_DAEMON, "utf-8")
    done = session.run_alone(shlex.join([sys.executable, str(script), str(notes), *AWKWARD]))
    assert (done.returncode, done.stderr) == (0, "")
    began, ended = map(json.loads, notes.read_text("utf-8").splitlines())
    assert began["arguments"] == AWKWARD
    assert ended == {"ended": True}
    assert not Path(began["folder"]).exists()


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("false", "the engine did not start"),
        ("/no/such/program --engine x", "/no/such/program"),
        ("'no closing quotation", "No closing quotation"),
    ],
)
def test_without_a_session_a_command_that_fails_is_recorded(
    session: Session, command: str, word: str
) -> None:
    done = session.run_alone(command)
    assert done.returncode == 1
    assert session.failure.type == "engine_start" and word in session.failure.message
    assert done.stderr.startswith("engine_start: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "cell",
    ["{", "[]", "{}", '{"engine": {}}', latency_cell(workload="serve").to_json()],
    ids=["json", "list", "empty", "fields", "workload"],
)
def test_a_bad_cell_is_one_line_and_exit_code_2(session: Session, cell: str) -> None:
    done = session.run(cell)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--cell: ") and len(done.stderr.splitlines()) == 1
    assert not (session.results / "failures").exists()


def test_the_client_imports_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import tpsweep.measure.client; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "tpsweep" in imported
    assert imported - {"tpsweep"} <= sys.stdlib_module_names
