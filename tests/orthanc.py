"""A real PACS for tests: Orthanc with its DICOMweb plugin, on a free port of this machine and in a folder of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PLUGINS = Path("/usr/share/orthanc/plugins")
PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
USER, PASSWORD = "reader", "a secret of tests"
PATIENCE = 60  # seconds to start


class Orthanc:
    """A running Orthanc.

    Attributes:
        url: of its DICOMweb service.
        folder: of its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, dicom = _free_port(), _free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/dicom-web"
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "HttpPort": self.port,
            "DicomPort": dicom,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "OverwriteInstances": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, again perhaps, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                self.ask("/system")
                self.ask("/dicom-web/studies?limit=1")
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
        self.stop()
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop it; its data stay."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def ask(self, path: str, content: bytes | None = None, method: str | None = None) -> Any:
        """Ask its own REST API, which Petechia never uses; returns JSON or bytes."""
        request = urllib.request.Request(self.root + path, content, method=method)  # noqa: S310
        request.add_header("Authorization", "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            found = answer.read()
            return json.loads(found) if "json" in answer.headers.get("Content-Type", "") else found

    def store(self, *files: bytes) -> None:
        """Store DICOM files."""
        for one in files:
            self.ask("/instances", one)

    def files(self) -> list[bytes]:
        """All that it has stored."""
        return [self.ask(f"/instances/{one}/file") for one in self.ask("/instances")]


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run an Orthanc; skips the test where it is not installed."""
    if not Path(PROGRAM).exists() or not (PLUGINS / "libOrthancDicomWeb.so").exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc, orthanc-dicomweb)")
    running = Orthanc(folder)
    try:
        yield running
    finally:
        running.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
