"""Faults of the local Hub by name, and clients that wait for milliseconds where they would wait for minutes.

Import `haste`, and it is on in all tests of the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import HfFileSystem, constants, file_download, set_client_factory
from huggingface_hub.utils import _http, _xet, disable_progress_bars, enable_progress_bars

from ad_hf import hub as client

# hf_xet is patient for minutes, too; it reads these when it begins a session.
XET = {"RETRY_BASE_DELAY": "10ms", "RETRY_MAX_ATTEMPTS": "2"}
PATIENCE = 0.3  # seconds


class HastyTime:
    """The module `time`, for the clients, which would wait for half a minute."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.01))


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that waits waits shortly; no client remembers anything."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)
    monkeypatch.setattr(client, "PATIENCE", PATIENCE)
    monkeypatch.setattr(client, "PERSISTENCE", 10.0)
    monkeypatch.setattr(client, "SLOWEST", 1e6)
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", HastyTime())
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", PATIENCE)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", PATIENCE)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", PATIENCE)
    for name, value in XET.items():
        monkeypatch.setenv(f"HF_XET_CLIENT_{name}", value)
    monkeypatch.delenv("HF_XET_CLIENT_READ_TIMEOUT", raising=False)
    client.be_patient_but_not_for_ever()
    disable_progress_bars()
    client._warn_once.cache_clear()
    forget()
    yield
    enable_progress_bars()
    set_client_factory(_http.default_client_factory)
    os.environ.pop("HF_XET_CLIENT_READ_TIMEOUT", None)
    forget()


def forget() -> None:
    """Let the clients of this process begin anew, as those of another would."""
    HfFileSystem.clear_instance_cache()
    _xet.XET_CONNECTION_INFO_CACHE.clear()
    _xet.abort_xet_session()


class Fault(NamedTuple):
    """What `LocalHub.fail` takes."""

    kind: int | str
    count: int | None = 1


FAULTS = {
    "500 once": Fault(500),
    "503 once": Fault(503),
    "429 once": Fault(429),
    "reset once": Fault("reset"),
    "cut once": Fault("cut"),
    "stall once": Fault("stall"),
    "lost answer": Fault("lost"),
    "lie once": Fault("lie"),
    "503 for ever": Fault(503, None),
    "reset for ever": Fault("reset", None),
    "stall for ever": Fault("stall", None),
    "lie for ever": Fault("lie", None),
    "401": Fault(401, None),
    "403": Fault(403, None),
    "404": Fault(404, None),
    "409 once": Fault(409),
    "412 once": Fault(412),
    "Ctrl-C": Fault("stall", None),
}


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
