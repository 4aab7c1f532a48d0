import pytest

from petechia.core.errors import PetechiaError

pytest.importorskip("dicomweb_client")

from petechia.data.dicomweb.address import read_address

SECRETS = ("PETECHIA_DICOMWEB_TOKEN", "PETECHIA_DICOMWEB_USER", "PETECHIA_DICOMWEB_PASSWORD")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_without_credentials(scheme: str) -> None:
    address = read_address(f"{scheme}://pacs.example:8042/dicom-web/")
    assert address.url == f"{scheme}://pacs.example:8042/dicom-web"
    assert not address.signs_in


@pytest.mark.parametrize(
    "url", ["/no/such/file", "ftp://a/b", "https://", "https://a b/c", "https://a:x/b", "https://a/\x1b[2J"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(PetechiaError, match="is not the address of a PACS"):
        read_address(url)


@pytest.mark.parametrize(
    "url", ["https://jane:hunter2@pacs/d", "https://hunter2@pacs/d", "dicom://a:hunter2@b", "//a:hunter2@b"]
)
def test_credentials_in_the_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(PetechiaError, match="holds a user or a password") as raised:
        read_address(url)
    assert "hunter2" not in str(raised.value)


def test_credentials_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_DICOMWEB_USER", "jane")
    with pytest.raises(PetechiaError, match="PETECHIA_DICOMWEB_PASSWORD is not set"):
        read_address("https://pacs/d")
    monkeypatch.setenv("PETECHIA_DICOMWEB_PASSWORD", "hunter2")
    address = read_address("https://pacs/d")
    assert address.user == ("jane", "hunter2")
    assert "hunter2" not in repr(address)
    monkeypatch.setenv("PETECHIA_DICOMWEB_TOKEN", "t0ken")
    with pytest.raises(PetechiaError, match="set one of the two ways"):
        read_address("https://pacs/d")


@pytest.mark.parametrize(("host", "fine"), [("127.0.0.1", True), ("localhost", True), ("[::1]", True), ("10.0.0.1", False)])
def test_credentials_are_not_sent_in_clear_text(monkeypatch: pytest.MonkeyPatch, host: str, fine: bool) -> None:
    monkeypatch.setenv("PETECHIA_DICOMWEB_TOKEN", "t0ken")
    assert read_address(f"https://{host}/d").signs_in
    if fine:
        assert read_address(f"http://{host}/d").signs_in
    else:
        with pytest.raises(PetechiaError, match="is not encrypted"):
            read_address(f"http://{host}/d")


def test_a_token_that_would_add_a_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_DICOMWEB_TOKEN", "a\r\nX-Evil: 1")
    with pytest.raises(PetechiaError, match="cannot be sent"):
        read_address("https://pacs/d")


def test_authorities_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_DICOMWEB_CA", "/no/such/file")
    with pytest.raises(PetechiaError, match="PETECHIA_DICOMWEB_CA names /no/such/file"):
        read_address("https://pacs/d")
