"""A private Slurm on this machine: its daemons on loopback, several nodes with fake GPUs.

As root or not, without systemd. From Python::

    with Lab(folder) as lab:
        subprocess.run(["sbatch", ...], env=lab.env())

or by hand::

    python -m tests.slurm.lab up DIR && source DIR/env      # and later: down DIR

Debian's packages are enough (install/slurm.sh). Everything is below the folder, every process is
ended by the pid that was recorded for it. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.slurm.lab_config import (
    ACCOUNTING,
    NODES_AT,
    PORTS,
    LabConfig,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
)

CLIENTS = ["sbatch", "srun", "salloc", "sacct", "sacctmgr", "scancel", "scontrol", "squeue"]
CLIENTS += ["sinfo", "sstat"]
DAEMONS = ["slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db"]
FIRST_PORT, LAST_PORT = 17800, 29800
UP_LIMIT_S = 90.0


class LabError(RuntimeError):
    """The lab could not be brought up, or an action on it failed."""


def missing_programs() -> list[str]:
    """Programs of Slurm, munge and MariaDB that this machine lacks."""
    path = _search_path()
    return [name for name in [*CLIENTS, *DAEMONS, "munge"] if not shutil.which(name, path=path)]


class Lab:
    """One private Slurm in ``folder``; a context manager that is up inside and gone after."""

    def __init__(self, folder: Path, config: LabConfig | None = None) -> None:
        self.folder = folder.resolve()
        self.config = config or LabConfig()
        self.port = 0

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # What it is.

    def env(self) -> dict[str, str]:
        """The environment of programs that use this Slurm."""
        # Some programs delete every SLURM_* variable before they call Slurm's: the shims in bin/
        # set SLURM_CONF again.
        return {**os.environ, **self._own_env(), "PATH": f"{self.folder}/bin:{_search_path()}"}

    def call(self, *words: str, limit_s: float = 60) -> str:
        """Run one of Slurm's programs; its stdout. Raises ``LabError`` if it fails."""
        done = subprocess.run(
            words, env=self.env(), capture_output=True, text=True, timeout=limit_s, check=False
        )
        if done.returncode != 0:
            raise LabError(f"{shlex.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def sacct(self, job: str, fields: str = "JobID,State,Partition,AllocTRES") -> list[list[str]]:
        """sacct's rows on the allocations of ``job``."""
        text = self.call("sacct", "-nPX", "-o", fields, "-j", job)
        return [line.split("|") for line in text.splitlines()]

    def squeue(self) -> list[str]:
        """Jobs in the queue, elements one by one."""
        return self.call("squeue", "-h", "-r", "-o", "%i").split()

    # Up and down.

    def up(self) -> None:
        """Bring it up and wait until every node is idle.

        Raises ``LabError``, with the last lines of the logs and nothing left running.
        """
        if lacking := missing_programs():
            raise LabError(f"missing: {', '.join(lacking)}; install/slurm.sh installs them")
        if self._pids_file.exists():
            raise LabError(f"{self.folder}: already up, or not taken down")
        self.port = _free_ports()
        try:
            self._write_files()
            self._start_database()
            self.start_slurmdbd()
            self.start_slurmctld()
            for name in self.config.node_names:
                self.start_node(name)
            self._add_accounts()
            self.wait_idle()
        except BaseException as error:
            logs = self._last_lines()
            self.down(keep=True)
            if isinstance(error, Exception):
                raise LabError(f"{error}\n{logs}") from error
            raise

    def down(self, keep: bool = False) -> None:
        """End all that was started, jobs first, and remove the folder unless ``keep``."""
        if self._alive("slurmctld"):
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                self.call("scancel", "-u", getpass.getuser(), limit_s=10)
                end = time.monotonic() + 8
                while self.call("squeue", "-h", "-t", "R,CG,S") and time.monotonic() < end:
                    time.sleep(0.1)
        for name in [*(f"slurmd-{n}" for n in self.config.node_names), "slurmctld", "slurmdbd"]:
            self._stop(name)
        self._kill_steps("slurmd-")
        for name in ("mariadbd", "munged"):
            self._stop(name)
        self._pids_file.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def wait_idle(self) -> None:
        """Return when every node can take jobs."""
        count = len(self.config.node_names)
        self._wait(
            "idle nodes", lambda: self._call_quietly("sinfo", "-hN", "-o", "%T") == "idle\n" * count
        )

    # Faults.

    def kill_node(self, name: str, with_jobs: bool = True) -> None:
        """SIGKILL a node's slurmd; ``with_jobs`` also its jobs, as when the machine is lost."""
        if with_jobs:
            self._kill_steps(f"slurmd-{name}.log")
        self._stop(f"slurmd-{name}", signal.SIGKILL)
        if with_jobs:
            self._kill_steps(f"slurmd-{name}.log")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        (self.folder / "spool" / name).mkdir(parents=True, exist_ok=True)
        self._start(f"slurmd-{name}", "slurmd", "-D", "-N", name)

    def start_slurmctld(self) -> None:
        """Start the controller and wait until it answers."""
        self._start("slurmctld", "slurmctld", "-D")
        self._wait("slurmctld", lambda: "UP" in self._call_quietly("scontrol", "ping"))

    def stop_slurmctld(self) -> None:
        """SIGKILL the controller."""
        self._stop("slurmctld", signal.SIGKILL)

    def start_slurmdbd(self) -> None:
        """Start the accounting daemon and wait until it listens."""
        self._start("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: _is_open(self.port + 1))

    def stop_slurmdbd(self) -> None:
        """SIGKILL the accounting daemon."""
        self._stop("slurmdbd", signal.SIGKILL)

    def forget_jobs(self) -> None:
        """Remove the stopped controller's record of all jobs; new ones get ids far away."""
        for path in (self.folder / "state").glob("job_state*"):
            path.unlink()
        conf = self.folder / "slurm.conf"
        conf.write_text(conf.read_text().replace("FirstJobId=1\n", "FirstJobId=500001\n"))

    # How.

    @property
    def _pids_file(self) -> Path:
        return self.folder / "pids.json"

    def _own_env(self) -> dict[str, str]:
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(self.folder / "mysql.sock"),
        }

    def _write_files(self) -> None:
        for name in ("db", "spool", "state", "log", "dev", "bin"):
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of an attempt that failed
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        place = (self.config, self.folder, self.port, host, user)
        (self.folder / "slurm.conf").write_text(slurm_conf(*place))
        (self.folder / "gres.conf").write_text(gres_conf(self.config, self.folder))
        dbd = self.folder / "slurmdbd.conf"
        dbd.write_text(slurmdbd_conf(*place))
        dbd.chmod(0o600)
        for k in range(max(nodes.gpus for nodes in self.config.nodes)):
            device = self.folder / "dev" / f"nvidia{k}"
            try:
                os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                device.symlink_to("/dev/null")
        for name in CLIENTS:
            shim = self.folder / "bin" / name
            program = shutil.which(name, path=_search_path())
            conf = shlex.quote(str(self.folder / "slurm.conf"))
            shim.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {program} "$@"\n')
            shim.chmod(0o755)
        exports = {**self._own_env(), "PATH": f"{self.folder}/bin:{_search_path()}"}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()]
        (self.folder / "env").write_text("".join(lines))

    def _start_database(self) -> None:
        folder, user = self.folder, getpass.getuser()
        if self.config.auth == "munge":
            key = folder / "munge.key"
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)
            self._start(
                *(
                    "munged",
                    "munged",
                    "-F",
                    "--force",
                    f"--key-file={key}",
                    f"--socket={folder}/munge.sock",
                ),
                *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/log/munged.log"),
                *(f"--seed-file={folder}/munge.seed", "--num-threads=2"),
            )
        base = ["--no-defaults", f"--datadir={folder}/db", f"--user={user}"]
        done = subprocess.run(
            [
                *("mariadb-install-db", *base, "--auth-root-authentication-method=socket"),
                *(f"--auth-root-socket-user={user}", "--skip-test-db"),
            ],
            env=self.env(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"mariadb-install-db: {done.stdout}{done.stderr}")
        self._start(
            *("mariadbd", "mariadbd", *base, f"--socket={folder}/mysql.sock"),
            *(f"--pid-file={folder}/mariadbd.pid", f"--log-error={folder}/log/mariadbd.log"),
            *("--skip-networking", "--skip-name-resolve", "--innodb-buffer-pool-size=64M"),
            *("--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"),
            *("--performance-schema=0", "--skip-log-bin"),
        )
        query = ["mariadb", "--no-defaults", "-S", f"{folder}/mysql.sock", "-e", "select 1"]
        self._wait("mariadbd", lambda: "1" in self._call_quietly(*query))
        if self.config.auth == "munge":
            words = ["munge", "-n", "-S", f"{folder}/munge.sock"]
            self._wait("munged", lambda: self._call_quietly(*words))

    def _add_accounts(self) -> None:
        # Limits on GPUs can be given only when slurmctld has registered them with slurmdbd.
        words = ["sacctmgr", "-nP", "show", "tres"]
        self._wait("gres/gpu in accounting", lambda: "gres|gpu|" in self._call_quietly(*words))
        for commands in ACCOUNTING:
            done = subprocess.run(
                ["sacctmgr", "-Qi"],
                input=commands.format(user=getpass.getuser()),
                env=self.env(),
                capture_output=True,
                text=True,
                check=False,
            )
            if "error" in done.stderr:
                raise LabError(f"sacctmgr: {done.stderr}")

    def _call_quietly(self, *words: str) -> str:
        try:
            done = subprocess.run(
                words, env=self.env(), capture_output=True, text=True, timeout=15, check=False
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def _start(self, name: str, *words: str) -> None:
        """Start a daemon in a session of its own and record its pid."""
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                words,
                env=self.env(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._record({**self._pids(), name: process.pid})

    def _stop(self, name: str, number: int = signal.SIGTERM) -> None:
        pids = self._pids()
        pid = pids.pop(name, None)
        if pid is None:
            return
        end = time.monotonic() + 15
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            while _is_alive(pid):
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        self._record(pids)

    def _alive(self, name: str) -> bool:
        pid = self._pids().get(name)
        return pid is not None and _is_alive(pid)

    def _pids(self) -> dict[str, int]:
        if not self._pids_file.exists():
            return {}
        found: dict[str, int] = json.loads(self._pids_file.read_text())
        return found

    def _record(self, pids: dict[str, int]) -> None:
        self._pids_file.write_text(json.dumps(pids))

    def _kill_steps(self, log: str) -> None:
        """SIGKILL slurmstepds and all below them whose log file's name starts with ``log``.

        A slurmstepd wipes its command line and environment; its open log file names its node.
        """
        start = str(self.folder / "log" / log)
        for pid in _stepds():
            with contextlib.suppress(OSError):
                files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
                if any(file.startswith(start) for file in files):
                    for victim in [*_below(pid), pid]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + UP_LIMIT_S
        while not condition():
            if dead := [name for name, pid in self._pids().items() if not _is_alive(pid)]:
                raise LabError(f"{', '.join(dead)} ended while waiting for {what}")
            if time.monotonic() > end:
                raise LabError(f"no {what} after {UP_LIMIT_S:.0f} s")
            time.sleep(0.05)

    def _last_lines(self) -> str:
        logs = sorted((self.folder / "log").glob("*")) if self.folder.exists() else []
        texts = {log.name: log.read_text(errors="replace").splitlines()[-3:] for log in logs}
        return "\n".join(f"{name}: {line}" for name, lines in texts.items() for line in lines)


def _search_path() -> str:
    """PATH with the folders of daemons, which an ordinary user's lacks."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def _free_ports() -> int:
    """The first of ``PORTS`` ports of which nobody uses those that the daemons need."""
    start = FIRST_PORT + os.getpid() % 20 * PORTS  # so that labs that start together differ
    span = LAST_PORT - FIRST_PORT
    for offset in range(0, span, PORTS):
        port = FIRST_PORT + (start - FIRST_PORT + offset) % span
        if not any(_is_taken(port + k) for k in (0, 1, *range(NODES_AT, NODES_AT + 20))):
            return port
    raise LabError(f"no block of {PORTS} free ports from {FIRST_PORT} to {LAST_PORT}")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_alive(pid: int) -> bool:
    """A daemon that has ended may stay a zombie for seconds: that is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _stepds() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().strip() == "slurmstepd":
                    yield int(entry.name)


def _below(pid: int) -> list[int]:
    """Descendants of ``pid``, the deepest first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [*_below(child), child]
    return found


def main() -> int:
    """``up DIR`` and ``down DIR``."""
    parser = argparse.ArgumentParser(description="A private Slurm on this machine.")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    lab = Lab(options.folder)
    try:
        if options.action == "up":
            lab.up()
            print(f"source {shlex.quote(str(lab.folder))}/env")
        else:
            lab.down()
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
