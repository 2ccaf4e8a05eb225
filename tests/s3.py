"""Real S3 servers for tests: SeaweedFS (a process that can be stopped and started again) and moto (in a thread)."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

KEY, SECRET = "tester", "secret-of-the-tester"
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now; SeaweedFS takes port + 10,000 too, so they lie below 50,000."""
    ports: list[int] = []
    port = 20_000 + os.getpid() * 997 % 25_000  # processes that start together look in different places
    while len(ports) < count:
        port = 20_000 + (port + 7) % 25_000
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in _given:  # two servers of one process
            _given.add(port)
            ports.append(port)
    return ports


def environment(endpoint: str) -> dict[str, str]:
    """What a user has in the environment to reach the server."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
    }


class Seaweed:
    """A SeaweedFS server with one user; its data outlives `stop`.

    Args:
        folder: Where its data lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        self._ports = free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"

    def __enter__(self) -> "Seaweed":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "s3.json"
        actions = ["Admin", "Read", "Write", "List"]
        user = {"name": "tester", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
        config.write_text(json.dumps({"identities": [user]}))
        s3, master, volume, filer = self._ports
        command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={self._folder}", "-ip=127.0.0.1"]
        command += ["-s3", f"-s3.port={s3}", f"-s3.config={config}", f"-master.port={master}", f"-volume.port={volume}"]
        command += [f"-filer.port={filer}", "-volume.max=200", "-master.volumeSizeLimitMB=64"]
        # the catalogs listen at fixed ports unless they are switched off, and two servers would meet there
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]  # back in seconds after a kill
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether an object can be put and read: the S3 port opens before the volumes are there."""
        try:
            client = _client(self.endpoint)
            make_bucket(self.endpoint, "features")
            client.put_object(Bucket="features", Key="are-you-there", Body=b"yes")
            client.get_object(Bucket="features", Key="are-you-there")["Body"].read()
        except Exception:  # whatever boto3 makes of a server that is starting
            return False
        return True

    def stop(self) -> None:
        """Kills the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Moto:
    """moto's S3 server in a thread of this process; takes any credentials, and keys that SeaweedFS refuses."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        port = free_ports(1)[0]
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        self.endpoint = f"http://127.0.0.1:{port}"

    def __enter__(self) -> "Moto":
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.stop()

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Puts an object under any name, as a client that is not ours might."""
        client = _client(self.endpoint)
        client.put_object(Bucket=bucket, Key=key, Body=body)
        client.close()


class Counted:
    """An obstore store that counts its requests by method.

    Args:
        store: The store.
    """

    def __init__(self, store: Any) -> None:
        self._store, self.requests = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def counting(*args: Any, **options: Any) -> Any:
            self.requests[name] += 1
            return call(*args, **options)

        return counting


def _client(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5),
    )


def make_bucket(endpoint: str, name: str | None = None) -> str:
    """Makes a bucket if it is not there; returns its name."""
    name = name or f"bucket-{uuid.uuid4().hex[:12]}"
    client = _client(endpoint)
    try:
        client.create_bucket(Bucket=name)
    except (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        pass
    finally:
        client.close()
    return name


def reachable(url: str) -> bool:
    """Whether anything answers at an address."""
    try:
        with urlopen(url, timeout=2):
            return True
    except HTTPError:
        return True
    except (URLError, OSError):
        return False
