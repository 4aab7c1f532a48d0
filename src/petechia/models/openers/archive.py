"""The file of a program of `torch.export`: its JSON, and its tensors as raw bytes. Nothing in it is unpickled."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petechia.core.archives import open_zip, refuse_second_list
from petechia.core.budget import check, check_file
from petechia.core.errors import PetechiaError, printable
from petechia.models.openers.operations import NUMBERS
from petechia.models.openers.weights import refuse_allocations, refuse_packed, refuse_shared

MAJOR = 8  # supported major version of the program schema
MODEL, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/", "data/constants/"


class Archive:
    """The file of a program.

    Attributes:
        path: path of the file.
        program: content of its JSON.

    Raises:
        PetechiaError: the file is compressed, contains compiled code or pickled tensors, or has another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = check_file(path, "model_bytes", "check the path of the model")
        self._zip = open_zip(path, "export the model again")
        entries = self._zip.infolist()
        self._root = entries[0].filename.partition("/")[0] + "/"
        self._entries = {one.filename.removeprefix(self._root): one for one in entries}
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise PetechiaError(f"{path} is compressed, but torch.export.save does not compress; export the model again.")
        refuse_packed(self._zip, self._bytes, str(path))
        if "archive_format" not in self._entries or MODEL not in self._entries:
            raise PetechiaError(
                f"{path} is not a program that torch.export.save of PyTorch 2.8 or newer wrote; export the model again."
            )
        self.program = self._json(MODEL)
        if self.program["schema_version"]["major"] != MAJOR:
            raise PetechiaError(
                f"{path} was written by another version of torch.export; export the model with PyTorch {torch.__version__}."
            )
        self._used = self._elements = 0
        self._about: dict[str, Any] = {}
        for folder in (CONSTANTS, WEIGHTS):
            self._about |= {name: (folder, about) for name, about in self._config(folder).items()}

    def tensor(self, name: str) -> Tensor:
        """Return a weight or a constant.

        Raises:
            PetechiaError: the tensor is pickled, or the tensors so far are larger than the file can hold.
        """
        folder, about = self._about[name]
        if isinstance(about, Tensor):
            self._count(about.numel(), about.element_size())
            return about.detach().clone()
        file, meta = f"{folder}{about['path_name']}", about["tensor_meta"]
        if about["use_pickle"] or meta is None or not str(about["path_name"]).startswith(("weight_", "tensor_")):
            raise PetechiaError(
                f"{self.path} holds {printable(name)} as a pickle, which can run arbitrary code when loaded; "
                f"export the model to ONNX."
            )
        number = NUMBERS[meta["dtype"]]
        size, stride = ([side["as_int"] for side in meta[sides]] for sides in ("sizes", "strides"))
        self._count(math.prod(size), number.itemsize)
        content = bytearray(self._zip.read(self._entries[file]))
        flat = torch.frombuffer(content, dtype=number) if content else torch.empty(0, dtype=number)
        return flat.as_strided(size, stride, meta["storage_offset"]["as_int"]).clone()

    def _count(self, elements: int, itemsize: int) -> None:
        self._used += elements * itemsize
        self._elements += elements
        refuse_shared(self._used, self._bytes, str(self.path))
        check("model_elements", self._elements, f"{self.path} describes {self._elements:,} weights", "export the model again")

    def _config(self, folder: str) -> dict[str, Any]:
        """Name of a tensor → its description, or the tensor itself in files of PyTorch 2.8."""
        whole = f"{folder}model.pt"
        if whole in self._entries:
            content = io.BytesIO(self._zip.read(self._entries[whole]))
            name = f"{whole} in {self.path}"
            with zipfile.ZipFile(content) as inner:
                refuse_second_list(inner, content, name, "export the model again")
                refuse_packed(inner, len(content.getbuffer()), name)
                refuse_allocations(inner, name)
            content.seek(0)
            found = torch.load(content, "cpu", weights_only=True)
            return {str(name): tensor.detach() for name, tensor in found.items()}
        part = "weights" if folder == WEIGHTS else "constants"
        return dict(self._json(f"{folder}model_{part}_config.json")["config"])

    def _json(self, name: str) -> dict[str, Any]:
        entry = self._entries[name]
        claim = f"{self.path} describes itself in {entry.file_size:,} bytes of text"
        check("model_card", entry.file_size, claim, "export the model again")
        return dict(json.loads(self._zip.read(entry)))
