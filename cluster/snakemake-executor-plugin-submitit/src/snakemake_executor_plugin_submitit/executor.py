"""The executor: collects ready jobs, packs them into sessions, reports each as it ends."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from snakemake.settings.enums import Quietness
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import (  # type: ignore[import-untyped]
    SubmittedJobInfo,
)
from snakemake_interface_executor_plugins.executors.remote import (  # type: ignore[import-untyped]
    RemoteExecutor,
)

from .cluster import Cluster
from .dry_run import print_scripts
from .local import LocalCluster
from .lock import Lock, LockedError
from .outcome import REFUSED, Outcome
from .packing import PackingError, Request, Session, check, pack
from .progress.report import progress_of
from .request import (
    asks_for_more_memory,
    failure_record_of,
    identity_of,
    readable_name,
    request_of,
    unused_resources,
)
from .retries import drop_unwanted
from .site import Site, SiteError, load_site

INVOKED_FROM = Path.cwd()
"""Snakemake imports its plugins before ``--directory`` or ``workdir:`` lead it elsewhere."""
NESTED = "snakemake_executor_plugin_submitit.nested"
POLL_S = 0.5
"""A local session is looked at this often: it costs a few stat() calls."""
SOON_S = 0.05
"""A session that says it has news is looked at as soon as this,"""
SOON_FACTOR = 10
"""but not before this many times what the last look has taken: with many jobs it takes long."""
LONGEST_GATHER = 10
"""Jobs that keep coming are held for this many times the setting at most."""


class Executor(RemoteExecutor):  # type: ignore[misc]
    """Runs jobs in sessions (see the README), on the cluster that the site file describes."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        settings = workflow.executor_settings
        try:
            self.site = load_site(INVOKED_FROM / Path(settings.site).expanduser())
            if settings.qos is not None:
                self.site = self.site.with_qos(settings.qos)
        except SiteError as error:
            raise WorkflowError(str(error)) from error
        if settings.detach and self.site.cluster == "local":
            raise WorkflowError(
                "submitit-detach: sessions of a local site end with their snakemake"
            )
        if settings.dry_run and self.site.cluster == "local":
            raise WorkflowError("submitit-dry-run: a local site submits nothing")
        self.dry_run = bool(settings.dry_run)
        if settings.gather_seconds < 0:
            raise WorkflowError(
                f"submitit-gather-seconds: {settings.gather_seconds}, allowed: >= 0"
            )
        parallel = settings.parallel if settings.parallel is not None else self.site.parallel
        if parallel < 1:
            raise WorkflowError(f"submitit-parallel: {parallel}, allowed: 1 and more")
        self.gather_s = float(settings.gather_seconds)
        self.logdir = Path(settings.logdir).absolute()
        self.detach = bool(settings.detach)
        self.say, self.complain = logger.info, logger.error
        drop_unwanted(workflow, sys.argv[1:])
        quiet = {Quietness.PROGRESS, Quietness.ALL} & set(workflow.output_settings.quiet or ())
        self.progress = progress_of(settings, bool(quiet), logger, self.logdir)
        try:
            self.log_lock = Lock(self.logdir / "lock")
            latency_s = float(workflow.execution_settings.latency_wait)
            self.cluster = self._cluster(self.site, parallel, latency_s)
        except (LockedError, SiteError, OSError) as error:
            raise WorkflowError(str(error)) from error
        if not self.log_lock.is_held:
            self.say(f"{self.logdir}: its file system has no locks: run one snakemake at a time")
        self.gathered: list[Request] = []
        self.first_at = self.last_at = self.round_s = 0.0
        self.records: dict[str, Path] = {}  # cell -> where to say why it has no output
        self.said: set[str] = set()
        self.has_jobs = self.cancelled = False
        super().__init__(workflow, logger)  # last: it starts the thread that asks for the status

    def _cluster(self, site: Site, parallel: int, latency_s: float) -> Cluster:
        if site.cluster == "local":
            return LocalCluster(site, self.logdir, parallel, self._started)
        from .slurm.cluster import SlurmCluster  # a local run does not wait for its imports

        site = site.model_copy(update={"parallel": parallel})
        return SlurmCluster(site, self.logdir, self.say, self.progress, latency_s)

    def _started(self, session: Session) -> None:
        self.say(str(session))
        self.progress.changed(session.id, (), is_running=True)

    def run_jobs(self, jobs: list[Any]) -> None:
        """Take all jobs of one scheduling round; they wait for further rounds to come."""
        if self.dry_run:
            self._print_scripts(jobs)
        for job in jobs:
            self.run_job_pre(job)
            self.run_job(job)

    def _print_scripts(self, jobs: list[Any]) -> None:
        """Print what would be submitted for the jobs of the first round, and end Snakemake.

        Nothing of them was touched, so there is nothing to report of them either.
        """
        from .slurm.cluster import SlurmCluster

        assert isinstance(self.cluster, SlurmCluster)
        requests, refused = [], []
        for job in jobs:
            try:
                requests.append(self._request(job))
            except PackingError as error:
                refused.append(f"{readable_name(job)}: {error}")
        print_scripts(self.cluster.scripts(pack(requests, self.site)), refused)
        self.log_lock.release()
        self.workflow.persistence.unlock()
        shutil.rmtree(self.tmpdir, ignore_errors=True)
        os._exit(1 if refused else 0)

    def run_job(self, job: Any) -> None:
        """Take one job: from here on it is reported as ended exactly once."""
        info = SubmittedJobInfo(job)
        try:
            request = self._request(job)
            self.progress.handed(request)
            is_running = self.cluster.reattach(request)
        except PackingError as error:
            outcome = Outcome(REFUSED, str(error))
            self.progress.ended(identity_of(job), outcome)
            self._fail(info, outcome, failure_record_of(job))
            return
        info.aux = {"cell": request.cell.id}
        if not is_running:
            self._gather(request)
        self.has_jobs = True
        # The session marks its outputs as incomplete itself: see ``command._markers``.
        self.report_job_submission(info, register_job=not request.cell.markers)

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Start what is due, then report what has ended; what has not is yielded."""
        began = time.monotonic()
        if not self.cancelled:
            if self._is_due():
                self._pack()
            if self._is_told_to_stop() and not self.detach:
                self.cluster.stop_waiting()
            self.cluster.advance()
            for request in self.cluster.released():
                self._gather(request)
        for info in active_jobs:
            outcome = self.cluster.outcome(info.aux["cell"])
            if outcome is None:
                yield info
            else:
                self.progress.ended(info.aux["cell"], outcome)
                self._report(info, outcome)
        self.progress.look()
        self.round_s = time.monotonic() - began

    def handle_job_success(self, job: Any) -> None:
        """Snakemake has recorded that a job ended well."""
        super().handle_job_success(job)
        self.cluster.recorded(identity_of(job))

    def handle_job_error(self, job: Any) -> None:
        """Snakemake has removed what a failed job had left."""
        super().handle_job_error(job)
        self.cluster.recorded(identity_of(job))

    def _gather(self, request: Request) -> None:
        with self.lock:
            now = time.monotonic()
            self.first_at = self.first_at if self.gathered else now
            self.last_at = now
            self.gathered.append(request)

    def _report(self, info: SubmittedJobInfo, outcome: Outcome) -> None:
        record = self.records.pop(info.aux["cell"], None)
        if not outcome.kind:
            self.report_job_success(info)
            return
        info.external_jobid = outcome.job or None
        self._fail(info, outcome, record)

    def _fail(self, info: SubmittedJobInfo, outcome: Outcome, record: Path | None) -> None:
        if record is not None and (not outcome.by_itself or not record.exists()):
            outcome.record(record)
        if outcome.is_final and not (outcome.is_for_memory and asks_for_more_memory(info.job)):
            info.job.attempt = info.job.restart_times + 1  # the attempts are used up
        logs = [str(path) for path in outcome.logs if path.exists()]
        if Quietness.RULES in (self.workflow.output_settings.quiet or ()):
            # Snakemake counts errors among what is said of rules, and would say nothing of this.
            self.complain(f"{readable_name(info.job)}: {outcome.message}; {outcome.last_words()}")
        self.report_job_error(info, msg=f"{outcome.message}. ", aux_logs=logs)

    def _is_told_to_stop(self) -> bool:
        """Whether Snakemake has got SIGTERM: it hands nothing more over then."""
        scheduler = getattr(self.workflow, "scheduler", None)
        return getattr(scheduler, "_user_kill", None) == "graceful"

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End all sessions, and with them everything that they started; or leave them."""
        self.cancelled = True
        self.progress.close()
        with self.lock:
            self.gathered.clear()
        if self.detach:
            self.cluster.detach()
        else:
            self.cluster.end()

    def shutdown(self) -> None:
        """Return when nothing runs any more: a session cleans up after its last cell."""
        if self._is_told_to_stop():
            self.say(self.progress.stopped())
        self.progress.close()
        if self.cancelled and self.detach:
            # Jobs of nested Snakemakes wait for the folder that is removed otherwise.
            with self.lock:
                self.wait = False
            self.wait_thread.join()
        else:
            self.cluster.end()
            super().shutdown()
        self.log_lock.release()

    def _wait_thread(self) -> None:
        """Ask for the status, from the first job on.

        Without any job the interpreter ends under this thread, which would complain about its event
        loop then: none is made until there is something to look at.
        """
        while self.wait and not self.has_jobs:
            time.sleep(0.05)
        super()._wait_thread()

    async def sleep(self) -> None:
        """Until the next look, or until gathered jobs are due."""
        began = time.monotonic()
        soon, late = began + SOON_FACTOR * self.round_s, began + POLL_S
        while self.wait and time.monotonic() < late and not self._is_due():
            await asyncio.sleep(SOON_S)
            if time.monotonic() >= soon and self.cluster.has_news():
                break

    def get_job_exec_prefix(self, job: Any) -> str:
        """A nested Snakemake starts where this one was started."""
        return f"cd {shlex.quote(self.workflow.workdir_init)}"

    def format_job_exec(self, job: Any) -> str:
        """The command line of a nested Snakemake, which tries a job once."""
        text: str = super().format_job_exec(job)
        return text.replace(" -m snakemake ", f" -m {NESTED} ", 1)

    def _is_due(self) -> bool:
        with self.lock:
            if not self.gathered:
                return False
            if self._is_all():
                return True
            now = time.monotonic()
            quiet = now - self.last_at >= self.gather_s
            return quiet or now - self.first_at >= LONGEST_GATHER * self.gather_s

    def _is_all(self) -> bool:
        """Whether no more jobs can become ready before those that wait here have ended."""
        scheduler = getattr(self.workflow, "scheduler", None)
        running = getattr(scheduler, "running", None)
        if running is None or len(running) != len(self.gathered):
            return False
        return not getattr(scheduler, "open_jobs", True)

    def _pack(self) -> None:
        with self.lock:
            requests, self.gathered = self.gathered, []
        self.cluster.submit(self.progress.formed(pack(requests, self.site)))

    def _request(self, job: Any) -> Request:
        """What a job asks for; raises ``PackingError`` if it cannot be had."""
        for line in unused_resources(job, self.site.cluster):
            if line not in self.said:
                self.said.add(line)
                self.say(f"resource {line} (rule {readable_name(job).split()[0]})")
        request = request_of(job, self.format_job_exec, self.logdir, self._is_counted)
        check(request, self.site)
        self.cluster.check(request)
        if record := failure_record_of(job):
            self.records[request.cell.id] = record
        return request

    def _is_counted(self, gpus: int) -> bool:
        """Whether threads and memory are asked for: else GPUs say how much of a node."""
        return not gpus and self.site.cluster == "slurm"
