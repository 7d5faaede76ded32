"""Encrypted connections, refused plain ones, and pages and ports that the network does not reach."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import psutil
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster, Security

from aqdask.cli.main import aqdask
from aqdask.errors import ClusterError, UsageError
from aqdask.execution.clusters import connect
from aqdask.execution.executors import WorkQueue
from aqdask.execution.security import security

pytestmark = pytest.mark.cluster
FOUR = r".*Expected: .*What to do: "


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A folder of certificates, made as cluster/README.md shows."""
    folder = tmp_path_factory.mktemp("certificates")
    command = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=aqdask -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder


def answers(executor) -> list[int]:
    return [result for _, result in executor.run(abs, WorkQueue([-1] * 4), stage="score")]


def listening() -> set[str]:
    """Addresses on which this process and its children wait for connections."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [one for process in family for one in process.net_connections() if one.status == "LISTEN"]
    return {one.laddr.ip for one in sockets}


def assert_plain_clients_are_refused(address: str) -> None:
    assert address.startswith("tls://")
    plain = address.replace("tls://", "tcp://")
    with dask.config.set({"aqdask.connect-timeout": "1 s", "aqdask.tls": None}):
        with pytest.raises(ClusterError, match=f"does not answer{FOUR}"), connect(plain):
            pass
        with pytest.raises(UsageError, match=f"without certificates{FOUR}"), connect(address):
            pass
        # One that is left connecting is closed by the garbage collector, which may wait for its own thread.
        clients = [one for one in gc.get_objects() if issubclass(type(one), Client)]
        assert {one.status for one in clients} <= {"closed", "running"}
    with (
        dask.config.set({"aqdask.connect-timeout": "1 s", "aqdask.tls": None}),
        pytest.raises(OSError, match=r"[Tt]imed out|certificate does not match"),
        Client(address, timeout=1, security=Security.temporary()),
    ):
        pass


@pytest.mark.parametrize("kind", ["temporary", "own"])
@pytest.mark.parametrize("cluster", ["local:1", "cuda:0"])
def test_what_aqdask_starts_is_encrypted_and_refuses_others(certificates, cluster, kind):
    with (
        dask.config.set({"aqdask.tls": "temporary" if kind == "temporary" else certificates}),
        connect(cluster) as executor,
    ):
        assert answers(executor) == [1] * 4
        assert listening() == {"127.0.0.1"}
        workers = executor.client.scheduler_info()["workers"]
        assert all(worker.startswith("tls://127.0.0.1:") for worker in workers)
        assert_plain_clients_are_refused(executor.client.scheduler.address)


@pytest.mark.parametrize("cluster", ["local:1", "cuda:0"])
def test_without_tls_too_nothing_listens_to_the_network(cluster):
    with connect(cluster) as executor:
        assert answers(executor) == [1] * 4
        assert listening() == {"127.0.0.1"}
        assert executor.client.scheduler.address.startswith("tcp://127.0.0.1:")


def test_a_scheduler_that_runs_already_is_reached_with_its_certificates(certificates):
    with dask.config.set({"aqdask.tls": str(certificates)}):
        given = security()
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, security=given, dashboard_address=":0"
            ) as cluster,
            connect(cluster.scheduler_address) as executor,
        ):
            assert answers(executor) == [1] * 4
            with dask.config.set({"aqdask.tls": "temporary"}), pytest.raises(UsageError, match=FOUR):
                security(starts_scheduler=False)


@pytest.mark.parametrize("name", ["ca.pem", "key.pem"])
def test_a_folder_without_a_certificate_is_refused(certificates, tmp_path, name):
    folder = Path(shutil.copytree(certificates, tmp_path / "some"))
    (folder / name).unlink()
    with (
        dask.config.set({"aqdask.tls": str(folder)}),
        pytest.raises(UsageError, match=f"holds no {name}{FOUR}"),
        connect("local:1"),
    ):
        pass


def test_temporary_certificates_need_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with dask.config.set({"aqdask.tls": "temporary"}), pytest.raises(ClusterError, match=rf"\[?tls{FOUR}"):
        security()


def test_the_option_of_the_command(night, tmp_path):
    command = ["ingest", str(night), str(tmp_path / "a.zarr"), "--cluster", "local:1", "--tls"]
    refused = CliRunner().invoke(aqdask, [*command, str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert re.search(f"holds no ca.pem, cert.pem, key.pem{FOUR}", refused.output)
    done = CliRunner().invoke(aqdask, [*command, "temporary"])
    assert done.exit_code == 0, done.output
