"""Every way in for a stranger's files: something valid, how it is read, and traps set by hand.

A new reader is one more `Door` in `DOORS`, here or in `readers`.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from safetensors.torch import save_file

import petechia
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess, open_source
from petechia.data.formats.dicom import read_dicom
from petechia.data.formats.images import encode_jpeg, encode_png, read_grey, read_levels
from petechia.detect.collection import read_collection
from petechia.detect.repair.known_trigger import read_triggers
from petechia.models.model import Architecture, Model, create
from petechia.models.openers import open_classifier
from petechia.reports import build_report
from petechia.study import RunDirectory, load_config
from petechia.study.directory import read_arrays, read_table
from petechia.study.study import StudyDirectory
from petechia.viewer.subject import Subject
from petechia.zoo.design import load_design
from tests.conftest import SMALL, unasked
from tests.data.formats.test_dicom import made, written
from tests.models.openers.conftest import write_huggingface, write_open_clip
from tests.models.openers.test_encoder import write_encoder
from tests.models.openers.test_openers import endless_onnx, write_onnx
from tests.torture.mutations import Mutate, mutated, mutated_png, mutated_tensors, with_checksums

PATIENT = "Zebedee"  # the name of a patient, which no message may contain
OUTSIDE = "outside"  # a folder beside the one that is read; it holds secret.png and secret.csv
PIXELS = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()

Plant = Callable[[Path], object]


@dataclass(frozen=True)
class Door:
    """A reader of strangers' files.

    Attributes:
        name: for people.
        plant: writes something valid into an empty folder.
        enter: reads what is in that folder.
        traps: gives name → what turns the valid files into a trap.
        fine: traps that are odd, and read all the same; every other one must be refused.
        mutate: what breaks the bytes of a file.
        share: of the usual number of inputs; less where one takes long.
    """

    name: str
    plant: Plant
    enter: Callable[[Path], object]
    traps: Callable[[], Mapping[str, Plant]] = dict
    mutate: Mutate = mutated
    share: float = 1.0
    fine: Container[str] = ()


class Anything:
    """Allocates whatever is requested."""

    def __contains__(self, _: object) -> bool:
        return True


ODD_IMAGES = {
    "16-bit png", "1 png", "P png", "RGBA png", "LA png", "cmyk jpeg", "too much data", "a palette of nothing",
    "a hundred thousand chunks", "taller jpeg", "an animation of 2 ^ 31 images", "exif that repeats itself",
}  # fmt: skip
ODD_DICOM = {
    "a window of nothing", "a slope of 1e30", "50 levels deep", "a length of 4 GB", "one bit", "more bits than there are",
    "a component of 79 million pixels", "16,129 tiles", "80 more scans", "no preamble",
    "a table of nothing", "a table of 99 bits",
}  # fmt: skip


def written_to(name: str, content: bytes | str | Callable[[], bytes | str]) -> Plant:
    """Replace the file of the given name."""

    def write(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        made = content() if callable(content) else content
        path.write_bytes(made.encode() if isinstance(made, str) else made)

    return write


def removed(name: str) -> Plant:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def linked(name: str, target: str) -> Plant:
    """Replace a file by a link."""

    def link(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return link


def sparse(name: str, beginning: bytes = b"", size: int = 20 << 30) -> Plant:
    """Replace a file by one of 20 GB that takes no space on the disk."""

    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        with (folder / name).open("wb") as file:
            file.write(beginning)
            file.truncate(size)

    return write


def piped(name: str) -> Plant:
    """Replace a file by a pipe, on which a reader waits for ever."""

    def pipe(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return pipe


# PNG, JPEG


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + bytes(4)


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG whose header states the given size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    packed = data if data.startswith(b"\x78") else zlib.compress(data, 9)
    body = header + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return with_checksums(b"\x89PNG\r\n\x1a\n" + body)


def with_scans(content: bytes, count: int) -> bytes:
    """A JPEG whose last scan comes again and again; a decoder goes over the whole image for each."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def progressive(side: int, scans: int) -> bytes:
    """A progressive JPEG of a black square."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG", progressive=True)
    return with_scans(buffer.getvalue(), scans)


def exif_of(entries: int, values: int) -> bytes:
    """EXIF data whose entries all point to the same numbers."""
    head = b"MM\0*\0\0\0\x08" + struct.pack(">H", entries)
    return head + b"".join(struct.pack(">HHLL", 256 + number, 5, values, 8) for number in range(entries)) + bytes(8 * values)


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose frame states another size than its content."""
    content = bytearray(encode_jpeg(PIXELS))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@cache
def image_bytes() -> dict[str, bytes]:
    """Hostile images, and a few odd ones that are fine."""
    bomb = zlib.compress(bytes(1 << 28), 1)
    text, profile = chunk(b"zTXt", b"Comment\0\0" + bomb), chunk(b"iCCP", b"icc\0\0" + bomb)
    odd = {"16-bit png": encode_png(PIXELS.astype(np.uint16) * 200)}  # type: ignore[arg-type]
    for mode in ("1", "P", "RGBA", "LA"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).convert(mode).save(buffer, "PNG")
        odd[f"{mode} png"] = buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(buffer, "JPEG")
    gif = io.BytesIO()
    Image.fromarray(PIXELS).save(gif, "GIF")
    return odd | {
        "cmyk jpeg": buffer.getvalue(),
        "gif": gif.getvalue(),
        "empty": b"",
        "nul bytes": bytes(1000),
        "a name alone": b"\x89PNG\r\n\x1a\n",
        "huge dimensions": png(2**31 - 1, 2**31 - 1, b""),
        "wide": png(2**31 - 1, 1, b""),
        "a line of 79 million": png(79_000_000, 1, bytes(1000)),
        "a column of 79 million": png(1, 79_000_000, bytes(1000)),
        "half a million empty chunks": png(16, 16, bytes(17 * 16), extra=chunk(b"teSt", b"") * 500_000),
        "half a million empty pixels": png(16, 16, bytes(17 * 16)).replace(
            bytes(4) + b"IEND", (bytes(4) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))) * 500_000 + bytes(4) + b"IEND"
        ),
        "an animation of 2 ^ 31 images": with_checksums(
            png(16, 16, bytes(17 * 16), extra=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
        ),
        "exif of 20 MB in a png": with_checksums(png(16, 16, bytes(17 * 16), extra=chunk(b"eXIf", exif_of(1000, 2_500_000)))),
        "exif that repeats itself": with_checksums(png(16, 16, bytes(17 * 16), extra=chunk(b"eXIf", exif_of(5000, 500_000)))),
        "200,000 scans": progressive(2000, 200_000),
        "a million comments": encode_jpeg(PIXELS)[:2] + b"\xff\xfe\0\2" * 1_000_000 + encode_jpeg(PIXELS)[2:],
        "a million fillers": encode_jpeg(PIXELS)[:2] + b"\xff" * 1_000_000 + encode_jpeg(PIXELS)[2:],
        "pixels that are not there": png(8000, 8000, b""),
        "no width": png(0, 10, b""),
        "too much data": png(4, 4, bomb),
        "text bomb": png(16, 16, bytes(17 * 16), extra=text),
        "profile bomb": png(16, 16, bytes(17 * 16), extra=profile),
        "depth 13": png(16, 16, bytes(500), depth=13),
        "a palette of nothing": png(16, 16, bytes(500), colour=3),
        "a hundred thousand chunks": with_checksums(png(16, 16, bytes(17 * 16), extra=chunk(b"tEXt", b"a\0b") * 100_000)),
        "huge jpeg": jpeg_of(65535, 65535),
        "wide jpeg": jpeg_of(65535, 1),
        "taller jpeg": jpeg_of(16, 4000),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    }


def plant_images(folder: Path) -> None:
    (folder / "a.png").write_bytes(encode_png(PIXELS))
    (folder / "b.jpg").write_bytes(encode_jpeg(PIXELS))
    (folder / "c.dcm").write_bytes(dicom_bytes()["plain"])


def read_folder(folder: Path) -> object:
    """A file that is left out and named counts as refused."""
    found = [read_collection([str(folder)], unasked("A", colour=colour)) for colour in (False, True)]
    if found[0].not_read:
        raise PetechiaError(str(found[0].not_read))
    return found


# NIH


def plant_nih(folder: Path) -> None:
    (folder / "images").mkdir()
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"]
    names = []
    for i in range(6):
        names.append(f"{i // 2:08d}_{i % 2:03d}.png")
        (folder / "images" / names[-1]).write_bytes(encode_png(PIXELS))
        rows.append(f"{names[-1]},{('No Finding', 'Mass|Edema', 'Hernia')[i % 3]},{i % 2},{i // 2},058Y")
    (folder / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(names[:4]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(names[4:]) + "\n")


def read_nih(folder: Path) -> object:
    catalog = open_source(f"nih:{folder}")
    images = list(catalog.reader.read(np.arange(len(catalog))))
    for image in images:
        if isinstance(image, PetechiaError):
            raise image
    return images


def table(text: str | bytes) -> Plant:
    return written_to("Data_Entry_2017.csv", text)


HEADER = "Image Index,Finding Labels,Patient ID\n"
FIRST = "00000000_000.png"


def move_images_out(folder: Path) -> None:
    (folder / "images").rename(folder.parent / OUTSIDE / "images")
    (folder / "images").symlink_to(folder.parent / OUTSIDE / "images")


def nih_traps() -> dict[str, Plant]:
    row = f"{FIRST},Mass,1\n"
    texts: dict[str, str | bytes] = {
        "empty": "",
        "nul bytes": bytes(5000),
        "a header alone": HEADER,
        "a path up": HEADER + "../outside/secret.png,Mass,1\n",
        "an absolute path": HEADER + "/etc/passwd,Mass,1\n",
        "a path of windows": HEADER + "..\\outside\\secret.png,Mass,1\n",
        "a nul in a name": HEADER + "a\0b.png,Mass,1\n",
        "a hidden file": HEADER + ".bashrc,Mass,1\n",
        "twice the same": HEADER + row * 2,
        "too few fields": HEADER + f"{FIRST}\n",
        "too many fields": HEADER + f"{FIRST},Mass,1,2,3,4,5\n",
        "numbers that are none": HEADER + f"{FIRST},nan,inf\nnan,NaN,None\n",
        "a quote that never ends": HEADER + f'"{FIRST},Mass,1\n' * 3,
        "a field of 20 MB": HEADER + f"{'a' * 20_000_000},Mass,1\n",
        "a finding of 20 MB": HEADER + f"{FIRST},{'Mass' * 5_000_000},1\n",
        "a million findings": HEADER + f"{FIRST},{'|'.join(['Mass'] * 1_000_000)},1\n",
        "a million columns": HEADER.strip() + "".join(f",c{i}" for i in range(1_000_000)) + "\n" + row,
        "a million unknown columns": ",".join(f"c{i}" for i in range(1_000_000)) + "\n" + "1," * 999_999 + "1\n",
        "a column of 20 MB": "b" * 20_000_000 + "\n1\n",
        "a million rows": HEADER + "".join(f"{i}.png,Mass,{i}\n" for i in range(1_000_000)),
        "twice the same column": "Image Index,Image Index,Finding Labels,Patient ID\na.png,b.png,Mass,1\n",
        "utf-16": (HEADER + row).encode("utf-16"),
        "latin-1": (HEADER + "ü.png,Mass,1\n").encode("latin-1"),
        "a formula": HEADER + "=cmd|' /C calc'!A0,Mass,1\n",
        "line ends of old macs": (HEADER + row).replace("\n", "\r"),
        "gzip": zlib.compress(HEADER.encode()),
    }
    return {name: table(text) for name, text in texts.items()} | {
        "an image leads out": linked(f"images/{FIRST}", "../../outside/secret.png"),
        "an image leads nowhere": linked(f"images/{FIRST}", "nowhere"),
        "an image leads to itself": linked(f"images/{FIRST}", FIRST),
        "an image is a device": linked(f"images/{FIRST}", "/dev/zero"),
        "an image is a pipe": piped(f"images/{FIRST}"),
        "all images are out": move_images_out,
        "the table leads out": linked("Data_Entry_2017.csv", "../outside/secret.csv"),
        "the table is a pipe": piped("Data_Entry_2017.csv"),
        "a list leads out": linked("test_list.txt", "../outside/secret.csv"),
        "a list is a device": linked("test_list.txt", "/dev/zero"),
        "a list of nul bytes": written_to("test_list.txt", bytes(1000)),
        "lists that overlap": written_to("test_list.txt", "\n".join(f"{i // 2:08d}_{i % 2:03d}.png" for i in range(6))),
    }


# DICOM


@cache
def dicom_bytes() -> dict[str, bytes]:
    """Valid ones first."""
    plain = made(PIXELS, PatientName=PATIENT, WindowCenter="100", WindowWidth="150")
    packed = made(PIXELS, PatientName=PATIENT)
    packed.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    packed.PixelData = encapsulate([encode_jpeg(PIXELS)])
    packed["PixelData"].is_undefined_length = True
    runs = made(PIXELS, PatientName=PATIENT)
    runs.compress(RLELossless)
    waves = made(np.tile(PIXELS, (4, 4)), PatientName=PATIENT)
    waves.compress(JPEG2000Lossless)
    wide = made(PIXELS.astype(np.uint16) * 16, PatientName=PATIENT, RescaleSlope="1.5", RescaleIntercept="-100")
    datasets = {"plain": plain, "jpeg": packed, "rle": runs, "jpeg2000": waves, "wide": wide}
    return {name: written(dataset) for name, dataset in datasets.items()}


def nested(content: bytes, depth: int) -> bytes:
    """A DICOM file with a sequence in a sequence, and so on."""
    at = content.index(b"\xe0\x7f\x10\x00")
    opening = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    return content[:at] + opening * depth + closing * depth + content[at:]


def jpeg2000_of(width: int, height: int) -> bytes:
    """A DICOM file whose JPEG 2000 frame says another size than its header."""
    content = bytearray(dicom_bytes()["jpeg2000"])
    at = content.index(b"\xff\x4f\xff\x51") + 8
    content[at : at + 8] = struct.pack(">II", width, height)
    return bytes(content)


def with_table(descriptor: list[int], data: bytes) -> bytes:
    """A DICOM file with a VOI LUT."""
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", "OW", data)
    return written(made(PIXELS, PatientName=PATIENT, VOILUTSequence=[item]))


def with_frame(syntax: UID, frame: bytes, side: int) -> bytes:
    """A DICOM file that claims this side, with a compressed frame."""
    dataset = made(PIXELS, PatientName=PATIENT)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows = dataset.Columns = side
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


@cache
def waves(side: int) -> bytes:
    """A JPEG 2000 codestream of a black square."""
    dataset = made(np.zeros((side, side), np.uint8))
    dataset.compress(JPEG2000Lossless)
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def waves_of(components: int, side: int = 4096, tile: int = 4096) -> bytes:
    """A DICOM file with a JPEG 2000 frame that claims so many components, and tiles of this side."""
    frame = waves(64)
    size = (38 + 3 * components).to_bytes(2, "big") + bytes(2) + struct.pack(">8I", side, side, 0, 0, tile, tile, 0, 0)
    claimed = frame[:4] + size + components.to_bytes(2, "big") + frame[42:45] * components + frame[45:]
    return with_frame(JPEG2000Lossless, claimed, side)


def bare_elements(count: int) -> bytes:
    """So many empty elements, in explicit VR."""
    return b"".join(
        struct.pack("<HH2sH", 0x29 + 2 * (number // 50_000), 0x1000 + number % 50_000, b"LO", 0) for number in range(count)
    )


def before_pixels(elements: bytes, implicit: bool = False) -> bytes:
    """A DICOM file with these elements before its pixels."""
    dataset = made(PIXELS, PatientName=PATIENT)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    content = written(dataset)
    at = content.index(b"\xe0\x7f\x10\x00")
    return content[:at] + elements + content[at:]


def dicom_of_many() -> dict[str, Callable[[], bytes]]:
    """DICOM files that claim much in few bytes, or make much of it."""
    item, sequence = b"\xfe\xff\x00\xe0", b"\x28\x00\x10\x30SQ\0\0"
    million = 1_000_000

    def with_items(content: bytes) -> bytes:
        return before_pixels(sequence + struct.pack("<I", len(content)) + content)

    def with_list(tag: bytes, content: bytes) -> bytes:
        return before_pixels(tag + struct.pack("<I", len(content)) + content, implicit=True)

    def with_runs(runs: bytes) -> bytes:
        return with_frame(RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + runs, 4000)

    return {
        "300 components": lambda: waves_of(300),
        "16,384 components": lambda: waves_of(16384),
        "a component of 79 million pixels": lambda: waves_of(1, 8900, 8900),
        "16 million tiles": lambda: waves_of(1, tile=1),
        "16,129 tiles": lambda: waves_of(1, tile=32),
        "200,000 scans": lambda: with_frame(JPEGBaseline8Bit, progressive(2000, 200_000), 2000),
        "80 more scans": lambda: with_frame(JPEGBaseline8Bit, progressive(2000, 80), 2000),
        "runs of 2 GB": lambda: with_runs(b"\x81\0" * 17 * million),
        "a million empty items": lambda: with_items((item + bytes(4)) * million),
        "a million empty elements": lambda: before_pixels(bare_elements(million)),
        "an item of a million elements": lambda: with_items(item + struct.pack("<I", 8 * million) + bare_elements(million)),
        "a million parts": lambda: with_frame(RLELossless, b"\0\0", 16)[:-8] + (item + bytes(4)) * million,
        "5 million windows": lambda: with_list(b"\x28\x00\x50\x10", b"1\\" * 5 * million),
        "10 million entries of a table": lambda: with_list(b"\x28\x00\x06\x30", bytes(20 * million)),
    }


def dicom_traps() -> dict[str, Plant]:
    entries: dict[str, dict[str, object]] = {
        "huge": {"Rows": 65535, "Columns": 65535},
        "no rows": {"Rows": 0},
        "a million frames": {"NumberOfFrames": "1000000"},
        "one bit": {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        "64 bits": {"BitsAllocated": 64},
        "more bits than there are": {"BitsStored": 16},
        "a window of nothing": {"WindowCenter": "nan", "WindowWidth": "0"},
        "a slope of 1e30": {"RescaleSlope": "1e30", "RescaleIntercept": "-1e30"},
        "seven samples": {"SamplesPerPixel": 7},
        "an unknown meaning": {"PhotometricInterpretation": "X" * 16},
        "a nameless patient's palette": {"PhotometricInterpretation": "PALETTE COLOR"},
    }
    valid = dicom_bytes()
    return (
        {f"valid {name}": written_to("a.dcm", content) for name, content in valid.items()}
        | {name: written_to("a.dcm", written(made(PIXELS, PatientName=PATIENT, **entry))) for name, entry in entries.items()}
        | {name: written_to("a.dcm", content) for name, content in dicom_of_many().items()}
        | {f"{depth} levels deep": written_to("a.dcm", nested(valid["plain"], depth)) for depth in (50, 3000)}
        | {
            "a prefix alone": written_to("a.dcm", bytes(128) + b"DICM"),
            "a jpeg that says it is huge": written_to(
                "a.dcm", valid["jpeg"].replace(encode_jpeg(PIXELS), jpeg_of(65535, 65535))
            ),
            "a second jpeg that says it is huge": written_to(
                "a.dcm", valid["jpeg"].replace(b"\xff\xda", jpeg_of(65535, 65535)[2:])
            ),
            "a jpeg 2000 that says it is huge": written_to("a.dcm", jpeg2000_of(65535, 65535)),
            "no preamble": written_to("a.dcm", valid["plain"][132:]),
            "no preamble and no end": written_to("a.dcm", valid["plain"][132:-300]),
            "nothing but a first entry": written_to("a.dcm", struct.pack("<HH2sH", 8, 5, b"CS", 10) + b"ISO_IR 100"),
            "a table of nothing": written_to("a.dcm", with_table([0, 0, 16], b"")),
            "a table that is cut off": written_to("a.dcm", with_table([0, 0, 16], bytes(100))),
            "a table of 99 bits": written_to("a.dcm", with_table([256, 0, 99], bytes(512))),
            "a length of 4 GB": written_to("a.dcm", valid["plain"][:-260] + b"\xfe\xff\xff\xff" + valid["plain"][-256:]),
        }
    )


def plant_dicom(folder: Path) -> None:
    for name in ("jpeg", "rle", "jpeg2000", "wide"):
        (folder / f"{name}.dcm").write_bytes(dicom_bytes()[name])
    (folder / "a.dcm").write_bytes(dicom_bytes()["plain"])


# Models


@cache
def tiny_model() -> bytes:
    folder = Path(mkdtemp())
    create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0).save(folder / "m.safetensors")
    return (folder / "m.safetensors").read_bytes()


def described(**changes: object) -> bytes:
    """The tiny model with another description."""
    content = tiny_model()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["petechia"])
    for key, value in changes.items():
        place, last = (said["architecture"], key[5:]) if key.startswith("arch_") else (said, key)
        place[last] = value
    header["__metadata__"]["petechia"] = json.dumps(said)
    return with_header(json.dumps(header).encode(), content[8 + length :])


def with_header(header: bytes, tensors: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors


def use_model(folder: Path) -> object:
    model = Model.load(folder / "model.safetensors").eval()
    size = model.description.preprocess.size
    with torch.inference_mode():
        return model(torch.zeros(1, model.description.architecture.channels, size, size)) if size <= 64 else model


def model_traps() -> dict[str, Plant]:
    contents = {
        "empty": b"",
        "a pickle": b"\x80\x04cos\nsystem\n(S'false'\ntR.",
        "a zip": b"PK\x03\x04" + bytes(200),
        "a header of 2 ^ 63": struct.pack("<Q", 2**63) + b"{}",
        "a header of 20 MB": with_header(b'{"__metadata__":{"petechia":"' + b"a" * 20_000_000 + b'"}}'),
        "a header of brackets": with_header(b"[" * 1_000_000),
        "a description of brackets": with_header(json.dumps({"__metadata__": {"petechia": "[" * 100_000}}).encode()),
        "no description": with_header(b"{}"),
        "tensors that overlap": with_header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                                            b'"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)),
        "a tensor of 2 ^ 60": with_header(b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,16]}}',
                                          bytes(16)),
        "a million classes": described(classes=[f"c{i}" for i in range(1_000_000)]),
        "no classes": described(classes=[]),
        "classes that are numbers": described(classes=[1, 2]),
        "no mean": described(mean=[]),
        "a mean for three": described(mean=[0.5, 0.5, 0.5]),
        "a spread of nothing": described(std=[0.0]),
        "another network": described(arch_arch="resnet18"),
        "a giant network": described(arch_arch="vit_giant_patch14_clip_224"),
        "a network of a folder": described(arch_arch="local-dir:/etc"),
        "a network of a hub": described(arch_arch="hf-hub:someone/something"),
        "a path as a network": described(arch_arch="../../etc/passwd"),
        "no network": described(arch_arch=""),
        "weights of a path": described(arch_pretrained="/etc/passwd"),
        "a size of 4096": described(preprocess={"size": 4096}),
        "an unknown key": described(evil=True),
    }  # fmt: skip
    return {name: written_to("model.safetensors", content) for name, content in contents.items()} | {
        "a folder": lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir(), None)[-1]
    }


def plant_timm(folder: Path) -> None:
    network = create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0).network
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "m.safetensors")
    (folder / "m.json").write_text(json.dumps({"classes": ["A", "B"], "mean": [0.5], "std": [0.5], "preprocess": {"size": 32}}))


def use_timm(folder: Path) -> object:
    classifier = open_classifier(f"timm:test_resnet:{folder / 'm.safetensors'}", RUNTIME)
    size = classifier.preprocess.size
    return classifier.logits(np.zeros((1, size, size), np.uint8)) if size <= 64 else classifier


def plant_onnx(folder: Path) -> None:
    write_onnx(folder / "m.onnx")
    (folder / "m.json").write_text(json.dumps({"classes": ["A", "B", "C"], "outputs": "logits"}))


def use_onnx(folder: Path) -> object:
    classifier = open_classifier(str(folder / "m.onnx"), RUNTIME)
    size = classifier.preprocess.size
    return classifier.logits(np.zeros((1, size, size), np.uint8)) if size <= 64 else classifier


def onnx_traps() -> dict[str, Plant]:
    import onnx  # noqa: PLC0415 (the door exists only if it is installed)

    def changed(change: Callable[[Any], object]) -> Plant:
        def plant(folder: Path) -> None:
            model = onnx.load(folder / "m.onnx")
            change(model.graph)
            (folder / "m.onnx").write_bytes(model.SerializeToString())

        return plant

    def outside(where: str) -> Plant:
        def change(graph: Any) -> None:
            (stored,) = graph.initializer
            stored.ClearField("raw_data")
            stored.data_location = onnx.TensorProto.EXTERNAL
            entry = stored.external_data.add()
            entry.key, entry.value = "location", where

        return changed(change)

    def giant(graph: Any) -> None:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "side"))
        graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["side"], ["giant"]))
        graph.output.append(onnx.helper.make_tensor_value_info("giant", onnx.TensorProto.FLOAT, (None, None)))

    def sides(*lengths: int) -> Plant:
        def change(graph: Any) -> None:
            for side, length in zip(graph.input[0].type.tensor_type.shape.dim, lengths, strict=True):
                side.dim_value = length

        return changed(change)

    def sparse_file(folder: Path) -> None:
        outside("m.bin")(folder)
        with (folder / "m.bin").open("wb") as file:
            file.truncate(20 << 30)

    return card_traps("m.json") | {
        "a loop without an end": lambda folder: (endless_onnx(folder / "m.onnx"), None)[1],
        "a terabyte": changed(giant),
        "a batch of 10 ^ 9": sides(10**9, 1, 8, 8),
        "images of a pixel": sides(1, 1, 1, 1),
        "images of 10 ^ 6": sides(1, 1, 10**6, 10**6),
        "weights outside": outside("../outside/secret.png"),
        "weights at an absolute path": outside("/etc/passwd"),
        "weights of a device": outside("/dev/zero"),
        "weights in a giant file": sparse_file,
        "two tasks": changed(
            lambda graph: (
                graph.node.append(onnx.helper.make_node("MatMul", ["flat", "weights"], ["more_scores"])),
                graph.output.append(onnx.helper.make_tensor_value_info("more_scores", onnx.TensorProto.FLOAT, ("N", 3))),
            )
        ),
        "empty": written_to("m.onnx", b""),
        "a pipe": piped("m.onnx"),
        "a device": linked("m.onnx", "/dev/zero"),
    }


def card_traps(name: str) -> dict[str, Plant]:
    cards = {
        "a card of brackets": "[" * 100_000,
        "a card that is a list": "[]",
        "a card of nul bytes": "\0" * 100,
        "a mean of 1e999": '{"mean": [1e999]}',
        "a spread of nothing": '{"std": [0]}',
        "a million classes": json.dumps({"classes": [str(i) for i in range(1_000_000)]}),
        "a size of 10 ^ 9": '{"preprocess": {"size": 1000000000}}',
    }
    return {key: written_to(name, text) for key, text in cards.items()}


# Models that are a folder


def use(model: str) -> object:
    found = open_classifier(model, RUNTIME)
    size, channels = found.preprocess.size, 3 if found.colour else 1
    return found.logits(torch.zeros(1, channels, size, size))


def folder_traps(description: str, weights: str) -> dict[str, Plant]:
    """Traps of every folder with a description in JSON and weights as safetensors."""
    return card_traps("petechia.json") | {
        "a description of brackets": written_to(description, "[" * 100_000),
        "a description of braces": written_to(description, '{"a":' * 100_000),
        "a description that is a list": written_to(description, "[1]"),
        "a description of 20 GB": sparse(description, b"{"),
        "a description that is a pipe": piped(description),
        "a description elsewhere": linked(description, f"../{OUTSIDE}/secret.csv"),
        "weights of 20 GB": sparse(weights),
        "weights that are a pipe": piped(weights),
        "weights elsewhere": linked(weights, f"../{OUTSIDE}/secret.png"),
        "weights of themselves": linked(weights, weights),
        "weights that are no longer there": removed(weights),
        "a tensor of 2 ^ 60": written_to(weights, with_header(
            b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,16]}}', bytes(16))),
    }  # fmt: skip


def stated(name: str, *keys: str, value: Any) -> Plant:
    """Change one value of a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        part = content
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def huggingface_traps() -> dict[str, Plant]:
    settings: dict[str, Any] = {
        "code of its own": ("auto_map", {"AutoConfig": "evil.Config"}),
        "a hidden size of 10 ^ 9": ("hidden_size", 10**9),
        "a hidden size of 10 ^ 6": ("hidden_size", 10**6),
        "a million layers": ("num_hidden_layers", 10**6),
        "a patch of nothing": ("patch_size", 0),
        "an image of a million pixels a side": ("image_size", 10**6),
        "no heads": ("num_attention_heads", 0),
        "classes of a million names": ("id2label", {str(k): "x" for k in range(10**5)}),
        "classes without numbers": ("id2label", {"x": "y"}),
        "another kind": ("model_type", "llama"),
        "an activation that is none": ("hidden_act", "os.system"),
    }
    index = {"weight_map": {"a": f"../{OUTSIDE}/secret.safetensors"}}
    traps = {name: stated("config.json", key, value=value) for name, (key, value) in settings.items()}
    return folder_traps("config.json", "model.safetensors") | traps | {
        "an index that leads out": written_to("model.safetensors.index.json", json.dumps(index)),
        "an index of brackets": written_to("model.safetensors.index.json", "[" * 100_000),
        "a preprocessor of brackets": written_to("preprocessor_config.json", "[" * 100_000),
        "a preprocessor of 10 ^ 9 pixels": written_to("preprocessor_config.json", '{"size": 1000000000}'),
    }  # fmt: skip


def clip_traps() -> dict[str, Plant]:
    config, model = "open_clip_config.json", "model_cfg"
    return folder_traps(config, "open_clip_model.safetensors") | {
        "a text of a million layers": stated(config, model, "text_cfg", "layers", value=10**6),
        "a context of 10 ^ 6": stated(config, model, "text_cfg", "context_length", value=10**6),
        "a width of 10 ^ 6": stated(config, model, "vision_cfg", "width", value=10**6),
        "heads of nothing": stated(config, model, "vision_cfg", "head_width", value=0),
        "a tokenizer with code": stated(config, model, "text_cfg", "tokenizer_kwargs", value={"trust_remote_code": True}),
        "a vocabulary of the system": stated(config, model, "text_cfg", "tokenizer_kwargs", value={"bpe_path": "/etc/passwd"}),
        "a network of a hub": stated(config, model, "vision_cfg", "timm_model_name", value="hf-hub:someone/something"),
        "prompts of 20 GB": sparse("prompts.csv", b"class,prompt\n"),
        "prompts that are a pipe": piped("prompts.csv"),
        "prompts elsewhere": linked("prompts.csv", f"../{OUTSIDE}/secret.csv"),
        "a hundred thousand prompts": written_to("prompts.csv", "class,prompt\n" + "a,b\n" * 100_000),
    }


# Texts


def laughs(levels: int = 40) -> str:
    """YAML of a kilobyte that expands to 9 ^ 40 words."""
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 9) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, levels)]
    return "\n".join(lines) + f"\nseeds: *a{levels - 1}\n"


def yaml_traps(name: str) -> dict[str, Plant]:
    texts: dict[str, str | bytes] = {
        "brackets": "[" * 20_000,
        "braces": "{a: " * 5_000,
        "billions of laughs": laughs(),
        "laughs as a value": laughs().replace("seeds:", "data:"),
        "laughs as a grid": laughs().replace("seeds: *a39", "grid: {attack.rate: *a39}"),
        "a list in itself": "seeds: &a [*a]\n",
        "a mapping in itself": "grid: &a {attack.rate: *a}\n",
        "a mapping that merges itself": "a: &a\n  <<: *a\n",
        "a python object": "seeds: !!python/object/apply:os.system ['touch pwned']\n",
        "a date that is none": "data: 2024-99-99\n",
        "a time stamp that is none": "data: !!timestamp abc\n",
        "an integer that is none": "seeds: !!int ''\n",
        "a truth that is none": "seeds: !!bool maybe\n",
        "an integer of 10,000 digits": f"seeds: {'9' * 10_000}\n",
        "a hexadecimal of 10,000 digits": f"seeds: 0x{'f' * 10_000}\n",
        "a float of 1e999": "attack: {rate: 1.0e+999}\n",
        "not a number": "attack: {rate: .nan}\n",
        "a key that is a list": "? [a, b]\n: c\n",
        "a key that is a number": "1: 2\n",
        "twice the same key": "data: phantom\ndata: nih:/etc\n",
        "binary": b"\xff\xfe\x00\x01" * 100,
        "nul bytes": bytes(100),
        "5 MB": "# " + "a" * 5_000_000 + "\ndata: phantom\n",
        "a value of 900 kB": f"attack: {{target: 1, rate: '{'a' * 900_000}'}}\n",
    }
    return {key: written_to(name, text) for key, text in texts.items()}


AUDIT = {"classes": [{"name": "A", "flagged": True, "row": 3, "column": 4, "size": 3, "value": 0, "gain": 7.5}]}


def audit_traps() -> dict[str, Plant]:
    one = AUDIT["classes"][0]
    texts = {
        "brackets": "[" * 100_000,
        "nothing": "{}",
        "null": "null",
        "a class that is a list": '{"classes": [[]]}',
        "classes that are a text": '{"classes": "abc"}',
        "not a number": json.dumps({"classes": [{**one, "value": float("nan")}]}),
        "a row of 10 ^ 30": json.dumps({"classes": [{**one, "row": 10**30}]}),
        "an integer of 10,000 digits": '{"classes": [{"name": "A", "row": ' + "9" * 10_000 + "}]}",
        "20 MB": json.dumps(AUDIT) + " " * 20_000_000,
        "a name of 1 MB": json.dumps({"classes": [{**one, "flagged": "a" * 1_000_000}]}),
    }
    return {name: written_to("audit.json", text) for name, text in texts.items()}


# Runs


@cache
def finished_run() -> dict[str, bytes]:
    """The files of a small run."""
    folder = Path(mkdtemp()) / "run"
    config = SMALL | {"data": "phantom:images=120,size=32", "train": {"epochs": 1, "batch_size": 16}, "heat": 6}
    petechia.run(config, folder)
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "report.html"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def plant_run(folder: Path, without: tuple[str, ...] = ()) -> None:
    for name, content in finished_run().items():
        if name not in without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def plant_unfinished_run(folder: Path) -> None:
    plant_run(folder, ("summary.json",))


def resume_run(folder: Path) -> object:
    return petechia.run(None, folder, resume=True)


def report_run(folder: Path) -> object:
    return build_report(RunDirectory(folder))


def view_run(folder: Path) -> object:
    subject = Subject(folder, RUNTIME)
    picture = subject.images.picture(0)
    return subject.stamping.kept(picture), subject.images.without_target()


@cache
def table_bomb() -> bytes:
    """A Parquet table of kilobytes whose column has 1.1 GB."""
    buffer = io.BytesIO()
    pl.DataFrame({"id": pl.Series(["x" * 10_000]).new_from_index(0, 110_000)}).write_parquet(buffer)
    return buffer.getvalue()


def run_traps() -> dict[str, Plant]:
    traps: dict[str, Plant] = {f"no {name}": removed(name) for name in finished_run() if "checkpoints" not in name}
    for name in ("metrics.parquet", "examples.safetensors", "summary.json", "scores/attacked-seed-0/epoch-01.safetensors"):
        traps[f"20 GB of nothing as {name}"] = sparse(name)
    for name in ("metrics.parquet", "scores/test.parquet"):
        traps[f"a bomb as {name}"] = written_to(name, table_bomb)
    for name in ("metrics.parquet", "scores/test.parquet", "heat.parquet"):
        other = finished_run()["poison.parquet"]
        traps[f"another table as {name}"] = written_to(name, other)
    for name in ("summary.json", "environment.json"):
        for text in ("{}", "[" * 100_000):
            traps[f"{text[:15]} as {name}"] = written_to(name, text)
    empty = with_header(b"{}")
    for name in ("examples.safetensors", "heat.safetensors", "scores/attacked-seed-0/epoch-01.safetensors"):
        traps[f"nothing in {name}"] = written_to(name, empty)
    return traps


def run_links() -> dict[str, Plant]:
    """Links and pipes among the files of a run."""
    names = ("config.yaml", "summary.json", "checkpoints/a", "scores/test.parquet", ".lock", ".summary.json.partial")
    links = {f"a link as {name}": linked(name, f"{'../' * (1 + name.count('/'))}outside/secret.png") for name in names}
    return {**links, "a pipe": piped("scores/pipe"), "a pipe as a lock": piped(".lock")}


STUDY = {"a": {"data": "phantom", "seeds": [0]}, "b": {"attack": {"rate": 0.1}}}


def design_text() -> str:
    return resources.files("petechia.zoo").joinpath("desk.yaml").read_text(encoding="utf-8")


DOORS: tuple[Door, ...] = (
    Door(
        "NIH's layout",
        plant_nih,
        read_nih,
        nih_traps,
        fine={"line ends of old macs", "too many fields", "a list is a device", "a million findings", "utf-16"},
    ),
    Door(
        "a PNG or JPEG for training",
        written_to("a.png", encode_png(PIXELS)),
        lambda folder: read_grey(folder / "a.png"),
        lambda: (
            {name: written_to("a.png", content) for name, content in image_bytes().items()}
            | {"20 GB of nothing": sparse("a.png", b"\x89PNG\r\n\x1a\n")}
        ),
        mutated_png,
        2,
        ODD_IMAGES,
    ),
    Door(
        "a JPEG to read",
        written_to("a", encode_jpeg(PIXELS)),
        lambda folder: read_levels((folder / "a").read_bytes(), "a").grey(),
        lambda: {name: written_to("a", content) for name, content in image_bytes().items()},
        fine=ODD_IMAGES,
    ),
    Door(
        "DICOM",
        plant_dicom,
        lambda folder: [read_dicom(path.read_bytes(), path.name).grey() for path in sorted(folder.iterdir())],
        dicom_traps,
        share=2,
        fine={*ODD_DICOM, *(f"valid {name}" for name in dicom_bytes())},
    ),
    Door(
        "a folder of images",
        plant_images,
        read_folder,
        lambda: {
            **{
                f"20 GB of nothing as {name}": sparse(name, start)
                for name, start in (("a.png", b"\x89PNG\r\n\x1a\n"), ("b.tif", b"II*\0"), ("c.dcm", bytes(128) + b"DICM"))
            },
            "a link to itself": linked("loop.png", "loop.png"),
            "a link to its own folder": linked("loop", "."),
            "a link that leads out": linked("a.png", "../outside/secret.png"),
            "a device": linked("zero", "/dev/zero"),
            "a pipe": piped("pipe.png"),
        },
        # These are passed over, and named.
        fine={
            *("a link to itself", "a link to its own folder", "a device", "a pipe"),
            *(f"20 GB of nothing as {name}" for name in ("a.png", "b.tif", "c.dcm")),
        },
    ),
    Door(
        "a model of Petechia",
        written_to("model.safetensors", tiny_model),
        use_model,
        model_traps,
        mutated_tensors,
        fine={"weights of a path", "a size of 4096"},  # not opened; would fail on the first image
    ),
    Door(
        "an encoder with a head",
        write_encoder,
        lambda folder: use(f"encoder:{folder}"),
        lambda: folder_traps("petechia.json", "encoder.safetensors") | card_traps("petechia.json"),
        mutated_tensors,
        0.5,
    ),
    Door("weights for timm", plant_timm, use_timm, lambda: card_traps("m.json"), mutated_tensors, 0.5),
    Door(
        "a configuration",
        written_to("c.yaml", load_config().to_yaml()),
        lambda folder: load_config(folder / "c.yaml"),
        lambda: yaml_traps("c.yaml"),
        fine={"a date that is none"},  # YAML 1.2 has no dates
    ),
    Door(
        "the design of a zoo",
        written_to("d.yaml", design_text),
        lambda folder: load_design(folder / "d.yaml"),
        lambda: yaml_traps("d.yaml"),
        share=0.5,
    ),
    Door(
        "an audit",
        written_to("audit.json", json.dumps(AUDIT)),
        lambda folder: read_triggers(folder / "audit.json"),
        audit_traps,
        fine={"a row of 10 ^ 30"},  # refused once the size of the images is known
    ),
    Door(
        "a study",
        written_to("study.json", json.dumps(STUDY)),
        lambda folder: StudyDirectory(folder).runs(),
        lambda: {
            f"a run named {name[:20]!r}": written_to("study.json", json.dumps({name: {}}))
            for name in ("../outside/run", "/tmp/run", "..", "", "a\0b", "a" * 100_000)
        }
        | {"networks that lead out": linked("networks", "../outside"), "a pipe": piped("pipe")},
    ),
    Door(
        "a table of a run",
        written_to("a.parquet", lambda: finished_run()["poison.parquet"]),
        lambda folder: read_table(folder / "a.parquet").to_dicts(),
        lambda: {"a column of 1.1 GB": written_to("a.parquet", table_bomb), "20 GB of nothing": sparse("a.parquet", b"PAR1")},
    ),
    Door(
        "arrays of a run",
        written_to("a.safetensors", lambda: finished_run()["examples.safetensors"]),
        lambda folder: read_arrays(folder / "a.safetensors"),
        lambda: {"20 GB of nothing": sparse("a.safetensors")},
        mutate=mutated_tensors,
    ),
    Door("a run, for its report", plant_run, report_run, run_traps, share=0.1, fine=Anything()),
    Door("a run, for the viewer", plant_run, view_run, run_traps, share=0.3, fine=Anything()),
    Door("a run, to go on with", plant_unfinished_run, resume_run, run_links, share=0.1),
)  # fmt: skip

if find_spec("onnx") and find_spec("onnxruntime"):
    DOORS += (Door("ONNX", plant_onnx, use_onnx, onnx_traps, share=0.5),)
if find_spec("transformers"):
    DOORS += (
        Door("Hugging Face", write_huggingface, lambda folder: use(f"hf:{folder}"), huggingface_traps, mutated_tensors, 0.5),
    )
if find_spec("open_clip"):
    DOORS += (Door("open_clip", write_open_clip, lambda folder: use(f"clip:{folder}"), clip_traps, mutated_tensors, 0.5),)
