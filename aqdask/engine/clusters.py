"""Where tasks run: this process, a local cluster, Slurm, or a scheduler that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.config
import distributed
import yaml
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from aqdask.engine import config
from aqdask.engine.executors import DaskExecutor, Executor, SerialExecutor
from aqdask.errors import ClusterError, UsageError

Cluster = str | Executor | None
KINDS = "serial, local[:WORKERS], cuda, slurm[:FILE], or the address of a scheduler (tcp://host:port)"


@contextlib.contextmanager
def connect(cluster: str | None = None) -> Iterator[Executor]:
    """An executor for ``cluster``; whatever was started for it is stopped afterwards.

    Parameters
    ----------
    cluster : str, optional
        One of `KINDS`. None: the Dask client of this process if there is one, else this process itself.

    Raises
    ------
    UsageError
        For a word that names no cluster, or a Slurm file that is not there.
    ClusterError
        If the cluster cannot be started, does not answer, or sends no worker.
    """
    kind, _, argument = (cluster or "").partition(":")
    if cluster is None:
        with contextlib.suppress(ValueError):
            yield DaskExecutor(distributed.get_client())
            return
        yield SerialExecutor()
    elif cluster == "serial":
        yield SerialExecutor()
    elif kind in ("local", "cuda", "slurm"):
        starter = {"local": _local, "cuda": _cuda, "slurm": _slurm}[kind]
        with (
            dask.config.set(config.get("dask")),
            _quiet(),
            starter(argument) as started,
            Client(started) as client,
        ):
            yield _with_workers(client, cluster)
    elif "://" in cluster:
        with _quiet(), _client(cluster) as client:
            yield _with_workers(client, cluster)
    else:
        raise UsageError(f"--cluster {cluster}", expected=KINDS, consequence="Nothing was started")


@contextlib.contextmanager
def executor_of(cluster: Cluster) -> Iterator[Executor]:
    """The executor itself, or one for a cluster by name (`aqdask.engine.clusters.connect`)."""
    if cluster is None or isinstance(cluster, str):
        with connect(cluster) as executor:
            yield executor
    else:
        yield cluster


def _local(argument: str) -> Any:
    """One process a core with one thread each; on a machine with GPUs use `cuda` for scoring."""
    if argument and not argument.isdigit():
        raise UsageError(f"--cluster local:{argument}", expected="local:WORKERS with a whole number")
    workers = int(argument or config.get("workers") or CPU_COUNT)
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=_dashboard(), silence_logs=logging.ERROR
    )


def _cuda(argument: str) -> Any:
    """One process with one thread a GPU; the client itself never touches CUDA."""
    gpus = [argument] if argument else _gpus()
    if not gpus:
        raise ClusterError(
            "no NVIDIA GPU on this machine",
            expected="at least one in /proc/driver/nvidia/gpus or CUDA_VISIBLE_DEVICES",
            remedy="use --cluster local",
        )
    workers = {
        gpu: {
            "cls": distributed.Nanny,
            "options": {"nthreads": 1, "name": f"gpu-{gpu}", "env": {"CUDA_VISIBLE_DEVICES": gpu}},
        }
        for gpu in gpus
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"dashboard_address": _dashboard(), "host": "127.0.0.1"},
    }
    return distributed.SpecCluster(
        workers=workers, scheduler=scheduler, silence_logs=logging.ERROR, name="aqdask-cuda"
    )


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    place = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(place.iterdir())] if place.is_dir() else []


def _slurm(argument: str) -> Any:
    """Batch jobs through dask-jobqueue, as Dask's ``jobqueue.slurm`` or the YAML file says."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ClusterError(
            "dask-jobqueue is not installed",
            expected="it, for --cluster slurm",
            remedy="pip install 'aqdask[slurm]'",
        ) from error
    if argument:
        place = Path(argument)
        if not place.is_file():
            raise UsageError(
                f"no file {argument}", expected="a YAML file as cluster/slurm.yaml", remedy="check the path"
            )
        dask.config.update(dask.config.config, yaml.safe_load(place.read_text()) or {}, priority="new")
    try:
        cluster = SLURMCluster(silence_logs=logging.ERROR)
        cluster.scale(jobs=int(config.get("slurm.jobs")))
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        raise ClusterError(
            f"the Slurm cluster could not be started: {' '.join(str(error).split())}",
            expected="jobqueue.slurm settings that sbatch takes (queue, cores, memory, walltime)",
            consequence="Nothing was done",
            remedy="start from cluster/slurm.yaml and name it: --cluster slurm:FILE",
        ) from error
    return cluster


def _client(address: str) -> Client:
    try:
        return Client(address, timeout=config.seconds("connect-timeout"))
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"the scheduler at {address} does not answer ({type(error).__name__})",
            expected=f"a Dask scheduler that answers within {config.get('connect-timeout')}",
            consequence="Nothing was done",
            remedy="check the address and that `dask scheduler` runs there, or use --cluster local",
        ) from error


def _with_workers(client: Client, cluster: str) -> DaskExecutor:
    """The executor once the first worker is there."""
    try:
        client.wait_for_workers(1, timeout=config.seconds("worker-timeout"))
    except TimeoutError as error:
        raise ClusterError(
            f"--cluster {cluster} sent no worker within {config.get('worker-timeout')}",
            expected="at least one worker",
            consequence="Nothing was done",
            remedy="look at squeue or the workers' logs; aqdask.worker-timeout is how long to wait",
        ) from error
    return DaskExecutor(client)


def _dashboard() -> str:
    """The configured address, or a free port on the same host where that one is taken."""
    host, _, port = str(config.get("dashboard-address")).rpartition(":")
    with socket.socket() as probe:
        try:
            probe.bind((host or "127.0.0.1", int(port)))
        except OSError:
            return f"{host}:0"
    return f"{host}:{port}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log stays below errors: what matters to the user is said by the run itself."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.worker", "bokeh", "tornado")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
