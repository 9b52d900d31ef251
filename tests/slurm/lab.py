"""A private Slurm on this machine: its daemons on loopback, several nodes with fake GPUs.

As root or not, without systemd. From Python::

    with Lab(folder) as lab:
        subprocess.run(["sbatch", ...], env=lab.env())

or by hand::

    python -m tests.slurm.lab up DIR && source DIR/env      # and later: down DIR

Debian's packages are enough (install/slurm.sh). Everything is below the folder, and only processes
that it recorded are ended. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.lab_config import (
    ACCOUNTING,
    NODES_AT,
    PORTS,
    LabConfig,
    cgroup_conf,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
)
from tests.slurm.lab_ports import free_ports, is_open
from tests.slurm.lab_processes import Daemons, remove_cgroups

CLIENTS = ["sbatch", "srun", "salloc", "sacct", "sacctmgr", "scancel", "scontrol", "squeue"]
CLIENTS += ["sinfo", "sstat"]
DAEMONS = ["slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db"]
MARK = "private-slurm"  # a file that says that a folder is a lab's, and may be removed
SOCKET_PATH_LIMIT = 107
LONGEST_STEP = "99999.4294967291"
"""A job's number, and that of its batch step: slurmstepd's socket has both in its name."""
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
        self.daemons = Daemons(self.folder)
        self.node_prefix: list[str] = []
        """Words that start a slurmd, before its own."""

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
        if self.folder.exists() and any(self.folder.iterdir()) and not self._is_lab():
            raise LabError(f"{self.folder}: neither empty nor a lab's folder")
        name = max(self.config.node_names, key=len)
        step = self.folder / "spool" / name / f"{name}_{LONGEST_STEP}"
        if len(os.fsencode(step)) > SOCKET_PATH_LIMIT:  # or jobs would start and never end
            raise LabError(f"{self.folder}: too long for Slurm's sockets, of {SOCKET_PATH_LIMIT} B")
        if lacking := missing_programs():
            raise LabError(f"missing: {', '.join(lacking)}; install/slurm.sh installs them")
        if self.daemons.names():
            raise LabError(f"{self.folder}: already up, or not taken down")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MARK).touch()
        needed = [0, 1, *(NODES_AT + k for k in range(len(self.config.node_names)))]
        try:
            with free_ports(PORTS, needed) as self.port:
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
        """End all that was started, jobs first, and remove the folder unless ``keep``.

        Raises ``LabError`` if the folder is not a lab's; one that does not exist is down.
        """
        if not self.folder.exists():
            return
        if not self._is_lab():
            raise LabError(f"{self.folder}: not a lab's folder")
        if self.daemons.runs("slurmctld"):
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                self.scancel("-u", getpass.getuser())
                end = time.monotonic() + 8
                while self.call("squeue", "-h", "-t", "R,CG,S") and time.monotonic() < end:
                    time.sleep(0.1)
        self.daemons.stop(*self.daemons.names("slurmd-"))
        for name in ("slurmctld", "slurmdbd"):
            self.daemons.stop(name)
        self.daemons.kill_steps("slurmd-")
        if self.config.cgroup:
            remove_cgroups(self.config.node_names)
        for name in ("mariadbd", "munged"):
            self.daemons.stop(name)
        self.daemons.record.unlink(missing_ok=True)
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
            self.daemons.freeze(f"slurmd-{name}")
            self.daemons.kill_steps(f"slurmd-{name}.log")
        self.daemons.stop(f"slurmd-{name}", number=signal.SIGKILL)
        if with_jobs:  # those that began meanwhile
            self.daemons.kill_steps(f"slurmd-{name}.log")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        (self.folder / "spool" / name).mkdir(parents=True, exist_ok=True)
        self._start(f"slurmd-{name}", *self.node_prefix, "slurmd", "-D", "-N", name)

    def start_slurmctld(self) -> None:
        """Start the controller and wait until it answers."""
        self._start("slurmctld", "slurmctld", "-D")
        self._wait("slurmctld", lambda: "UP" in self._call_quietly("scontrol", "ping"))

    def stop_slurmctld(self, hard: bool = True) -> None:
        """End the controller: SIGKILL, or SIGTERM, on which it saves its state."""
        self.daemons.stop("slurmctld", number=signal.SIGKILL if hard else signal.SIGTERM)

    def start_slurmdbd(self) -> None:
        """Start the accounting daemon and wait until it listens."""
        self._start("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: is_open(self.port + 1))

    def stop_slurmdbd(self) -> None:
        """SIGKILL the accounting daemon."""
        self.daemons.stop("slurmdbd", number=signal.SIGKILL)

    def drain(self, name: str) -> None:
        """A node takes no more jobs; those that run go on."""
        self.call("scontrol", "update", f"nodename={name}", "state=drain", "reason=test")

    def resume(self, name: str) -> None:
        """A drained node takes jobs again."""
        self.call("scontrol", "update", f"nodename={name}", "state=resume")

    def scancel(self, *words: str) -> None:
        """Cancel jobs: ids or elements (``7_2``), or options of scancel."""
        self.call("scancel", *words)

    def forget_jobs(self) -> None:
        """Remove the stopped controller's record of all jobs; new ones get ids far away."""
        for path in (self.folder / "state").glob("job_state*"):
            path.unlink()
        conf = self.folder / "slurm.conf"
        conf.write_text(conf.read_text().replace("FirstJobId=1\n", "FirstJobId=500001\n"))

    # How.

    def _is_lab(self) -> bool:
        return (self.folder / MARK).is_file()

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
        prolog = self.folder / "prolog"
        prolog.write_text(f"#!/bin/sh\n[ ! -e {self.folder}/bad-$SLURMD_NODENAME ]\n")
        prolog.chmod(0o755)
        (self.folder / "gres.conf").write_text(gres_conf(self.config, self.folder))
        dbd = self.folder / "slurmdbd.conf"
        dbd.write_text(slurmdbd_conf(*place))
        dbd.chmod(0o600)
        if self.config.cgroup:
            (self.folder / "cgroup.conf").write_text(cgroup_conf(self.config))
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
        self.daemons.start(name, list(words), self.env())

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + UP_LIMIT_S
        while not condition():
            if dead := [name for name in self.daemons.names() if not self.daemons.runs(name)]:
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


def main() -> int:
    """``up DIR``, ``env DIR`` (the lines that a shell needs) and ``down DIR``."""
    parser = argparse.ArgumentParser(description="A private Slurm on this machine.")
    parser.add_argument("action", choices=["up", "env", "down"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    lab = Lab(options.folder)
    try:
        if options.action == "up":
            lab.up()
            print(f"source {shlex.quote(str(lab.folder))}/env")
        elif options.action == "env":
            print((lab.folder / "env").read_text(), end="")
        else:
            lab.down()
    except (LabError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
