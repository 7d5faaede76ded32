"""Dask workers as batch jobs of Slurm, through dask-jobqueue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.config
import yaml
from dask.utils import parse_timedelta
from distributed import Security

from aqdask.errors import ClusterError, UsageError
from aqdask.execution import config

# Of a job that Slurm requeues: with the default of 15 s it is cancelled at the moment when it comes back.
PATIENCE = {"distributed.deploy.lost-worker-timeout": "1s"}
RESUBMIT_SECONDS = 30.0  # until a job that sbatch refused is submitted again
# Pages of a worker, which `dask worker` opens to the network by default; the last of such options wins.
PRIVATE_PAGES = ("--dashboard-address", "127.0.0.1:0")


@contextlib.contextmanager
def settings(path: str) -> Iterator[None]:
    """Set Dask's configuration from a YAML file within a context.

    Raises
    ------
    UsageError
        If there is no such file, or it is no mapping in YAML.
    ClusterError
        If dask-jobqueue is not installed.
    """
    try:
        import dask_jobqueue  # noqa: F401  (brings the defaults that the file goes over)
    except ImportError as error:
        raise ClusterError(
            "dask-jobqueue is not installed",
            expected="that package, for --cluster slurm",
            remedy="pip install dask-jobqueue (the extra `slurm` of aqdask)",
        ) from error
    loaded = _load(path) if path else {}
    merged = dask.config.merge(dask.config.config, loaded)
    names = [dask.config.canonical_name(name, merged) for name in loaded]
    with dask.config.set({name: merged[name] for name in names}), dask.config.set(PATIENCE):
        yield


def _load(path: str) -> dict[str, Any]:
    remedy = "start from cluster/slurm.yaml"
    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UsageError(
            f"--cluster slurm:{path} ({error.strerror})",
            expected="a YAML file as cluster/slurm.yaml",
            remedy="check the path",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise UsageError(f"{path} is not YAML: {what}", expected="a mapping", remedy=remedy) from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no settings", expected="a mapping in YAML", remedy=remedy)
    return loaded


def start(dashboard: str, security: Security | None = None) -> Any:
    """Start a SLURMCluster and submit its jobs; a lost job is replaced.

    Parameters
    ----------
    dashboard : str
        Address of the dashboard, unless ``jobqueue.slurm.scheduler-options`` names one.
    security : distributed.Security, optional
        Certificates for TLS; temporary ones are written, for this user only, to
        ``jobqueue.slurm.shared-temp-directory`` (the current folder by default) while the cluster lives.

    Raises
    ------
    ClusterError
        If the settings are incomplete, or sbatch rejects a job.
    """
    cluster = None
    try:
        jobs = int(config.get("slurm.jobs"))
        given = dask.config.get("jobqueue.slurm")
        for name in ("cores", "memory"):  # a cluster that fails while it is made complains again when deleted
            if not given.get(name):
                raise ValueError(f"jobqueue.slurm.{name} is not set")
        processes = given.get("processes")
        cluster = _cluster_class()(
            silence_logs=logging.ERROR,
            scheduler_options={"dashboard_address": dashboard, **(given.get("scheduler-options") or {})},
            job_script_prologue=[*_exports(), *(given.get("job-script-prologue") or [])],
            worker_extra_args=[*PRIVATE_PAGES, *(given.get("worker-extra-args") or [])],
            security=security,
            shared_temp_directory=given.get("shared-temp-directory") or os.getcwd(),
            # named here, since dask-jobqueue counts the workers of a job only by this argument
            **({"processes": processes} if processes else {}),
        )
        cluster.scale(jobs=jobs)
        cluster.sync(_submitted, cluster)
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # `scale` alone never replaces a lost job
    except (ValueError, RuntimeError, OSError, TypeError, AttributeError) as error:
        if cluster is not None:
            cluster.close()
        raise ClusterError(
            f"the Slurm cluster could not be started: {_what(error)}",
            expected="jobqueue.slurm settings that sbatch takes (queue, cores, memory, walltime)",
            consequence="Nothing was done",
            remedy="start from cluster/slurm.yaml and name it: --cluster slurm:FILE",
        ) from error
    return cluster


def _job_class() -> Any:
    """Make a subclass of dask-jobqueue's job that mends faults of version 0.9.0."""
    from dask_jobqueue.slurm import SLURMJob
    from distributed.deploy.spec import ProcessInterface

    class SlurmJob(SLURMJob):
        """Job that keeps the error of sbatch, which is only logged otherwise, and ends as closed."""

        refused: Exception | None = None
        is_retried = False

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.refused = error
                await ProcessInterface.start(self)

        async def close(self) -> None:
            await super().close()
            await ProcessInterface.close(self)  # SpecCluster asserts that status when it closes

    return SlurmJob


def _cluster_class() -> Any:
    """Make a subclass of dask-jobqueue's cluster that mends faults of version 0.9.0."""
    from dask_jobqueue import SLURMCluster
    from distributed.core import Status

    class SlurmCluster(SLURMCluster):
        """Cluster that counts a job as lost with its last worker, and submits a refused one again."""

        job_cls = _job_class()

        async def _close(self) -> None:
            await super()._close()
            for name in ("ca_file", "cert", "key"):  # temporary certificates
                if file := getattr(self, f"_job_{name}", None):
                    file.close()

        async def _correct_state_internal(self) -> None:
            await super()._correct_state_internal()
            for name, job in self.workers.items():
                if job.refused and not job.is_retried:
                    job.is_retried = True
                    asyncio.get_running_loop().call_later(RESUBMIT_SECONDS, self._submit_again, name, job)

        def _submit_again(self, name: str, job: Any) -> None:
            if self.workers.get(name) is job and self.status == Status.running:
                del self.workers[name]
                self._correct_state()

        def _update_worker_status(self, op: str, msg: Any) -> None:
            gone = self.scheduler_info["workers"][msg]["name"] if op == "remove" else None
            super()._update_worker_status(op, msg)
            for job, spec in self.worker_spec.items():
                if gone in {job + suffix for suffix in spec.get("group", ())}:
                    delay = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
                    asyncio.get_running_loop().call_later(delay, self._drop_if_lost, job)

        def _drop_if_lost(self, job: str) -> None:
            names = {job + suffix for suffix in self.worker_spec.get(job, {}).get("group", ())}
            there = {worker["name"] for worker in self.scheduler_info["workers"].values()}
            if job in self.workers and not names & there:
                self._futures.add(asyncio.ensure_future(self.workers.pop(job).close()))

    return SlurmCluster


def _what(error: Exception) -> str:
    """Return the message of an error; of a failed command only its own output."""
    return " ".join(str(error).rpartition("stderr:")[2].split())


async def _submitted(cluster: Any) -> None:
    """Wait for sbatch; raise its error."""
    await cluster
    for job in cluster.workers.values():
        if job.refused:
            raise job.refused


def _exports() -> list[str]:
    """Return lines of the job script that export the settings which workers read when they start.

    Variables for worker processes are exported as they are: Dask would not keep the case of their names.
    """
    lines = []
    for name, value in config.get("dask").items():
        variable = name.removeprefix("distributed.nanny.pre-spawn-environ.")
        if variable == name:
            variable = f"DASK_{name.upper().replace('.', '__').replace('-', '_')}"
        lines.append(f"export {variable}={shlex.quote(str(value))}")
    return lines


def all_jobs_ended(cluster: Any) -> bool:
    """Return True if none of a cluster's jobs is waiting or running any more, or sbatch refused them all."""
    jobs = list(cluster.workers.values())
    ours = {str(job.job_id) for job in jobs if getattr(job, "job_id", None)}
    if not ours:
        return bool(jobs) and all(job.refused for job in jobs)
    command = ["squeue", "--noheader", "--format=%i", f"--user={os.getuid()}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False  # it does not answer: nobody knows
    return not ours & set(listed.split())
