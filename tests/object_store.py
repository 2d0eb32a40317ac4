"""An object store of this machine (moto's S3 on loopback) that can be told to refuse, fail or hang, and machines that use it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest

from audiotok import storage

pytest.importorskip("s3fs", reason="pip install 'audiotok[s3]' to test folders in an object store")
pytest.importorskip("moto.server", reason="pip install 'moto[server]' to test folders in an object store")

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
IMPATIENT = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 2, "retries": {"total_max_attempts": 1}}}
ANSWERS = {"refuse": ("403 Forbidden", b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")}
ANSWERS["fail"] = ("500 Internal Server Error", b"<Error><Code>InternalError</Code><Message>We failed</Message></Error>")
Mood = Callable[[int], str]  # "refuse", "fail", "hang" or anything else, for the request of that number


class Store:
    """moto, told by `mood` what to do with each request. `asked` counts them since the mood was last set."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._ended = Event()
        self.behave()
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Any:
        self.asked += 1
        mood = self._mood(self.asked)
        if mood == "hang":
            self._ended.wait(30)
        if mood in ANSWERS:
            status, body = ANSWERS[mood]
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        return self._app(environ, start_response)

    def behave(self, mood: Mood = lambda number: "well") -> None:
        self._mood, self.asked = mood, 0

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with the bucket `bucket`, to which s3:// leads meanwhile; it is given up after two seconds."""
    store = Store()
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": store.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(storage.PATIENCE, "s3", IMPATIENT | {"endpoint_url": store.url})
    monkeypatch.setattr(storage, "ROUNDS", 1)
    urlopen(Request(f"{store.url}/moto-api/reset", method="POST")).close()  # all stores of a process are one to moto
    boto3.client("s3", endpoint_url=store.url).create_bucket(Bucket="bucket")
    try:
        yield store
    finally:
        store.close()


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Be a machine whose mirror is that folder; returns where it mirrors s3://bucket."""
    monkeypatch.setenv(storage.PLACE, str(folder))
    return folder / "s3" / "bucket"


def objects(folder: Path) -> dict[str, bytes]:
    """What the store holds below a folder of the mirror, but for locks."""
    return {name: storage.read(folder / name) for name in storage.names(folder) if not name.endswith(".lock")}
