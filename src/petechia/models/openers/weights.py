"""Weights in files of others: read without running code, and matched to a network by their names.

PyTorch's weights-only unpickler reads pickles. It calls nothing but what builds tensors. What else training scripts store
beside the weights (arguments, NumPy numbers, paths) becomes an object without content, so that a checkpoint can be read
without trusting it.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from petechia.core.archives import open_zip
from petechia.core.budget import check, check_file
from petechia.core.errors import PetechiaError, first_line, listing, printable, shown
from petechia.models.openers.card import is_state, refuse_pickle

SLACK = 64 << 20  # bytes that weights may take beyond four times the file size, because tensors can share memory
PARTS = ("state_dict", "model_state_dict", "model", "model_state", "network", "net", "weights", "params")
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # kinds of weights
COUNTS = {torch.int32, torch.int64, torch.bool}  # of buffers
PICKLE = "data.pkl"  # of the archive of torch.save
ALLOCATION = b"\nbytearray\n"  # as a pickle names a function; PyTorch's reader allows this one
CONVERT = "write its state_dict with safetensors.torch.save_file"


class Inert:
    """Stands for an object of a checkpoint that is not a tensor. It keeps nothing and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Ignore all arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None:
        """Ignore the state."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read names and tensors from a file, as they are.

    Raises:
        PetechiaError: the file contains anything else, or describes more weights than it can hold.
    """
    if not path.is_file():
        raise PetechiaError(f"{path} is not a file; check the path of the weights.")
    size = check_file(path, "model_bytes", "check the path of the weights")
    if not is_state(path):
        refuse_pickle(path)
        try:
            return _bounded(load_file(path), size, path)
        except (OSError, SafetensorError) as error:
            raise PetechiaError(f"{path} is not a valid safetensors file ({first_line(error)}); save it again.") from None
    refuse_unsafe_zip(path, size)
    return _bounded(_part_of(_unpickled(path), path), size, path)


def _unpickled(path: Path) -> Any:
    try:
        with safe_globals([(type("Inert", (Inert,), {}), name) for name in _strangers(path)]):
            return torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise PetechiaError(f"{path} cannot be read ({error.strerror}); check the path of the weights.") from None
    except Exception:  # untrusted bytes can raise anything
        raise _not_weights(path) from None


def _strangers(path: Path) -> list[str]:
    """Return the names of classes and functions in a checkpoint that PyTorch would not call."""
    try:
        return get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # an older format, which PyTorch reads if it has no such names
        return []


def _not_weights(path: Path) -> PetechiaError:
    return PetechiaError(
        f"{path} is not a bare state dict, and any other pickle can run arbitrary code when loaded; if you trust it, {CONVERT}."
    )


def _part_of(found: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, which training scripts store under a key."""
    for _ in range(2):
        part = (
            next((found[key] for key in PARTS if isinstance(found.get(key), (dict, Inert))), None) if _is_dict(found) else None
        )
        found = found if part is None else part
    if isinstance(found, Inert):
        raise _not_weights(path)
    if not _is_dict(found) or not found or not all(isinstance(one, Tensor) for one in found.values()):
        keys = listing([str(key) for key in found], 8) if _is_dict(found) and found else ""
        has = f" ({keys})" if keys else ""
        raise PetechiaError(f"{path} contains more than weights{has}; save only the state_dict of the network.")
    if any(one.layout != torch.strided or one.is_quantized for one in found.values()):
        raise PetechiaError(f"{path} contains sparse or quantized tensors; save the weights as dense floating-point numbers.")
    return {str(name): tensor for name, tensor in found.items()}


def _is_dict(found: Any) -> bool:
    return isinstance(found, dict)


def _bounded(tensors: dict[str, Tensor], size: int, path: Path) -> dict[str, Tensor]:
    for name, one in tensors.items():
        if one.dtype not in FLOATS | COUNTS or one.is_meta or one.is_nested:
            what = "no numbers" if one.is_meta else "nested numbers" if one.is_nested else f"numbers of the kind {one.dtype}"
            raise PetechiaError(f"{path} has {what} in {shown(name)}; save it as 16- or 32-bit floating point.")
    elements = sum(one.numel() for one in tensors.values())
    refuse_shared(sum(one.numel() * one.element_size() for one in tensors.values()), size, str(path))
    check("model_elements", elements, f"{path} describes {elements:,} weights", "save the weights again")
    return tensors


def refuse_shared(described: int, stored: int, name: str) -> None:
    """Refuse tensors that repeat the same bytes, as those of stride 0 do: a small file would describe a giant network.

    Args:
        described: bytes that the tensors take together.
        stored: bytes of the file.
        name: name of the file, for the message.

    Raises:
        PetechiaError: the tensors take far more than the file.
    """
    if described > SLACK + 4 * stored:
        raise PetechiaError(f"{name} describes far more weights than it holds; save or export the model again.")


def refuse_unsafe_zip(path: Path, size: int) -> None:
    """Refuse an archive of weights that could unpack to a multiple of its size; torch.save does not compress.

    Raises:
        PetechiaError: the archive is compressed, or its members overlap.
    """
    try:
        with open_zip(path, "save the weights again") as file:
            refuse_packed(file, size, str(path))
            refuse_allocations(file, str(path))
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        with path.open("rb") as opened:
            if opened.read(2) == b"PK":  # PyTorch's own reader of archives could read it, unchecked
                raise _not_weights(path) from None
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else nullcontext(b"") as content:
                if ALLOCATION in content:
                    raise _not_weights(path) from None


def refuse_allocations(file: zipfile.ZipFile, name: str) -> None:
    """Refuse a pickle that takes memory that it does not fill.

    PyTorch's reader of weights calls `bytearray` with any number, and makes an object of every byte.

    Raises:
        PetechiaError: the archive holds such a pickle, or a huge one.
    """
    for member in file.infolist():
        if member.filename.lower().endswith(PICKLE):  # PyTorch ignores case
            claim = f"{name} describes its weights in {member.file_size:,} bytes"
            check("model_card", member.file_size, claim, "save only the state_dict of the network")
            if ALLOCATION in file.read(member):
                raise PetechiaError(
                    f"{name} contains more than weights (a bytearray); save only the state_dict of the network."
                )


def refuse_packed(file: zipfile.ZipFile, size: int, name: str) -> None:
    """Refuse an archive whose members are compressed or share bytes.

    Args:
        file: the archive.
        size: its bytes.
        name: its name, for the message.

    Raises:
        PetechiaError: the archive is such a one, or has too many members.
    """
    entries = file.infolist()
    check("archive_members", len(entries), f"{name} has {len(entries):,} members", "save the weights again")
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
        raise PetechiaError(f"{name} is compressed, but torch.save does not compress; save the weights again.")
    if sum(one.file_size for one in entries) > size or len({one.header_offset for one in entries}) < len(entries):
        raise PetechiaError(f"{name} has members that share bytes, which no program writes; save the weights again.")


COUNTER = ".num_batches_tracked"
WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")  # what torch's are called
# What training programs call the loss beside the network, and its weights.
LOSS = re.compile(r"(criterion|loss|bce|ce|focal)(_\w+)?|\w+_(criterion|loss)|pos_weight|class_weights?", re.IGNORECASE)


class Matched(NamedTuple):
    """Weights under the names that a network has.

    Attributes:
        tensors: name → tensor.
        left: names in the file that belong to something else, such as a loss.
    """

    tensors: dict[str, Tensor]
    left: tuple[str, ...]


def match_names(tensors: Mapping[str, Tensor], wanted: Iterable[str], path: Path) -> Matched:
    """Strip what wrappers put before the names of weights: "module.", "_orig_mod.", "model.backbone." and so on, or mixtures.

    A name of the file belongs to the longest name of the network in which it ends. Where several do, those under the most
    frequent prefix are taken: it is that of the network. What wrappers put inside names is stripped, too, and the counters of
    batches, which older programs do not write, may lack: nothing reads them.

    Args:
        tensors: name in the file → tensor.
        wanted: names of the network.
        path: path of the file, for messages.

    Returns:
        All tensors of the file under their own names if no prefix makes them fit.

    Raises:
        PetechiaError: the file contains the network twice.
    """
    names = set(wanted)
    counters = {name for name in names if name.endswith(COUNTER)}
    tensors = _without_wrappers(tensors, names)
    found: dict[str, dict[str, str]] = {}  # name of the network → prefix → name in the file
    for own in tensors:
        if (name := _ending(own, names)) is not None:
            found.setdefault(name, {})[own[: len(own) - len(name)]] = own
    often = Counter(prefix for name, sources in found.items() if name not in counters for prefix in sources)
    if not names - counters <= found.keys():
        return Matched(_without_prefix(tensors, often), ())
    main = max(often, key=lambda prefix: (often[prefix], -len(prefix)))
    whole = sorted(prefix for prefix, count in often.items() if count == len(names - counters))
    if len(whole) > 1:
        raise PetechiaError(
            f"{path} contains the weights of the network {len(whole)} times, under {listing([shown(one) for one in whole])}; "
            f"save the one that you mean."
        )
    _refuse_ties({name: sources for name, sources in found.items() if main not in sources}, often, path)
    chosen = {name: _source(sources, main, often) for name, sources in found.items()}
    left = tuple(own for own in tensors if own not in set(chosen.values()))
    further = (own.removeprefix(main) for own in left if own.startswith(main))
    if not all(any(map(LOSS.fullmatch, own.split("."))) for own in further):  # the network has further layers
        return Matched({own.removeprefix(main): tensor for own, tensor in tensors.items()}, ())
    none = {name: torch.zeros((), dtype=torch.int64) for name in counters - chosen.keys()}
    return Matched({name: tensors[own] for name, own in chosen.items()} | none, left)


def _without_wrappers(tensors: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Strip what wrappers of parts of a network put inside names, where more of the name is the network's without it."""
    found: dict[str, Tensor] = {}
    for own, tensor in tensors.items():
        bare = ".".join(part for part in own.split(".") if part not in WRAPPERS)
        more = len(_ending(bare, names) or "") > len(_ending(own, names) or "") and bare not in tensors
        found[bare if more else own] = tensor
    return found


def _ending(own: str, names: set[str]) -> str | None:
    """Return the longest of the names that a dotted name ends in."""
    rest = own
    while rest not in names:
        _, dot, rest = rest.partition(".")
        if not dot:
            return None
    return rest


def _source(sources: Mapping[str, str], main: str, often: Counter[str]) -> str:
    if main in sources:
        return sources[main]
    return sources[max(sources, key=lambda prefix: (often[prefix], -len(prefix)))]


def _refuse_ties(found: Mapping[str, Mapping[str, str]], often: Counter[str], path: Path) -> None:
    """Refuse a file with several parts that fit one place of the network equally well, as of two heads.

    Raises:
        PetechiaError: there is such a part.
    """
    for name, sources in found.items():
        first, *others = sorted(sources, key=lambda prefix: -often[prefix])
        if others and often[others[0]] == often[first]:
            raise PetechiaError(
                f"{path} contains {listing([shown(sources[one]) for one in (first, *others)])}, which each fit {name!r} of the "
                f"network; save the part that you mean."
            )


def _without_prefix(tensors: Mapping[str, Tensor], often: Counter[str]) -> dict[str, Tensor]:
    """Strip the most frequent prefix, so that a message about what is missing speaks of the names of the network."""
    main = often.most_common(1)[0][0] if often else ""
    return {name.removeprefix(main): tensor for name, tensor in tensors.items()}


def unmatched(tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> str:
    """Return which names do not fit, in words, or an empty string if all do."""
    names = set(wanted)
    lacking = {name for name in names - tensors.keys() if not name.endswith(COUNTER)}  # counters of batches may lack
    missing, more = sorted(lacking), sorted(tensors.keys() - names)
    told = [f"it lacks {listing(missing, 3)}"] if missing else []
    told += [f"it has {listing(more, 3)}, which the network has not"] if more else []
    return printable(" and ".join(told), 600)
