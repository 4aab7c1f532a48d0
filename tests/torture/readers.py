"""Doors for the readers of data sources, of pictures for triggers, and of third-party models."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
import pydicom
import torch
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from petechia.attack.triggers.pattern import Pattern
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.data.formats.images import Decoding, encode_png, read_levels
from petechia.models.openers import Card, open_classifier
from petechia.study import load_config
from tests.data.formats.test_dicom import made, written
from tests.models.openers.test_exported import export, in_text, network, rewrite
from tests.torture.doors import (
    ODD_IMAGES,
    PATIENT,
    PIXELS,
    RUNTIME,
    Door,
    Plant,
    image_bytes,
    linked,
    nested,
    piped,
    removed,
    table_bomb,
    written_to,
)
from tests.torture.mutations import mutated_packed, mutated_png

PNG = encode_png(PIXELS)
MILLION = 1_000_000


class Pwned:
    """Writes a file into the working directory, which `fuzz` watches, when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("pwned",)


def steps(*plants: Plant) -> Plant:
    """One after the other."""

    def plant(folder: Path) -> None:
        for one in plants:
            one(folder)

    return plant


def made_folder(name: str) -> Plant:
    """Replace a file by a folder."""
    return steps(removed(name), lambda folder: (folder / name).mkdir())


def all_images(source: str) -> object:
    """Return every image of a source."""
    catalog = open_source(source)
    for image in catalog.reader.read(np.arange(len(catalog))):
        if isinstance(image, PetechiaError):
            raise image
    return catalog.classes, catalog.labels.sum()


# folder:

HEADER = "Image,Patient ID,Split,View,Edema,Mass\n"
NAMES = ("a.png", "sub/b.png", "c.png")
ROWS = "".join(
    f"{name},{i},{split},PA,{i % 2},\n" for i, (name, split) in enumerate(zip(NAMES, ("train", "val", "test"), strict=True))
)


def parquet(frame: pl.DataFrame, **options: Any) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, **options)
    return buffer.getvalue()


def of_rows() -> pl.DataFrame:
    return pl.read_csv((HEADER + ROWS).encode())


@cache
def tables() -> dict[str, bytes]:
    """The same table in many forms."""
    text = HEADER + ROWS
    return {
        "t.csv": text.encode(),
        "t.tsv": text.replace(",", "\t").encode(),
        "utf16.csv": text.encode("utf-16"),
        "t.csv.gz": gzip.compress(text.encode(), mtime=0),
        "t.parquet": parquet(of_rows()),
    }


def plant_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    for name in NAMES:
        (folder / name).write_bytes(PNG)
    for name, content in tables().items():
        (folder / name).write_bytes(content)


def read_tables(folder: Path) -> object:
    return [all_images(f"folder:{folder / name}") for name in tables()]


def plant_classes(folder: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)


def read_classes(folder: Path) -> object:
    """A file that is left out and named counts as refused."""
    catalog = open_source(f"folder:{folder}")
    if catalog.not_read:
        raise PetechiaError(str(catalog.not_read))
    return all_images(f"folder:{folder}")


def many(count: int, path: Callable[[int], str]) -> Plant:
    def plant(folder: Path) -> None:
        for number in range(count):
            (folder / path(number)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path(number)).write_bytes(PNG)

    return plant


def class_traps() -> dict[str, Plant]:
    return {
        "an image leads out": linked("train/a/1.png", "../../../outside/secret.png"),
        "an image leads nowhere": linked("train/a/1.png", "nowhere"),
        "an image leads to itself": linked("train/a/1.png", "1.png"),
        "a class leads out": linked("train/c", "../../outside"),
        "a class leads to itself": linked("train/c", "c"),
        "an image is a device": linked("train/a/9.png", "/dev/zero"),
        "an image is a pipe": piped("train/a/9.png"),
        "a class of what a terminal obeys": many(1, lambda _: "train/\x1b[2J\x07\n/1.png"),
        "a class of 250 letters": many(1, lambda _: f"train/{'c' * 250}/1.png"),
        "2,000 classes": many(2000, lambda number: f"train/c{number}/1.png"),
        "splits beside a class": many(1, lambda _: "other/1.png"),
        "400 folders deep": many(1, lambda _: f"train/a/{'d/' * 400}1.png"),
        "an archive": written_to("train/a/1.zip", b"PK\3\4"),
        "no image": written_to("train/a/1.png", b"nothing"),
    }


def one_value(rows: int, columns: int) -> bytes:
    """A small Parquet file of many equal cells."""
    column = pl.repeat("0", rows, eager=True)
    return parquet(pl.DataFrame({"Image": column} | {f"c{i}": column for i in range(columns - 1)}), compression="zstd")


def lying_parquet(old: bytes, new: bytes) -> bytes:
    content = parquet(of_rows(), compression="uncompressed")
    if old not in content:
        raise ValueError(old)
    return content.replace(old, new)


def folder_traps() -> dict[str, Plant]:
    def text(rows: str | bytes) -> Callable[[], bytes]:
        return lambda: HEADER.encode() + (rows.encode() if isinstance(rows, str) else rows)

    row = "a.png,1,train,PA,1,0\n"
    csvs: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "nul bytes": lambda: bytes(5000),
        "nul bytes later": text(row + "\0" * 20),
        "nul bytes after a megabyte": text(
            row + "".join(f"{i}.png,1,train,PA,1,0\n" for i in range(60_000)) + "b\0.png,,,,,\n"
        ),
        "a header alone": text(""),
        "a path up": text("../outside/secret.png,1,train,PA,1,0\n"),
        "a path up later": text("sub/../../outside/secret.png,1,train,PA,1,0\n"),
        "an absolute path": text("/etc/passwd,1,train,PA,1,0\n"),
        "a path of windows": text("..\\outside\\secret.png,1,train,PA,1,0\n"),
        "a drive of windows": text("C:\\secret.png,1,train,PA,1,0\n"),
        "a home": text("~root/secret.png,1,train,PA,1,0\n"),
        "twice the same": text(row * 2),
        "too many cells": text(row + "sub/b.png,1,train,PA,1,0,1,1,1\n"),
        "a million cells": text("," * MILLION + "\n"),
        "a million cells later": text(row + "," * MILLION + "\n"),
        "a million columns": lambda: b"Image," + ",".join(f"c{i}" for i in range(MILLION)).encode() + b"\na.png\n",
        "100,000 columns": lambda: (
            b"Image," + ",".join(f"c{i}" for i in range(100_000)).encode() + b"\na.png" + b",1" * 100_000
        ),
        "a column of 400 kB": lambda: b"b" * 400_000 + b",c\n1,2\n",
        "a column of 20 MB": lambda: b"b" * 20_000_000 + b"\n1\n",
        "a cell of 20 MB": text(f"{'a' * 20_000_000},1,train,PA,1,0\n"),
        "a label of 20 MB": text(f"a.png,1,train,PA,{'1' * 20_000_000},0\n"),
        "a split of 1 MB": text(f"a.png,1,{'train' * 200_000},PA,1,0\n"),
        "labels that are none": text("a.png,1,train,PA,nan,inf\nc.png,1,train,PA,-1e999,True\n"),
        "control characters": text("\x1b[2J\x07.png,1,train,PA,\x1b[2J,0\n"),
        "a quote that never ends": text(f'"{row}' * 3),
        "a million quotes": text('"' * (MILLION + 1)),
        "a million rows": text("".join(f"{i}.png,{i},train,PA,1,0\n" for i in range(MILLION))),
        "twice the same column": lambda: b"Image,Image,Edema\na.png,c.png,1\n",
        "half of utf-16": lambda: (HEADER + row).encode("utf-16")[:-1],
        "utf-16 that is none": lambda: b"\xff\xfe" + b"\x00\xd8" * 100,
        "an executable": lambda: b"\x7fELF" + bytes(100),
    }
    packed: dict[str, Callable[[], bytes]] = {
        "a gzip bomb": lambda: gzip.compress(HEADER.encode(), 1) + 256 * gzip.compress(b"0" * (1 << 20), 1),
        "a gzip bomb of members": lambda: (
            gzip.compress(HEADER.encode()) + gzip.compress(b"a.png,1,train,PA,1,0\n" * (1 << 18), 1) * 60
        ),
        "half of gzip": lambda: tables()["t.csv.gz"][:-12],
        "gzip of nothing": lambda: b"\x1f\x8b",
        "gzip that is damaged": lambda: tables()["t.csv.gz"][:20] + b"\xff" * 40,
        "gzip in gzip": lambda: gzip.compress(tables()["t.csv.gz"]),
    }
    columns: dict[str, Callable[[], bytes]] = {
        "parquet's name alone": lambda: b"PAR1",
        "parquet twice its name": lambda: b"PAR1PAR1",
        "parquet with a footer of 4 GB": lambda: tables()["t.parquet"][:-8] + b"\xff\xff\xff\x7fPAR1",
        "parquet without its end": lambda: tables()["t.parquet"][:-20],
        "parquet of a path up": lambda: parquet(of_rows().with_columns(pl.lit("../outside/secret.png").alias("Image"))[:1]),
        "parquet that names another path": lambda: lying_parquet(b"a.png", b"/pass"),
        "parquet of nothing": lambda: parquet(of_rows()[:0]),
        "parquet of bytes alone": lambda: parquet(pl.DataFrame({"Image": [b"a.png"], "Edema": [b"1"]})),
        "parquet of structures": lambda: parquet(pl.DataFrame({"Image": [{"a": "a.png"}], "Edema": [[[1]]]})),
        "parquet of mixed types": lambda: parquet(pl.DataFrame({"Image": ["a.png"], "Edema": [math.nan], "Mass": [math.inf]})),
        "parquet of 20,000 columns": lambda: parquet(
            pl.DataFrame({"Image": ["a.png"]} | {f"c{i}": [1] for i in range(20_000)})
        ),
        "parquet of 200 million equal cells": lambda: one_value(2_000_000, 100),
        "parquet of a column of 1.1 GB": table_bomb,
        "parquet of long lists": lambda: parquet(
            pl.DataFrame({"Image": ["a.png"], "Edema": [[0] * 1_000_000]}), compression="zstd"
        ),
    }
    traps = {name: written_to("t.csv", content) for name, content in csvs.items()}
    traps |= {name: written_to("t.csv.gz", content) for name, content in packed.items()}
    traps |= {name: written_to("t.parquet", content) for name, content in columns.items()}
    return traps | {
        "an image leads out": linked("a.png", "../outside/secret.png"),
        "an image leads nowhere": linked("a.png", "nowhere"),
        "an image leads to itself": linked("a.png", "a.png"),
        "an image is a device": linked("a.png", "/dev/zero"),
        "an image is a pipe": piped("a.png"),
        "a pipe is found by its name": steps(piped("sub/p.png"), written_to("t.csv", HEADER + "p,1,train,PA,1,0\n")),
        "a folder that leads out": steps(
            removed("sub/b.png"), lambda folder: (folder / "sub").rmdir(), linked("sub", "../outside")
        ),
        "the table is a pipe": piped("t.csv"),
        "the table is a device": linked("t.csv", "/dev/zero"),
    }


# medmnist:


def npz(compressed: bool = True, **changes: Any) -> bytes:
    """A valid file with some arrays or bytes replaced."""
    arrays: dict[str, Any] = {}
    for key, count in (("train", 6), ("val", 2), ("test", 3)):
        arrays[f"{key}_images"] = np.stack([PIXELS] * count)
        arrays[f"{key}_labels"] = (np.arange(count)[:, None] % 2).astype(np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for key, value in (arrays | changes).items():
            if isinstance(value, bytes):
                file.writestr(f"{key}.npy", value)
            elif value is not None:
                with file.open(f"{key}.npy", "w", force_zip64=True) as target:
                    np.lib.format.write_array(target, value, allow_pickle=True)
    return buffer.getvalue()


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header) + 1)
    return b"\x93NUMPY" + version + length + header.encode() + b"\n" + body


def shaped(*shape: int, kind: str = "|u1", body: bytes = b"", fortran: bool = False) -> bytes:
    return npy(f"{{'descr': {kind!r}, 'fortran_order': {fortran}, 'shape': {shape}}}", body)


def zip_with(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO(npz())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def of_encrypted() -> bytes:
    content = bytearray(npz())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    content[6] |= 1
    return bytes(content)


def medmnist_traps() -> dict[str, Plant]:
    objects = np.array([Pwned()] * 6, dtype=object)
    many = 70_000_000
    contents: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "a zip of nothing": lambda: b"PK\x05\x06" + bytes(18),
        "a pickle": lambda: pickle.dumps(Pwned()),
        "half": lambda: npz()[:-200],
        "pickled images": lambda: npz(train_images=objects),
        "pickled labels": lambda: npz(train_labels=objects),
        "a pickle as an array": lambda: npz(train_labels=pickle.dumps(Pwned())),
        "objects that say they are numbers": lambda: npz(train_labels=shaped(6, 1, body=pickle.dumps(Pwned()))),
        "objects within records": lambda: npz(train_labels=np.array([(1, Pwned())] * 6, dtype=[("a", "u1"), ("b", object)])),
        "records": lambda: npz(train_labels=np.zeros((6, 1), dtype=[("a", "u1"), ("b", "u1")])),
        "2 ^ 62 images": lambda: npz(train_images=shaped(2**62, 16, 16)),
        "2 ^ 70 images": lambda: npz(train_images=shaped(2**70, 16, 16)),
        "sides that overflow to nothing": lambda: npz(train_images=shaped(6, 2**32, 2**32)),
        "a negative side": lambda: npz(train_images=shaped(-6, 16, 16)),
        "a side that is a truth": lambda: npz(
            train_images=npy("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 16, 16)}", bytes(256))
        ),
        "no training images": lambda: npz(
            train_images=np.zeros((0, 16, 16), np.uint8), train_labels=np.zeros((0, 1), np.uint8)
        ),
        "images of nothing": lambda: npz(train_images=shaped(6, 0, 16)),
        "volumes of colours": lambda: npz(train_images=np.zeros((6, 8, 8, 8, 3), np.uint8)),
        "a thousand dimensions": lambda: npz(train_images=shaped(*[1] * 1000)),
        "floats as images": lambda: npz(train_images=np.full((6, 16, 16), np.nan)),
        "another order": lambda: npz(train_images=np.asfortranarray(np.zeros((6, 16, 16), np.uint8))),
        "more labels": lambda: npz(train_labels=np.zeros((7, 1), np.uint8)),
        "fewer bytes": lambda: npz(train_images=shaped(6, 16, 16, body=bytes(100))),
        "more bytes": lambda: npz(train_images=shaped(6, 16, 16, body=bytes(6000))),
        "labels that are not numbers": lambda: npz(train_labels=np.full((6, 1), np.nan)),
        "infinite labels": lambda: npz(train_labels=np.full((6, 1), np.inf)),
        "half labels": lambda: npz(train_labels=np.full((6, 1), 0.5)),
        "texts as labels": lambda: npz(train_labels=np.full((6, 1), "Mass")),
        "negative labels": lambda: npz(train_labels=np.full((6, 1), -1)),
        "2 ^ 63 classes": lambda: npz(train_labels=np.full((6, 1), 2**63 - 1)),
        "labels without width": lambda: npz(train_labels=shaped(6, 0)),
        "a thousand classes for many": lambda: npz(
            train_images=np.zeros((3 * MILLION, 1, 1), np.uint8),
            train_labels=np.full((3 * MILLION, 1), 999, np.uint16),
            val_images=None,
            test_images=None,
            val_labels=None,
            test_labels=None,
        ),
        "70 million images of a pixel": lambda: npz(
            train_images=np.zeros((many, 1, 1), np.uint8),
            train_labels=np.zeros((many, 1), np.uint8),
            val_images=None,
            test_images=None,
            val_labels=None,
            test_labels=None,
        ),
        "60 million labels of an image": lambda: npz(train_labels=np.zeros((6, 10 * MILLION), np.uint8)),
        "a bomb of images": lambda: npz(train_images=np.zeros((6, 8000, 8000), np.uint8)),
        "a header of brackets": lambda: npz(train_images=npy("[" * 9000)),
        "a header of 60 kB": lambda: npz(
            train_images=npy("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 16, 16)}" + " " * 60_000)
        ),
        "a header of 2 GB": lambda: npz(train_images=b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}"),
        "a header that is a call": lambda: npz(train_images=npy("__import__('os').mkdir('pwned')")),
        "a header that never ends": lambda: npz(train_images=npy("{'descr': ('''")),
        "a type of 10 GB": lambda: npz(train_labels=npy("{'descr': '|S9999999999', 'fortran_order': False, 'shape': (6, 1)}")),
        "a type of types": lambda: npz(
            train_labels=npy("{'descr': [('a', '|u1', (1000000, 1000000))], 'fortran_order': False, 'shape': (6, 1)}")
        ),
        "a header of version 9": lambda: npz(train_images=npy("{}", version=b"\x09\x00")),
        "no labels": lambda: npz(train_labels=None),
        "no images": lambda: npz(train_images=None, val_images=None, test_images=None),
        "different sizes": lambda: npz(test_images=np.zeros((3, 8, 8), np.uint8)),
        "encrypted": of_encrypted,
        "a member that leads out": lambda: zip_with(("../outside/train_images.npy", b"x"), ("/tmp/x.npy", b"y")),
        "a member with a newline": lambda: zip_with(("train_images.npy\n", b"x")),
        "twice the same member": lambda: zip_with(("train_images.npy", pickle.dumps(Pwned()))),
        "20,000 members": lambda: zip_with(*((f"{i}.npy", b"") for i in range(20_000))),
    }
    return {name: written_to("breastmnist.npz", content) for name, content in contents.items()} | {
        "a pipe": piped("breastmnist.npz"),
        "a device": linked("breastmnist.npz", "/dev/zero"),
    }


# dicom:


@cache
def scans() -> dict[str, bytes]:
    """Files of a folder with a DICOMDIR and a table."""
    files = {}
    for i in range(3):
        files[f"IM{i}"] = written(made(PIXELS, PatientName=PATIENT, PatientID=PATIENT, SOPInstanceUID=f"1.2.{i}"))
    files["DICOMDIR"] = directory(*files)
    files["labels.csv"] = b"SOPInstanceUID,Edema\n1.2.0,1\nIM1,0\n"
    return files


def directory(*names: Any, **entries: Any) -> bytes:
    """A DICOMDIR that lists files."""
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = name
        records.append(record)
    listed = made(PIXELS, DirectoryRecordSequence=records, **entries)
    listed.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    for key in ("PixelData", "Rows", "Columns"):
        delattr(listed, key)
    return written(listed)


def deflated(content: bytes, body: bytes) -> bytes:
    """A DICOM file whose header states that the rest, `body`, is deflated."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    whole = Dataset()
    whole.file_meta = dataset.file_meta
    whole.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    whole.save_as(buffer, enforce_file_format=True)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return buffer.getvalue()[:-2] + packer.compress(body) + packer.flush()


def behind_a_long_header(content: bytes) -> bytes:
    """The same, with 100 kB in the header before its transfer syntax."""
    at = 132 + 12  # behind the length of the group
    filler = b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", 100_000) + bytes(100_000)
    (length,) = struct.unpack("<I", content[140:144])
    return content[:140] + struct.pack("<I", length + len(filler)) + filler + content[at:]


def plant_scans(folder: Path) -> None:
    for name, content in scans().items():
        (folder / name).write_bytes(content)


def read_scans(folder: Path) -> object:
    source = f"dicom:{folder}"
    return all_images(source), all_images(f"{source},table={folder / 'labels.csv'}")


def scan_traps() -> dict[str, Plant]:
    image = scans()["IM0"]
    bomb = deflated(image, bytes(1 << 28))
    directories: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "a prefix alone": lambda: bytes(128) + b"DICM",
        "lists nothing": directory,
        "lists itself": lambda: directory("DICOMDIR"),
        "leads up": lambda: directory(["..", "outside", "secret.png"]),
        "leads up in one part": lambda: directory("../outside/secret.png"),
        "is absolute": lambda: directory("/etc/passwd"),
        "is absolute in parts": lambda: directory(["", "etc", "passwd"]),
        "leads up as on windows": lambda: directory(["..\\..\\outside\\secret.png"]),
        "names a nul": lambda: directory("IM0\0x/a"),
        "names a folder": lambda: directory("."),
        "names a long file": lambda: directory("A" * 5000),
        "names what a terminal obeys": lambda: directory("\x1b[2J\x07\n"),
        "names the missing": lambda: directory("IM9"),
        "20,000 names": lambda: directory(*["IM9"] * 20_000),
        "is deflated": lambda: deflated(image, bytes(1000)),
        "is a bomb": lambda: bomb,
        "is deep": lambda: nested(image, 3000),
        "is an image": lambda: image,
    }
    files = {
        "a bomb": bomb,
        "a bomb behind a long header": behind_a_long_header(bomb),
        "a deep one": nested(image, 3000),
        "a uid of 10 MB": image.replace(b"\x08\x00\x18\x00UI\x06\x00", b"\x08\x00\x18\x00UN\0\0\xff\xff\xff\x7f"),
    }
    tables = {
        "a table of nul bytes": bytes(100),
        "a table that leads out": b"SOPInstanceUID,Edema\n../outside/secret.png,1\n",
        "a table that is absolute": b"SOPInstanceUID,Edema\n/etc/passwd,1\n",
        "a table that names the same twice": b"SOPInstanceUID,Edema\n1.2.0,1\nIM0,1\n",
        "a table of 100,000 columns": b"Image," + b",".join(b"c%d" % i for i in range(100_000)) + b"\nIM0\n",
    }

    def without_directory(trap: Plant) -> Plant:
        return steps(removed("DICOMDIR"), trap)

    return (
        {f"a DICOMDIR: {name}": written_to("DICOMDIR", content) for name, content in directories.items()}
        | {f"{name}, listed": written_to("IM0", content) for name, content in files.items()}
        | {f"{name}, found": without_directory(written_to("IM0", content)) for name, content in files.items()}
        | {name: written_to("labels.csv", content) for name, content in tables.items()}
        | {
            "the DICOMDIR leads out": linked("DICOMDIR", "../outside/secret.csv"),
            "the DICOMDIR is a pipe": piped("DICOMDIR"),
            "the DICOMDIR leads to itself": linked("DICOMDIR", "DICOMDIR"),
            "a listed image leads out": linked("IM0", "../outside/secret.png"),
            "a listed image is a pipe": piped("IM0"),
            "an image leads out": without_directory(linked("IM0", "../outside/secret.png")),
            "an image is a device": without_directory(linked("IM0", "/dev/zero")),
            "a pipe beside": without_directory(piped("PIPE")),
            "a link to the folder": without_directory(linked("loop", ".")),
            "a link to itself": without_directory(linked("loop", "loop")),
        }
    )


# xrv:


XRV_HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position\n"
XRV_FIRST = "00000001_000.png"


def xrv_row(name: str) -> str:
    return f"{name},Mass,0,1,57,M,PA\n"


def plant_xrv(folder: Path) -> None:
    names = (XRV_FIRST, "00000001_001.png")
    for name in names:
        (folder / name).write_bytes(PNG)
    (folder / "nih.csv").write_text(XRV_HEADER + "".join(map(xrv_row, names)))


def read_xrv(folder: Path) -> object:
    return all_images(f"xrv:NIH:{folder},csvpath={folder / 'nih.csv'}")


def xrv_traps() -> dict[str, Plant]:
    header, first, row = XRV_HEADER, XRV_FIRST, xrv_row
    texts: dict[str, str | bytes | Callable[[], bytes | str]] = {
        "empty": "",
        "nul bytes": bytes(5000),
        "a header alone": header,
        "a path up": header + row("../outside/secret.png"),
        "an absolute path": header + row("/etc/passwd"),
        "a nul in a name": header + row("a\0b.png"),
        "no name": header + row(""),
        "a name that is a number": header + row("7"),
        "findings that are missing": header + f"{first},,0,1,57,M,PA\n",
        "different labels": header + row(first) + row(first).replace("Mass", "Edema"),
        "too many cells": header + row(first) + row(first).strip() + ",1,2,3\n",
        "a field of 20 MB": lambda: header + row("a" * 20_000_000),
        "a million columns": lambda: header.strip() + "".join(f",c{i}" for i in range(MILLION)) + "\n" + row(first),
        "a million unknown columns": lambda: ",".join(f"c{i}" for i in range(MILLION)) + "\n1\n",
        "a gzip bomb": lambda: gzip.compress(header.encode() + b"0" * (1 << 28), 1),
        "a pickle": pickle.dumps(Pwned()),
        "utf-16": (header + row(first)).encode("utf-16"),
    }
    return {name: written_to("nih.csv", text) for name, text in texts.items()} | {
        "the table is a pipe": piped("nih.csv"),
        "the table is a device": linked("nih.csv", "/dev/zero"),
        "an image leads out": linked(first, "../outside/secret.png"),
        "an image leads to itself": linked(first, first),
        "an image is a device": linked(first, "/dev/zero"),
        "an image is a pipe": piped(first),
    }


# TIFF


def tiff_of(*images: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    images[0].save(buffer, "TIFF", save_all=len(images) > 1, append_images=list(images[1:]), **options)
    return buffer.getvalue()


def raw_tiff(next_page: int = 0, **changes: tuple[int, int, int] | None) -> bytes:
    """A TIFF of 16 x 16 pixels, written by hand: changes are tag → (type, count, value)."""
    tags: dict[int, tuple[int, int, int]] = {
        256: (4, 1, 16),
        257: (4, 1, 16),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, 16),
        279: (4, 1, 256),
    }
    for key, value in changes.items():
        tags.pop(int(key[1:]), None)
        if value is not None:
            tags[int(key[1:])] = value
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return (
        b"II*\0"
        + struct.pack("<I", 8 + 256)
        + PIXELS.tobytes()
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", next_page)
    )


@cache
def tiffs() -> dict[str, bytes]:
    """Valid ones."""
    grey = Image.fromarray(PIXELS)
    return {
        "plain": tiff_of(grey),
        "lzw": tiff_of(grey, compression="tiff_lzw"),
        "deflate": tiff_of(grey, compression="tiff_adobe_deflate"),
        "deep": tiff_of(Image.fromarray(PIXELS.astype(np.uint16) * 16)),
        "broken numbers": tiff_of(Image.fromarray(PIXELS.astype(np.float32) / 7)),
        "colour": tiff_of(Image.fromarray(np.stack([PIXELS] * 3, axis=2))),
    }


def plant_tiffs(folder: Path) -> None:
    for name, content in tiffs().items():
        (folder / f"{name}.tif").write_bytes(content)


def read_tiffs(folder: Path) -> object:
    paths = sorted(folder.iterdir())
    return [(Decoding()(path), Decoding(colour=True)(path), read_levels(path.read_bytes(), path.name).grey()) for path in paths]


def tiff_traps() -> dict[str, Plant]:
    page = Image.fromarray(PIXELS[:1, :1])
    zeros = Image.fromarray(np.zeros((8000, 8000), np.uint8))
    contents: dict[str, Callable[[], bytes]] = {
        "as written by hand": raw_tiff,
        "a name alone": lambda: b"II*\0",
        "big tiff's name alone": lambda: b"II+\0" + bytes(12),
        "a directory that is not there": lambda: b"II*\0\xff\xff\xff\x7f",
        "huge dimensions": lambda: raw_tiff(t256=(4, 1, 2**32 - 1), t257=(4, 1, 2**32 - 1)),
        "wide": lambda: raw_tiff(t256=(4, 1, 2**31 - 1), t257=(4, 1, 1)),
        "pixels that are not there": lambda: raw_tiff(t256=(4, 1, 8000), t257=(4, 1, 8000), t278=(4, 1, 8000)),
        "64 million numbers that are not there": lambda: raw_tiff(
            t256=(4, 1, 8000), t257=(4, 1, 8000), t258=(3, 1, 32), t339=(3, 1, 3)
        ),
        "no width": lambda: raw_tiff(t256=(4, 1, 0)),
        "no width, 16 bits": lambda: raw_tiff(t256=(4, 1, 0), t258=(3, 1, 16)),
        "no height, 16 bits in colour": lambda: raw_tiff(t257=(4, 1, 0), t258=(3, 1, 16), t262=(3, 1, 2), t277=(3, 1, 3)),
        "no strips": lambda: raw_tiff(t273=None),
        "strips beyond the end": lambda: raw_tiff(t273=(4, 1, 2**31)),
        "2 ^ 30 strips": lambda: raw_tiff(t273=(4, 2**30, 8)),
        "a million pages": lambda: (
            raw_tiff(next_page=4096).ljust(4096, b"\0")
            + b"".join(struct.pack("<HI", 0, 4096 + 6 * (number + 1)) for number in range(MILLION))
            + bytes(6)
        ),
        "rows a strip: 2 ^ 32": lambda: raw_tiff(t278=(4, 1, 2**32 - 1), t259=(3, 1, 8)),
        "a strip of 4 GB": lambda: raw_tiff(t279=(4, 1, 2**32 - 1)),
        "rows a strip: none": lambda: raw_tiff(t278=(4, 1, 0)),
        "tiles of nothing": lambda: raw_tiff(t322=(4, 1, 0), t323=(4, 1, 0), t324=(4, 1, 8), t325=(4, 1, 256)),
        "tiles of 2 ^ 31": lambda: raw_tiff(
            t322=(4, 1, 2**31), t323=(4, 1, 2**31), t324=(4, 1, 8), t325=(4, 1, 256), t259=(3, 1, 8)
        ),
        "13 bits": lambda: raw_tiff(t258=(3, 1, 13)),
        "65,535 samples": lambda: raw_tiff(t277=(3, 1, 65535)),
        "an unknown packing": lambda: raw_tiff(t259=(3, 1, 4242)),
        "jpeg of nothing": lambda: raw_tiff(t259=(3, 1, 7)),
        "lzw of anything": lambda: raw_tiff(t259=(3, 1, 5)),
        "deflate of anything": lambda: raw_tiff(t259=(3, 1, 8)),
        "a page that is itself": lambda: raw_tiff(next_page=264),
        "a page that is not there": lambda: raw_tiff(next_page=2**31),
        "two pages": lambda: tiff_of(page, page),
        "2,000 pages": lambda: tiff_of(*[page] * 2000),
        "a tag of 2 GB": lambda: raw_tiff(t700=(1, 2**31, 8)),
        "a bomb": lambda: tiff_of(zeros, compression="tiff_adobe_deflate"),
        "a bomb that is too large": lambda: tiff_of(Image.fromarray(np.zeros((9000, 9000), np.uint8)), compression="tiff_lzw"),
        "no numbers": lambda: tiff_of(Image.fromarray(np.full((16, 16), np.nan, np.float32))),
        "infinite numbers": lambda: tiff_of(Image.fromarray(np.full((16, 16), np.inf, np.float32))),
        "numbers of 1e38": lambda: tiff_of(Image.fromarray(np.array([[-3e38, 3e38]], np.float32))),
    }
    return {name: written_to("plain.tif", content) for name, content in contents.items()}


# Pictures of triggers


def stamp_picture(folder: Path) -> object:
    trigger = Pattern(image=str(folder / "p.png"))
    trigger.shape()
    return trigger.stamp(np.zeros((1, 32, 32), np.uint8), np.array([[0, 0]]))


def configure_picture(folder: Path) -> object:
    trigger = load_config(folder / "c.yaml").attack.trigger
    return trigger.stamp(np.zeros((1, 32, 32), np.uint8), np.array([[0, 0]]))


def plant_configuration(folder: Path) -> None:
    (folder / "p.png").write_bytes(PNG)
    (folder / "c.yaml").write_text(f"attack: {{trigger: {{kind: pattern, image: {folder / 'p.png'}}}}}\n")


def configuration_traps() -> dict[str, Plant]:
    def said(**values: Any) -> Plant:
        text = json.dumps({"attack": {"trigger": {"kind": "pattern", **values}}})  # JSON is YAML
        return written_to("c.yaml", text)

    return {
        "a device": said(image="/dev/zero"),
        "a terminal": said(image="/dev/tty"),
        "no path": said(image=""),
        "a folder": said(image="/etc"),
        "a file that is no picture": said(image="/etc/passwd"),
        "a nul": said(image="a\0b.png"),
        "a nul and a digest": said(image="a\0b.png", sha256="0" * 64),
        "what a terminal obeys": said(image="\x1b[2J\x07"),
        "a path of 900 kB": said(image="a" * 900_000),
        "a number": said(image=7),
        "a list": said(image=[[]]),
        "another digest": said(image="rings.png", sha256="0" * 64),
        "a digest that is none": said(image="rings", sha256="abc"),
        "a seed of 10 ^ 30": said(image="noise", seed=10**30),
        "a pipe": piped("p.png"),
        "a link to itself": linked("p.png", "p.png"),
        "a link to a device": linked("p.png", "/dev/zero"),
    }


# Cards

CARD = {
    "classes": ["A", "B"],
    "mean": [0.5],
    "std": [0.5],
    "outputs": "logits",
    "task": "multi-label",
    "channels": 1,
    "preprocess": {"size": 32},
}


def card_traps() -> dict[str, Plant]:
    texts: dict[str, str | bytes | Callable[[], bytes | str]] = {
        "empty": b"",
        "nul bytes": bytes(100),
        "brackets": "[" * 1_000_000,
        "deep objects": '{"a":' * 100_000,
        "deep preprocess": '{"preprocess":' * 100_000 + "{}" + "}" * 100_000,
        "not UTF-8": b'{"classes": ["\xff\xfe"]}',
        "half a surrogate": '{"classes": ["\\ud800"]}',
        "an unknown key that a terminal obeys": json.dumps({"\x1b[2J" * 1000: 1}),
        "a number of 10,000 digits": '{"mean": [' + "9" * 10_000 + "]}",
        "a mean that is none": '{"mean": [NaN]}',
        "an infinite spread": '{"std": [1e999]}',
        "a negative spread": '{"std": [-1]}',
        "seven channels": '{"channels": 7}',
        "a size of 10 ^ 30": '{"preprocess": {"size": 1000000000000000000000000000000}}',
        "200 MB": lambda: json.dumps(CARD) + " " * 200_000_000,
    }
    return {name: written_to("m.json", text) for name, text in texts.items()} | {
        "a pipe": piped("m.json"),
        "a device": linked("m.json", "/dev/zero"),
        "a folder": made_folder("m.json"),
        "a link to itself": linked("m.json", "m.json"),
    }


# Programs of torch.export, and bare state dicts


@cache
def program() -> bytes:
    path = Path(mkdtemp()) / "m.pt2"
    export(network(), path)
    return path.read_bytes()


def plant_program(folder: Path) -> None:
    (folder / "m.pt2").write_bytes(program())


def use_program(folder: Path) -> object:
    classifier = open_classifier(str(folder / "m.pt2"), RUNTIME)
    size = classifier.preprocess.size
    return classifier.logits(np.zeros((1, size, size), np.uint8)) if size <= 64 else classifier


WEIGHTS = "data/weights/model_weights_config.json"


def program_traps() -> dict[str, Plant]:
    def changed(change: Any, compression: int = zipfile.ZIP_STORED) -> Plant:
        def plant(folder: Path) -> None:
            (folder / "old").write_bytes(program())
            rewrite(folder / "old", folder / "m.pt2", change, compression)
            (folder / "old").unlink()

        return plant

    def meta(**values: Any) -> Plant:
        def change(text: Any) -> None:
            next(iter(text["config"].values()))["tensor_meta"].update(values)

        return changed(in_text(change, WEIGHTS))

    def about(**values: Any) -> Plant:
        def change(text: Any) -> None:
            next(iter(text["config"].values())).update(values)

        return changed(in_text(change, WEIGHTS))

    def graph(change: Callable[[Any], None]) -> Plant:
        return changed(in_text(lambda text: change(text["graph_module"]["graph"])))

    def target(name: str) -> Plant:
        return graph(lambda given: given["nodes"][0].update(target=name))

    def pickled(entries: dict[str, bytes]) -> None:
        entries["data/weights/model.pt"] = pickle.dumps(Pwned())

    def sides(*lengths: int) -> list[dict[str, int]]:
        return [{"as_int": one} for one in lengths]

    def asks_for_memory(given: Any) -> None:
        made = {"as_tensor": {"name": "huge"}}
        size = {"name": "size", "arg": {"as_ints": [2**20, 2**20]}, "kind": 1}
        given["nodes"].insert(
            0, {"target": "torch.ops.aten.zeros.default", "inputs": [size], "outputs": [made], "metadata": {}}
        )

    def inserted(target: str, **inputs: Any) -> Plant:
        listed = [{"name": name, "arg": value, "kind": 1} for name, value in inputs.items()]
        made = [{"as_tensor": {"name": "inserted"}}]
        one = {"target": f"torch.ops.aten.{target}", "inputs": listed, "outputs": made, "metadata": {}}
        return graph(lambda given: given["nodes"].insert(0, one))

    def endless(given: Any) -> None:
        def step(target: str, made: str, **inputs: Any) -> dict[str, Any]:
            listed = [{"name": name, "arg": value, "kind": 1} for name, value in inputs.items()]
            outputs = [{"as_tensor": {"name": made}}]
            return {"target": f"torch.ops.aten.{target}", "inputs": listed, "outputs": outputs, "metadata": {}}

        steps = [step("zeros.default", "m0", size={"as_ints": [4096, 4096]})]
        for k in range(1000):
            factor = {"as_tensor": {"name": f"m{k}"}}
            steps.append(step("mm.default", f"m{k + 1}", self=factor, mat2=factor))
        given["nodes"][:0] = steps

    def huge_images(given: Any) -> None:
        for one in given["tensor_values"].values():
            one["sizes"][2:4] = sides(10**9, 10**9)

    def same_bytes(text: Any) -> None:
        first = next(iter(text["config"].values()))
        text["config"] = {
            name: {**first, "tensor_meta": {**first["tensor_meta"], "sizes": sides(10_000_000), "strides": sides(0)}}
            for name in text["config"]
        }

    def write(content: Callable[[], bytes]) -> Plant:
        return written_to("m.pt2", content)

    return {
        "empty": write(lambda: b""),
        "a zip of nothing": write(lambda: b"PK\x05\x06" + bytes(18)),
        "a pickle": write(lambda: pickle.dumps(Pwned())),
        "half": write(lambda: program()[: len(program()) // 2]),
        "compressed": changed(lambda entries: None, zipfile.ZIP_DEFLATED),
        "weights in a pickle": changed(pickled),
        "a weight that is a pickle": about(use_pickle=True),
        "a weight of another path": about(path_name="../../../etc/passwd"),
        "a weight of an absolute path": about(path_name="weight_/../../../../etc/passwd"),
        "a weight that is larger than its bytes": meta(sizes=sides(10**6, 1, 3, 3)),
        "a weight of one value, 2 ^ 40 times": meta(sizes=sides(2**20, 2**20), strides=sides(0, 0)),
        "a weight of 2 ^ 62": meta(sizes=sides(2**62), strides=sides(1)),
        "a weight of a negative side": meta(sizes=sides(-1)),
        "strides that lead back": meta(strides=sides(-1, -1, -1, -1)),
        "an offset before the beginning": meta(storage_offset={"as_int": -1000}),
        "an offset behind the end": meta(storage_offset={"as_int": 2**40}),
        "a type that is none": meta(dtype=99),
        "weights of one value, 10 ^ 7 times each": changed(in_text(same_bytes, WEIGHTS)),
        "text of brackets": changed(lambda entries: entries.update({"models/model.json": b"[" * MILLION})),
        "a text that is a list": changed(lambda entries: entries.update({"models/model.json": b"[]"})),
        "a version of digits": changed(in_text(lambda text: text["schema_version"].update(major=10**30))),
        "an argument of brackets": changed(
            lambda entries: entries.update(
                {
                    "models/model.json": entries["models/model.json"].replace(
                        b'"as_ints": [', b'"as_ints": [' + b"[" * 900 + b"]" * 900 + b",", 1
                    )
                }
            )
        ),
        "a system call": target("os.system"),
        "a file of torch": target("torch.ops.aten.from_file.default"),
        "an attribute": target("torch.ops.aten.__class__.default"),
        "an overload that is none": target("torch.ops.aten.add.__class__"),
        "a long name": target("a" * MILLION),
        "a terabyte of zeros": graph(asks_for_memory),
        "no nodes": graph(lambda given: given["nodes"].clear()),
        "a name of nothing": graph(lambda given: given["outputs"].clear()),
        "images of 10 ^ 9": graph(huge_images),
        "a memory format that is none": inserted(
            "clone.default", self={"as_tensor": {"name": "x"}}, memory_format={"as_int": 4}
        ),
        "a type that is a number": inserted("_to_copy.default", self={"as_tensor": {"name": "x"}}, dtype={"as_int": 99}),
        "a result in a tensor that is given": inserted(
            "relu.out", self={"as_tensor": {"name": "x"}}, out={"as_tensor": {"name": "x"}}
        ),
        "weights that are changed": inserted("relu_.default", self={"as_tensor": {"name": "p_fc_bias"}}),
        "days of work": graph(endless),
        "a card of brackets": written_to("m.json", "[" * 100_000),
        "a pipe": piped("m.pt2"),
    }


def state() -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network().state_dict().items()}


def saved(what: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer, **options)
    return buffer.getvalue()


def plant_state(folder: Path) -> None:
    (folder / "m.pt").write_bytes(saved(state()))
    (folder / "m.json").write_text(json.dumps({"preprocess": {"size": 32}}))


def use_state(folder: Path) -> object:
    classifier = open_classifier(f"timm:test_resnet:{folder / 'm.pt'}", RUNTIME)
    size = classifier.preprocess.size
    return classifier.logits(np.zeros((1, size, size), np.uint8)) if size <= 64 else classifier


def sharing(content: bytes) -> bytes:
    """The same archive, whose directory sends all of its tensors to the bytes of the first."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        places = [one.header_offset for one in file.infolist() if "/data/" in one.filename]
    listed = content.index(b"PK\x01\x02")
    directory = content[listed:]
    for place in places[1:]:
        directory = directory.replace(struct.pack("<I", place), struct.pack("<I", places[0]))
    return content[:listed] + directory


def repacked(content: bytes, more: dict[str, bytes] | None = None) -> bytes:
    """The same entries, compressed, some of them replaced."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            new.writestr(name, (more or {}).get(name.partition("/")[2]) or old.read(name))
    return buffer.getvalue()


def in_itself() -> dict[str, object]:
    given: dict[str, object] = {}
    given["state_dict"] = given
    return given


def state_traps() -> dict[str, Plant]:
    def changed(**values: object) -> Callable[[], bytes]:
        return lambda: saved(state() | {key.replace("__", "."): value for key, value in values.items()})

    contents: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "a pickle": lambda: pickle.dumps(Pwned()),
        "a pickle of torch": lambda: saved(Pwned()),
        "a pickle of old torch": lambda: saved(Pwned(), _use_new_zipfile_serialization=False),
        "a pickle beside weights": changed(fc__weight=Pwned()),
        "a whole network": lambda: saved(network()),
        "a list": lambda: saved([1, 2]),
        "numbers": lambda: saved({"a": 1}),
        "a dictionary in itself": lambda: saved(in_itself()),
        "compressed": lambda: repacked(saved(state())),
        "a bomb": lambda: repacked(saved(state() | {"fc.weight": torch.zeros(1 << 24)})),
        "one value, 2 ^ 40 times": changed(fc__weight=torch.zeros(1).expand(2**20, 2**20)),
        "a bias of one value, 2 ^ 40 times": changed(fc__bias=torch.zeros(1).expand(2**40)),
        "a million classes of one value": changed(
            fc__weight=torch.zeros(1).expand(10**9, 64), fc__bias=torch.zeros(1).expand(10**9)
        ),
        "a sparse weight": changed(fc__weight=torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**30, 2**30))),
        "weights of words": changed(fc__weight="A"),
        "a weight on no device": lambda: saved(state() | {"fc.weight": torch.empty(3, 64, device="meta")}),
        "no last layer": lambda: saved({name: one for name, one in state().items() if not name.startswith("fc")}),
        "not numbers": lambda: saved(
            {name: torch.full_like(one, math.nan) if one.is_floating_point() else one for name, one in state().items()}
        ),
        "whole numbers": lambda: saved({name: one.long() for name, one in state().items()}),
        "complex numbers": lambda: saved({name: one.to(torch.complex64) for name, one in state().items()}),
        "names that are numbers": lambda: saved(dict(enumerate(state().values()))),
        "a thousand opcodes": lambda: b"\x80\x02" + b"(" * MILLION + b".",
        "a giant network in a few bytes": lambda: saved(
            {name: torch.zeros(1).expand(4096, 4096, *one.shape[2:]) if one.ndim > 1 else one for name, one in state().items()}
        ),
        "an archive in an archive": lambda: repacked(saved({"state_dict": saved(state())})),
        "members that share bytes": lambda: sharing(saved(state())),
        "the network twice": lambda: saved({f"{side}.{name}": one for side in "ab" for name, one in state().items()}),
    }
    return {name: written_to("m.pt", content) for name, content in contents.items()} | {
        "a pipe": piped("m.pt"),
        "a link to itself": linked("m.pt", "m.pt"),
        "a device": linked("m.pt", "/dev/zero"),
        "a card that is a device": linked("m.json", "/dev/zero"),
    }


DOORS: tuple[Door, ...] = (
    Door(
        "a folder with a table",
        plant_folder,
        read_tables,
        folder_traps,
        mutated_packed,
        fine={"gzip in gzip", "parquet of mixed types", "a label of 20 MB"},  # that column is then not a label
    ),
    Door(
        "a folder for each class",
        plant_classes,
        read_classes,
        class_traps,
        share=0.5,
        fine={"an image is a pipe", "400 folders deep", "a class of 250 letters", "a class of what a terminal obeys"},
    ),
    Door(
        "MedMNIST",
        written_to("breastmnist.npz", npz),
        lambda folder: all_images(f"medmnist:{folder / 'breastmnist.npz'}"),
        medmnist_traps,
        mutated_packed,
        fine={"no training images", "a member that leads out", "a member with a newline", "20,000 members"},
    ),
    Door(
        "a folder of DICOM",
        plant_scans,
        read_scans,
        scan_traps,
        fine={
            *("a pipe beside", "a link to the folder", "a link to itself", "the DICOMDIR is a pipe"),
            *("a DICOMDIR: lists itself", "the DICOMDIR leads to itself"),  # all images of the folder are read
        },
    ),
    Door(
        "TIFF",
        plant_tiffs,
        read_tiffs,
        tiff_traps,
        fine={
            *("as written by hand", "a bomb"),
            # Pillow reads what is there, and the rest stays black.
            *("a strip of 4 GB", "tiles of nothing", "a page that is itself", "a tag of 2 GB", "numbers of 1e38"),
        },
    ),
    Door(
        "a picture of a trigger",
        written_to("p.png", PNG),
        stamp_picture,
        lambda: {name: written_to("p.png", content) for name, content in image_bytes().items()},
        mutated_png,
        fine=ODD_IMAGES,
    ),
    Door("a configuration that names a picture", plant_configuration, configure_picture, configuration_traps, share=0.5),
    Door("a card", written_to("m.json", json.dumps(CARD)), lambda folder: Card.beside(folder / "m.onnx"), card_traps),
    Door("a program of torch.export", plant_program, use_program, program_traps, mutated_packed),
    Door("a bare state dict", plant_state, use_state, state_traps, mutated_packed, 0.5, fine={"whole numbers"}),
)

if find_spec("torchxrayvision"):
    DOORS += (Door("torchxrayvision's NIH", plant_xrv, read_xrv, xrv_traps, share=0.5),)
