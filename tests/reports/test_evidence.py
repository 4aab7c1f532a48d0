import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data.formats.images import encode_png
from petechia.detect.audit import AuditResult
from petechia.detect.protocol import Calibration
from petechia.reports.evidence import MANIFEST, verify_evidence, write_evidence
from tests.detect.audit.conftest import ByHand, Images, opened
from tests.detect.audit.conftest import clean as clean_images

clean = clean_images
FILES = {"audit.json": b'{"a": 1}', "report.html": b"<p>found</p>", "pictures/1.png": bytes(range(256))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    for name, content in FILES.items():
        file = made / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return made


@pytest.fixture
def pack(folder: Path, tmp_path: Path) -> Path:
    return write_evidence(folder, tmp_path / "pack.zip", ["petechia", "audit"], {"calibration.json": b"{}"})


def rewritten(pack: Path, change: dict[str, bytes | None]) -> Path:
    """The archive with members replaced, added or, with None, removed."""
    with zipfile.ZipFile(pack) as archive:
        contents: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (contents | change).items():
            if content is not None:
                archive.writestr(name, content)
    return pack


def test_a_pack_holds_every_file_and_what_led_to_it(pack: Path) -> None:
    manifest, digest = verify_evidence(pack)
    assert digest == hashlib.sha256(pack.read_bytes()).hexdigest()
    assert manifest.command == ("petechia", "audit")
    assert {name: one.sha256 for name, one in manifest.files.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in {**FILES, "calibration.json": b"{}"}.items()
    }
    assert manifest.packages["torch"]


def test_the_same_files_make_the_same_pack(pack: Path, folder: Path, tmp_path: Path) -> None:
    again = write_evidence(folder, tmp_path / "again.zip", ["petechia", "audit"], {"calibration.json": b"{}"})
    assert again.read_bytes() == pack.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"report.html": b"<p>clean</p>"}, "report.html in .* was changed after it was packed"),
        ({"report.html": b"<p>found</p"}, "report.html in .* was changed"),
        ({"report.html": None}, "lacks a file that it states, report.html"),
        ({"../evil": b"-"}, r"holds a file that it does not state, \.\./evil"),
        ({MANIFEST: None}, "is no evidence pack, for it has no evidence.json"),
        ({MANIFEST: b"{}"}, "evidence.json in .* is not of this version"),
        ({MANIFEST: b"not json"}, "evidence.json in .* is not of this version"),
    ],
)
def test_what_was_changed_is_told(change: dict[str, bytes | None], said: str, pack: Path) -> None:
    with pytest.raises(PetechiaError, match=said):
        verify_evidence(rewritten(pack, change))


def test_damage_and_bombs_are_refused(pack: Path, tmp_path: Path) -> None:
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / "damaged.zip").write_bytes(content)
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("damaged.zip", "text.zip"):
        with pytest.raises(PetechiaError, match="is damaged or no zip archive|was changed|cannot be read|share bytes"):
            verify_evidence(tmp_path / name)
    with pytest.raises(PetechiaError, match="claims to unpack to"):
        verify_evidence(rewritten(pack, {"zeros": bytes(100 << 20)}))
    with pytest.raises(PetechiaError, match=r"missing.zip cannot be read"):
        verify_evidence(tmp_path / "missing.zip")


def test_links_and_empty_folders_are_not_packed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PetechiaError, match="holds no file"):
        write_evidence(tmp_path / "empty", tmp_path / "a.zip")
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(PetechiaError, match="link"):
        write_evidence(folder, tmp_path / "b.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_an_audit_is_packed_with_its_calibration_and_verified(
    clean: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petechia.api.open_classifier", lambda _name, _machine: opened(ByHand()))
    images, model, pack = tmp_path / "clean", tmp_path / "model.safetensors", tmp_path / "pack.zip"
    images.mkdir()
    for number, image in enumerate(clean[:40]):
        (images / f"{number}.png").write_bytes(encode_png(image))
    model.write_bytes(b"-")
    given = ["audit", str(model), "--clean", str(images), "--quick", "--out", str(tmp_path / "out"), "--evidence", str(pack)]
    monkeypatch.setattr("sys.argv", ["petechia", *given])
    assert CliRunner().invoke(app, given).exit_code == 3
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path / "unpacked")
        assert Calibration.model_validate_json(archive.read("calibration.json")) == Calibration.packaged("audit")
        assert json.loads(archive.read(MANIFEST))["command"] == ["petechia", *given]
    assert AuditResult.load(tmp_path / "unpacked") == AuditResult.load(tmp_path / "out")
    said = CliRunner().invoke(app, ["verify", str(pack)])
    assert said.exit_code == 0
    assert "Intact: 4 files" in said.output
    rewritten(pack, {"report.html": b"<p>clean</p>"})
    changed = CliRunner().invoke(app, ["verify", str(pack)])
    assert changed.exit_code == 1
    assert CliRunner().invoke(app, given).exit_code == 1  # --out and the pack exist


def test_a_screen_without_a_folder_cannot_be_packed(tmp_path: Path) -> None:
    given = ["screen", "m.safetensors", "a.png", "--clean", "phantom", "--evidence", str(tmp_path / "pack.zip")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1
    assert "--evidence packs the files of --out" in done.output.replace("\n", " ")
