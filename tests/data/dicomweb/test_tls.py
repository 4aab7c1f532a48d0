"""TLS with a certificate of one's own."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

from petechia.core.errors import PetechiaError
from petechia.data.dicomweb import pacs
from petechia.data.dicomweb.pacs import Pacs, Query
from petechia.data.not_read import Files
from tests.data.dicomweb.hostile import answering, entry, serving


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    made, key = folder / "certificate.pem", folder / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run([program, *words, *files], check=True, capture_output=True)
    return made, key


def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs, "PATIENCE", ())
    monkeypatch.setenv("PETECHIA_DICOMWEB_TOKEN", "t0ken")
    made, key = certificate(tmp_path)
    with serving(answering([entry(study="1.3")], [entry(uid="1.2", series="1.4")])) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(PetechiaError, match="certificate of .* is not trusted .*; set PETECHIA_DICOMWEB_CA"):
            list(Pacs(url).instances(Query(), Files()))
        assert server.asked == []  # so no token was sent
        monkeypatch.setenv("PETECHIA_DICOMWEB_CA", str(made))
        assert [one.uid for one in Pacs(url).instances(Query(), Files())] == ["1.2"]
        assert {headers["Authorization"] for _, headers in server.asked} == {"Bearer t0ken"}
