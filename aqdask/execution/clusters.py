"""Dask clusters: worker processes on this machine, jobs of Slurm, or a scheduler that already runs."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dask
import dask.config
import distributed
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from aqdask.errors import ClusterError, UsageError
from aqdask.execution import config, slurm
from aqdask.execution.cluster_kinds import AUTO, KINDS, check
from aqdask.execution.executors import DaskExecutor, Executor, SerialExecutor, WorkQueue
from aqdask.execution.security import security
from aqdask.execution.work_estimate import IN_PROCESS_SECONDS

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
Cluster = str | Executor | None
QUIET = (
    "distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.nanny",
    "distributed.scheduler", "distributed.worker", "bokeh", "tornado", "tornado.application",
)  # fmt: skip
# A worker that is restarting when this time after an earlier death ends is closed for good.
RESTARTED = {"distributed.deploy.lost-worker-timeout": "1 hour"}
LOOPBACK = "127.0.0.1"
HEADERS = ("look", "hash")  # stages before others, which decide where the command runs
LOOK_EVERY = 10.0  # seconds between checks that the requested jobs still exist


@contextlib.contextmanager
def connect(cluster: str | None = None) -> Iterator[Executor]:
    """Yield an executor for a cluster; what was started for it is stopped afterwards.

    Parameters
    ----------
    cluster : str, optional
        One of `aqdask.execution.cluster_kinds.KINDS`, or the address of a scheduler. None: the Dask client of
        this process if there is one, else this process itself.

    Raises
    ------
    UsageError
        For a text that names no cluster, or a Slurm file that does not exist.
    ClusterError
        If the cluster cannot be started, does not answer, or provides no worker.
    """
    check(cluster)
    kind, _, argument = (cluster or "").partition(":")
    if cluster is None:
        yield _current()
    elif kind in KINDS:
        with KINDS[kind].connect(argument) as executor:
            yield executor
    else:
        with _quiet(), _client(cluster) as client:
            yield _with_workers(client, cluster)


@contextlib.contextmanager
def serial(argument: str = "") -> Iterator[Executor]:
    """Run tasks in this process, one after the other."""
    yield SerialExecutor()


@contextlib.contextmanager
def auto(argument: str = "") -> Iterator[Executor]:
    """Run little work in this process, and more on a local cluster: `Deferred`."""
    with Deferred(AUTO) as executor:
        yield executor


@contextlib.contextmanager
def local(argument: str = "") -> Iterator[Executor]:
    """Run tasks on worker processes of one thread each: ``argument`` many, or one a core."""
    with _settings():
        workers = int(argument or config.get("workers") or CPU_COUNT)
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=_dashboard(),
                silence_logs=logging.CRITICAL, preload=_preload(), security=security(),
            ) as started,
            Client(started) as client,
        ):  # fmt: skip
            yield _with_workers(client, "local")


@contextlib.contextmanager
def cuda(argument: str = "") -> Iterator[Executor]:
    """Run tasks on one process of one thread a GPU, or on the GPU that ``argument`` numbers.

    Raises
    ------
    ClusterError
        On a machine without an NVIDIA GPU.
    """
    with _settings(), _gpu_cluster(argument) as started, Client(started) as client:
        yield _with_workers(client, "cuda")


@contextlib.contextmanager
def slurm_jobs(argument: str = "") -> Iterator[Executor]:
    """Run tasks on workers that are jobs of Slurm, with the settings of the file ``argument``."""
    with (
        slurm.settings(argument),
        dask.config.set(config.get("dask")),
        _quiet(),
        slurm.start(_dashboard(), security()) as started,
        Client(started) as client,
    ):
        yield _with_workers(client, "slurm", lambda: slurm.all_jobs_ended(started))


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Set Dask's configuration for a cluster on this machine."""
    with dask.config.set(config.get("dask")), dask.config.set(RESTARTED), _quiet():
        yield


def _current() -> Executor:
    try:
        return DaskExecutor(distributed.get_client())
    except ValueError:  # there is no client
        return SerialExecutor()


class Deferred:
    """Executor that connects to its cluster when the first task is to be run.

    With ``auto``, tasks run in this process until more than `IN_PROCESS_SECONDS` of work have been announced
    (`WorkQueue`), and on a local cluster from then on.

    Parameters
    ----------
    cluster : str or None
        See `connect`; a text that names no cluster is refused at once.
    on_start : callable, optional
        Called with the connected executor, and before with that of this process where it does more than look
        at headers.
    """

    def __init__(
        self, cluster: str | None, on_start: Callable[[Executor], None] = lambda executor: None
    ) -> None:
        check(cluster)
        self._cluster, self._on_start = cluster, on_start
        self._stack = contextlib.ExitStack()
        self._bundles: dict[str, tuple[bytes, str]] = {}
        self._provided: set[tuple[Executor, str]] = set()
        self._seconds = 0.0
        self._here, self._told = SerialExecutor(), False
        self._started: Executor | None = None

    @property
    def dashboard(self) -> str:
        """See `Executor`; empty before anything ran."""
        return self._started.dashboard if self._started else ""

    @property
    def slots(self) -> int:
        """See `Executor`; 1 before anything ran."""
        return self._started.slots if self._started else 1

    def run(
        self, function: Callable[[T], R], queue: WorkQueue[T], *, stage: str
    ) -> Iterator[tuple[T, R | Exception]]:
        """See `Executor`."""
        if queue:
            executor = self._executor(queue.seconds, stage)
            for digest, (bundle, precision) in self._bundles.items():
                if (executor, digest) not in self._provided:
                    executor.provide(bundle, digest, precision)
                    self._provided.add((executor, digest))
            yield from executor.run(function, queue, stage=stage)

    def _executor(self, seconds: float, stage: str) -> Executor:
        """Return the executor for so many more seconds of work in a stage."""
        self._seconds += seconds
        if self._started is None and self._cluster == AUTO and self._seconds <= IN_PROCESS_SECONDS:
            if stage not in HEADERS and not self._told:
                self._told = True
                self._on_start(self._here)
            return self._here
        if self._started is None:
            where = "local" if self._cluster == AUTO else self._cluster
            self._started = self._stack.enter_context(connect(where))
            self._on_start(self._started)
        return self._started

    def avoid(self, worker: str, why: str) -> None:
        """See `Executor`."""
        if self._started:
            self._started.avoid(worker, why)

    def provide(self, bundle: bytes, digest: str, precision: str = "fp32") -> None:
        """See `Executor`."""
        self._bundles[digest] = bundle, precision

    def __enter__(self) -> Deferred:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


@contextlib.contextmanager
def executor_of(cluster: Cluster) -> Iterator[Executor]:
    """Yield an executor as it is, or connect to a cluster by name (`connect`)."""
    if cluster is None or isinstance(cluster, str):
        with connect(cluster) as executor:
            yield executor
    else:
        yield cluster


def _preload() -> list[str]:
    """Return the preload modules of workers that this process starts, those of the configuration included."""
    return [*dask.config.get("distributed.worker.preload", []), "aqdask.execution.worker"]


def _gpu_cluster(argument: str) -> Any:
    """Make a cluster of processes of one thread that share GPUs; the client itself never touches CUDA.

    A GPU waits while a process decodes a frame and decides on it: unless ``aqdask.workers`` says how many
    processes a GPU has, every core has one.
    """
    gpus = [argument] if argument else _gpus()
    if not gpus:
        raise ClusterError(
            "no NVIDIA GPU on this machine",
            expected="at least one in /proc/driver/nvidia/gpus or CUDA_VISIBLE_DEVICES",
            remedy="use --cluster local",
        )
    each = int(config.get("workers") or max(1, (os.cpu_count() or 1) // len(gpus)))
    keys = security()
    common = {"host": LOOPBACK, "security": keys, "protocol": "tls" if keys else "tcp"}
    workers = {
        f"{gpu}-{number}": {
            "cls": distributed.Nanny,
            "options": common
            | {
                "nthreads": 1,
                "silence_logs": logging.CRITICAL,
                "name": f"gpu-{gpu}-{number}",
                "env": {"CUDA_VISIBLE_DEVICES": gpu},
                "preload": _preload(),
            },
        }
        for gpu in gpus
        for number in range(each)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": common | {"dashboard_address": _dashboard()},
    }
    return distributed.SpecCluster(
        workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL, name="aqdask-cuda", security=keys
    )


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    place = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(place.iterdir())] if place.is_dir() else []


class ClosedOnFailure(Client):
    """A client of Dask that is closed where it cannot connect.

    Dask leaves such a client to the garbage collector. It is then closed in whichever thread collects it, and
    that thread waits for ever if it is one that is just being started with the lock of all clients held.
    """

    def start(self, **kwargs: Any) -> None:
        """Connect to the scheduler; see `distributed.Client.start`."""
        try:
            super().start(**kwargs)
        except BaseException:
            self.close()
            raise


def _client(address: str) -> Client:
    try:
        keys = security(starts_scheduler=False)
        return ClosedOnFailure(address, timeout=config.seconds("connect-timeout"), security=keys)
    except TypeError as error:  # distributed looks for certificates only while it connects
        raise UsageError(
            f"--cluster {address} without certificates",
            expected="--tls FOLDER, or distributed.comm.tls in Dask's configuration",
            consequence="Nothing was done",
            remedy="name the folder of the certificates that the scheduler was started with",
        ) from error
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"the scheduler at {address} does not answer ({type(error).__name__})",
            expected=f"a Dask scheduler that answers within {config.get('connect-timeout')}",
            consequence="Nothing was done",
            remedy="check the address and that `dask scheduler` runs there, or use --cluster local",
        ) from error


def _with_workers(
    client: Client, cluster: str, no_more_workers: Callable[[], bool] | None = None
) -> DaskExecutor:
    """Wait for the first worker and return the executor; give up early once ``no_more_workers()`` is true."""
    deadline = time.monotonic() + config.seconds("worker-timeout")
    while True:
        left = deadline - time.monotonic()
        try:
            client.wait_for_workers(1, timeout=max(0.1, min(left, LOOK_EVERY)))
            return DaskExecutor(client, no_more_workers or (lambda: True))
        except TimeoutError as error:
            ended = no_more_workers is not None and no_more_workers()
            if not ended and left > LOOK_EVERY:
                continue
            within = "before its jobs ended" if ended else f"within {config.get('worker-timeout')}"
            raise ClusterError(
                f"--cluster {cluster} provided no worker {within}",
                expected="at least one worker",
                consequence="Nothing was done",
                remedy="look at the workers' logs (of Slurm jobs: slurm-*.out, or the log-directory of "
                "jobqueue.slurm) and at squeue; aqdask.worker-timeout is how long to wait",
            ) from error


def _dashboard() -> str:
    """Return the configured address of the dashboard, or a free port on the same host where it is in use."""
    host, _, port = str(config.get("dashboard-address")).rpartition(":")
    with socket.socket() as probe:
        try:
            probe.bind((host or LOOPBACK, int(port)))
        except OSError:
            log.warning("warning: port %s is in use: the dashboard takes a free one", port)
            return f"{host}:0"
    return f"{host}:{port}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loggers of Dask; the run itself reports errors."""
    loggers = [logging.getLogger(name) for name in QUIET]
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
