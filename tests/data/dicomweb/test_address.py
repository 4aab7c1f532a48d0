import pytest

from petechia.core.errors import PetechiaError

pytest.importorskip("dicomweb_client")

from petechia.data import open_source
from petechia.data.dicomweb.address import read_address
from petechia.data.sources.dicomweb import read_source

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
    "url",
    [
        *("https://jane:hunter2@pacs/d", "https://hunter2@pacs/d", "dicom://a:hunter2@b", "//a:hunter2@b"),
        *(
            "https:/jane:hunter2@pacs/d",
            "jane:hunter2@pacs/d",
            "https:\\\\jane:hunter2@pacs/d",
            "https://jane:hun/hunter2@pacs/d",
            "https://jane:hunter2/7@pacs/d",
        ),
        *(
            "https:///jane:hunter2@pacs/d",
            "https://jane:hunter2,x@pacs/d",
            "https://jane:hunter2,@pacs/d",
            "https://pacs/jane:hunter2@d,limit=x",
        ),
    ],
)
def test_credentials_in_the_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(PetechiaError, match="holds a user or a password") as raised:
        read_address(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("rest", ["?token=hunter2", "?token=hunter2,date=x", "#hunter2", ";token=hunter2,limit=x"])
@pytest.mark.parametrize("scheme", ["https", "ftp"])
def test_a_token_in_the_address_is_refused_and_not_repeated(scheme: str, rest: str) -> None:
    with pytest.raises(PetechiaError, match="holds a question mark, a hash or a semicolon") as raised:
        open_source(f"dicomweb:{scheme}://pacs/d{rest}")
    assert "hunter2" not in str(raised.value)


def test_options_may_hold_what_an_address_may_not() -> None:
    _, options = read_source("", "https://pacs/d,table=/home/me@work/a?#;.csv,description=chest ?A")
    assert str(options.table) == "/home/me@work/a?#;.csv"
    assert options.description == "chest ?A"


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
