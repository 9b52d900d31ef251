"""The executor: collects ready jobs, packs them into sessions, reports each as it ends."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import (  # type: ignore[import-untyped]
    SubmittedJobInfo,
)
from snakemake_interface_executor_plugins.executors.remote import (  # type: ignore[import-untyped]
    RemoteExecutor,
)

from .command import command_of, log_name
from .local import LocalCluster
from .packing import PackingError, Request, Session, SessionKey, check, pack
from .runner import Cell
from .site import SiteError, load_site

INVOKED_FROM = Path.cwd()
"""Snakemake imports its plugins before ``--directory`` or ``workdir:`` lead it elsewhere."""
POLL_S = 0.5
"""A local session is looked at this often: it costs a few stat() calls."""
LONGEST_GATHER = 10
"""Jobs that keep coming are held for this many times the setting at most."""


class Executor(RemoteExecutor):  # type: ignore[misc]
    """Runs jobs in sessions (see the README); on this host until other clusters are known."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        settings = workflow.executor_settings
        try:
            self.site = load_site(INVOKED_FROM / settings.site)
        except SiteError as error:
            raise WorkflowError(str(error)) from error
        if self.site.cluster != "local":
            raise WorkflowError(
                f"{settings.site}: cluster: {self.site.cluster!r} is not supported yet, "
                "allowed: 'local'"
            )
        if settings.gather_seconds < 0:
            raise WorkflowError(
                f"submitit-gather-seconds: {settings.gather_seconds}, allowed: >= 0"
            )
        parallel = settings.parallel if settings.parallel is not None else self.site.parallel
        if parallel < 1:
            raise WorkflowError(f"submitit-parallel: {parallel}, allowed: 1 and more")
        self.gather_s = float(settings.gather_seconds)
        self.logdir = Path(settings.logdir).absolute()
        self.cluster = LocalCluster(self.site, self.logdir, parallel, self._say_started)
        self.gathered: list[Request] = []
        self.first_at = self.last_at = 0.0
        self.cancelled = False
        super().__init__(workflow, logger)  # last: it starts the thread that asks for the status

    def run_jobs(self, jobs: list[Any]) -> None:
        """Take all jobs of one scheduling round; they wait for further rounds to come."""
        for job in jobs:
            self.run_job_pre(job)
            self.run_job(job)

    def run_job(self, job: Any) -> None:
        """Take one job: from here on it is reported as ended exactly once."""
        info = SubmittedJobInfo(job)
        try:
            request = self._request(job)
        except PackingError as error:
            self.report_job_error(info, msg=f"{error}. ")
            return
        info.aux = {"cell": request.cell.id}
        with self.lock:
            now = time.monotonic()
            self.first_at = self.first_at if self.gathered else now
            self.last_at = now
            self.gathered.append(request)
        self.report_job_submission(info)

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Start what is due, then report what has ended; what has not is yielded."""
        if not self.cancelled:
            if self._is_due():
                self._pack()
            self.cluster.advance()
        for info in active_jobs:
            outcome = self.cluster.outcome(info.aux["cell"])
            if outcome is None:
                yield info
            elif outcome.message:
                logs = [str(path) for path in outcome.logs if path.exists()]
                self.report_job_error(info, msg=f"{outcome.message}. ", aux_logs=logs)
            else:
                self.report_job_success(info)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End all sessions, and with them everything that they started."""
        self.cancelled = True
        with self.lock:
            self.gathered.clear()
        self.cluster.end()

    def shutdown(self) -> None:
        """Return when nothing runs any more: a session cleans up after its last cell."""
        self.cluster.end()
        super().shutdown()

    async def sleep(self) -> None:
        """Until the next look, or until gathered jobs are due."""
        end = time.monotonic() + POLL_S
        while time.monotonic() < end and not self._is_due():
            await asyncio.sleep(0.05)

    def get_job_exec_prefix(self, job: Any) -> str:
        """A nested Snakemake starts where this one was started."""
        return f"cd {shlex.quote(self.workflow.workdir_init)}"

    def _is_due(self) -> bool:
        with self.lock:
            if not self.gathered:
                return False
            now = time.monotonic()
            quiet = now - self.last_at >= self.gather_s
            return quiet or now - self.first_at >= LONGEST_GATHER * self.gather_s

    def _pack(self) -> None:
        with self.lock:
            requests, self.gathered = self.gathered, []
        self.cluster.submit(pack(requests, self.site))

    def _request(self, job: Any) -> Request:
        """What a job asks for; raises ``PackingError`` if it cannot be had."""
        identity = job.jobid if job.is_group() else job.uuid()
        command = command_of(job, self.format_job_exec)
        runtime = _number(job, "runtime")
        cell = Cell(
            id=identity,
            argv=command.argv,
            log=self.logdir / "cells" / log_name(job, identity),
            limit_s=None if runtime is None else runtime * 60,
            environment=command.environment,
            folders=command.folders,
            stale=command.stale,
        )
        key = SessionKey(
            session=_text(job, "session"),
            command=_text(job, "session_command"),
            gpu_type=_text(job, "gpu_type"),
            gpus=int(_number(job, "gpus") or 0),
        )
        order = int(_number(job, "session_order") or 0)
        request = Request(key, cell, order, _number(job, "session_runtime"))
        check(request, self.site)
        self.cluster.check(key)
        return request

    def _say_started(self, session: Session) -> None:
        self.logger.info(str(session))


def _text(job: Any, resource: str) -> str:
    value = job.resources.get(resource)
    return "" if value is None else str(value)


def _number(job: Any, resource: str) -> float | None:
    value = job.resources.get(resource)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise PackingError(f"{resource}: {value!r}, allowed: a number") from error
