"""Doors for volumes, slice by slice, and for the answers of a PACS."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from petechia.core.errors import PetechiaError
from petechia.data import open_source
from tests.data.formats.test_dicom import made, written
from tests.data.sources.test_dicom_volumes import enhanced, frames_of, write_series
from tests.torture.doors import PATIENT, PIXELS, Door, Plant, linked, piped, sparse, written_to
from tests.torture.mutations import mutated_packed
from tests.torture.readers import all_images, npz, shaped

NAN, INFINITE = float("nan"), float("inf")
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)


def strictly(source: str) -> object:
    """Every image of a source; a file that is left out and named counts as refused."""
    catalog = open_source(source)
    if catalog.not_read:
        raise PetechiaError(str(catalog.not_read))
    return all_images(source)


def in_planes(source: str) -> object:
    """Every image as it was acquired, and every second one across another plane."""
    return [strictly(f"{source}{options}") for options in ("", ",axis=coronal,slices=every=2")]


# nifti:


def nifti_bytes() -> bytes:
    """A NIfTI-1 file, written by hand (nifti1.h)."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 7, 6, 5, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0)
    header[344:348] = b"n+1\0"
    return bytes(header) + VOXELS.tobytes(order="F")


def plant_nifti(folder: Path) -> None:
    (folder / "a.nii").write_bytes(nifti_bytes())
    (folder / "b.nii.gz").write_bytes(gzip.compress(nifti_bytes(), mtime=0))


def nifti_traps() -> dict[str, Plant]:
    def patched(at: int, form: str, *values: float) -> bytes:
        content = bytearray(nifti_bytes())
        struct.pack_into(form, content, at, *values)
        return bytes(content)

    sides = {
        "32,000 a side": (3, 32000, 32000, 32000),
        "32,000 slices": (3, 2, 2, 32000),
        "no sides": (0, 7, 6, 5),
        "a side of nothing": (3, 7, 0, 5),
        "a negative side": (3, 7, -6, 5),
        "eight sides": (8, 7, 6, 5),
        "30,000 points in time": (4, 7, 6, 5, 30000),
        "a voxel of 30,000 numbers": (5, 7, 6, 5, 1, 30000),
    }
    plain = {name: patched(40, "<8h", *(*given, *[1] * (8 - len(given)))) for name, given in sides.items()} | {
        "a slope of nothing": patched(112, "<f", 0.0),
        "a negative slope": patched(112, "<f", -2.0),
        "a slope that is none": patched(112, "<f", NAN),
        "a slope without an end": patched(112, "<f", INFINITE),
        "a slope of 1e38": patched(112, "<f", 1e38),
        "voxels at nan": patched(108, "<f", NAN),
        "voxels at 1e30": patched(108, "<f", 1e30),
        "voxels in the header": patched(108, "<f", 0.0),
        "axes of nan": patched(280, "<12f", *[NAN] * 12),
        "axes of infinity": patched(280, "<12f", *[INFINITE] * 12),
        "axes of nothing": patched(280, "<12f", *[0.0] * 12),
        "axes of 1e38": patched(280, "<12f", *[1e38] * 12),
        "complex numbers": patched(70, "<2h", 32, 64),
        "an extension of 2 GB": nifti_bytes()[:348] + struct.pack("<4B2i", 1, 0, 0, 0, 2**31 - 16, 4) + nifti_bytes()[352:],
        "a header alone": nifti_bytes()[:352],
        "empty": b"",
    }  # fmt: skip
    huge = patched(40, "<8h", 3, 1000, 1000, 1000, 1, 1, 1, 1)[:352]
    packed: dict[str, Callable[[], bytes]] = {
        "a gzip bomb": lambda: gzip.compress(huge, 1) + 2000 * gzip.compress(bytes(1 << 20), 9),
        "a gzip bomb behind a small volume": lambda: gzip.compress(nifti_bytes(), 1) + 500 * gzip.compress(bytes(1 << 20), 9),
        "gzip in gzip": lambda: gzip.compress(gzip.compress(nifti_bytes())),
        "half of gzip": lambda: gzip.compress(nifti_bytes())[:-100],
        "gzip of nothing": lambda: gzip.compress(b""),
    }
    return (
        {name: written_to("a.nii", content) for name, content in plain.items()}
        | {f"{name}, packed": written_to("b.nii.gz", gzip.compress(content, mtime=0)) for name, content in plain.items()}
        | {name: written_to("b.nii.gz", content) for name, content in packed.items()}
        | {
            "20 GB of nothing": sparse("a.nii", nifti_bytes()[:352]),
            "a pipe": piped("a.nii"),
            "it leads out": linked("a.nii", "../outside/secret.png"),
            "it leads to itself": linked("a.nii", "a.nii"),
        }
    )


ODD_NIFTI = (
    "30,000 points in time", "a slope of nothing", "a negative slope", "a slope that is none", "a slope without an end",
    "a slope of 1e38", "an extension of 2 GB", "axes of nan", "axes of infinity", "axes of nothing", "axes of 1e38",
)  # fmt: skip


# dicom: with frames, and series


def plant_frames(folder: Path) -> None:
    (folder / "a.dcm").write_bytes(written(enhanced([3, 1, 4, 0, 2])))
    (folder / "b.dcm").write_bytes(written(frames_of(np.stack([PIXELS] * 3), PatientName=PATIENT)))


def frames_traps() -> dict[str, Plant]:
    def changed(change: Callable[[pydicom.Dataset], object]) -> Plant:
        def content() -> bytes:
            dataset = enhanced([3, 1, 4, 0, 2])
            change(dataset)
            return written(dataset)

        return written_to("a.dcm", content)

    def stating(value: str) -> Plant:
        return changed(lambda dataset: setattr(dataset, "NumberOfFrames", value))

    frames = ("0", "-1", "4", "6", "100000", "2147483647", "99999999999", "")
    return {f"{value or 'no'} frames": stating(value) for value in frames} | {
        "no group of a frame": changed(lambda one: delattr(one, "PerFrameFunctionalGroupsSequence")),
        "groups of nothing": changed(lambda one: setattr(one, "PerFrameFunctionalGroupsSequence", [])),
        "fewer groups": changed(lambda one: one.PerFrameFunctionalGroupsSequence.pop()),
        "empty groups": changed(lambda one: setattr(one, "PerFrameFunctionalGroupsSequence", [pydicom.Dataset()] * 5)),
        "frames in one place": changed(
            lambda one: setattr(one, "PerFrameFunctionalGroupsSequence", [one.PerFrameFunctionalGroupsSequence[0]] * 5)
        ),
        "fewer pixels": changed(lambda one: setattr(one, "PixelData", one.PixelData[:100])),
        "a side of 65,535": changed(lambda one: setattr(one, "Rows", 65535)),
    }


def plant_series(folder: Path) -> None:
    write_series(folder, "axial", PatientName=PATIENT)


def series_traps() -> dict[str, Plant]:
    def with_slice(**entries: Any) -> Plant:
        given = {"SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.99", "PatientID": "SECRET", **entries}
        plane = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [-6, -7, 5], "PixelSpacing": [1, 1]}
        return written_to("z.dcm", written(made(np.zeros((8, 7), np.int16), **plane | given)))

    return {
        "a slice far away": with_slice(ImagePositionPatient=[-6, -7, 999999]),
        "a slice at 1e30": with_slice(ImagePositionPatient=["1e30", "1e30", "1e30"]),
        "a slice in the place of another": with_slice(ImagePositionPatient=[-6, -7, 1]),
        "a slice of no direction": with_slice(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
        "a slice of long directions": with_slice(ImageOrientationPatient=["1e20", 0, 0, 0, "1e20", 0]),
        "a slice without pixels": with_slice(PixelData=b""),
        "a slice of two numbers": with_slice(ImagePositionPatient=[1, 2]),
        "an instance of 10 ^ 11": with_slice(InstanceNumber="99999999999"),
    }


# medmnist: with volumes


def volumes(**changes: Any) -> bytes:
    count = {"train": 6, "val": 2, "test": 3}
    arrays = {f"{key}_images": np.zeros((number, 5, 6, 7), np.uint8) + 9 for key, number in count.items()}
    return npz(**arrays | changes)


def volume_traps() -> dict[str, Plant]:
    contents = {
        "10 ^ 5 slices": lambda: volumes(train_images=shaped(6, 100_000, 6, 7)),
        "2 ^ 40 slices": lambda: volumes(train_images=shaped(6, 2**40, 6, 7)),
        "no slices": lambda: volumes(train_images=np.zeros((6, 0, 6, 7), np.uint8)),
        "a negative number of slices": lambda: volumes(train_images=shaped(6, -5, 6, 7)),
        "five dimensions": lambda: volumes(train_images=np.zeros((6, 5, 6, 7, 2), np.uint8)),
        "volumes and images": lambda: volumes(test_images=np.zeros((3, 6, 7), np.uint8)),
        "a bomb of volumes": lambda: volumes(train_images=np.zeros((6, 400, 400, 400), np.uint8)),
        "fewer bytes": lambda: volumes(train_images=shaped(6, 5, 6, 7, body=bytes(100))),
        "floats": lambda: volumes(train_images=np.full((6, 5, 6, 7), NAN)),
    }
    return {name: written_to("a.npz", content) for name, content in contents.items()}


# dicomweb:


def plant_answers(folder: Path) -> None:
    from tests.data.dicomweb.hostile import entry  # noqa: PLC0415 (the door exists only if its extra is installed)

    image = written(made(PIXELS, PatientName=PATIENT, SOPInstanceUID="1.2.0"))
    (folder / "studies.json").write_text(json.dumps([entry(study="1.3.0", patient=PATIENT, date="20240102")]))
    (folder / "instances.json").write_text(json.dumps([entry(uid="1.2.0", series="1.4", modality="DX", frames=1)]))
    (folder / "file.multipart").write_bytes(b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + image + b"\r\n--b0--\r\n")


def ask_answers(folder: Path) -> object:
    from tests.data.dicomweb.hostile import Handler, serving  # noqa: PLC0415

    def answer(handler: Handler) -> None:
        path, query = handler.asks
        if "/series/" in path:
            handler.reply(
                (folder / "file.multipart").read_bytes(), 'multipart/related; type="application/dicom"; boundary="b0"'
            )
        elif query.get("offset", ["0"]) != ["0"]:
            handler.reply_json([])
        else:
            name = "instances.json" if path.endswith("/instances") else "studies.json"
            handler.reply((folder / name).read_bytes())

    with serving(answer) as server:
        return strictly(f"dicomweb:{server.url}")


FRAMES: dict[str, Any] = {
    "10 ^ 9": 10**9,
    "10 ^ 40": 10**40,
    "20,000": 20_000,
    "-3": -3,
    "no number of": "x",
    "a list of": [[3]],
}


def frames_listed(count: Any) -> str:
    from tests.data.dicomweb.hostile import entry  # noqa: PLC0415

    return json.dumps([entry(uid="1.2.0", series="1.4", modality="DX", frames=count)])


def answers_traps() -> dict[str, Plant]:
    lists: dict[str, str | bytes] = {
        "brackets": "[" * 100_000,
        "braces": '[{"a":' * 100_000,
        "nothing": "[]",
        "null": "null",
        "a list of null": "[null]",
        "a page to sign in": "<html>",
        "nul bytes": bytes(100),
        "an integer of 10,000 digits": '[{"00080018": {"Value": [' + "9" * 10_000 + "]}}]",
        "40 MB": "[" + " " * 40_000_000 + "]",
        "a UID of a path": '[{"00080018": {"Value": ["../../x"]}, "0020000D": {"Value": ["../../x"]}}]',
        "half a letter": '[{"00080018": {"Value": ["\\ud800"]}, "0020000D": {"Value": ["\\ud800"]}}]',
    }
    bodies = {
        "no part": b"--b0--\r\n",
        "another boundary": b"--b1\r\n\r\nDICM\r\n--b1--\r\n",
        "a part that does not end": b"--b0\r\n\r\n" + bytes(1000),
        "a part of nothing": b"--b0\r\n\r\n\r\n--b0--\r\n",
        "a header of 5 MB": b"--b0\r\nX: " + b"a" * 5_000_000 + b"\r\n\r\n\r\n--b0--",
        "a million boundaries": b"--b0\r\n" * 1_000_000,
        "another image": b"--b0\r\n\r\n" + written(made(PIXELS, SOPInstanceUID="1.2.9")) + b"\r\n--b0--\r\n",
    }
    return (
        {f"{name} as studies": written_to("studies.json", text) for name, text in lists.items()}
        | {f"{name} as images": written_to("instances.json", text) for name, text in lists.items()}
        | {name: written_to("file.multipart", body) for name, body in bodies.items()}
        | {f"{name} frames in the list": written_to("instances.json", frames_listed(count)) for name, count in FRAMES.items()}
    )


DOORS: tuple[Door, ...] = (
    Door(
        "DICOM with frames",
        plant_frames,
        lambda folder: strictly(f"dicom:{folder}"),
        frames_traps,
        # Frames are read as they were acquired, and so need no places.
        fine={"no group of a frame", "groups of nothing", "empty groups", "frames in one place"},
    ),
    Door(
        "a DICOM series",
        plant_series,
        lambda folder: in_planes(f"dicom:{folder}"),
        series_traps,
        fine={"an instance of 10 ^ 11"},
    ),
    Door(
        "MedMNIST of volumes",
        written_to("a.npz", volumes),
        lambda folder: in_planes(f"medmnist:{folder / 'a.npz'}"),
        volume_traps,
        mutated_packed,
    ),
)
if find_spec("nibabel"):
    DOORS += (
        Door(
            "NIfTI",
            plant_nifti,
            lambda folder: in_planes(f"nifti:{folder}"),
            nifti_traps,
            mutated_packed,
            fine={*ODD_NIFTI, *(f"{name}, packed" for name in ODD_NIFTI), "a gzip bomb behind a small volume"},
        ),
    )
if find_spec("dicomweb_client"):
    # What is no number of frames says nothing, and the file has one.
    no_numbers = {f"{name} frames in the list" for name in ("10 ^ 40", "-3", "no number of", "a list of")}
    DOORS += (Door("a PACS", plant_answers, ask_answers, answers_traps, fine=no_numbers),)
