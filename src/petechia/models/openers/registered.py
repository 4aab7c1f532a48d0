"""Models of an MLflow registry.

The files of a version are copied into a private folder, and opened if they are of a kind that needs no pickle. MLflow's own
loaders, which unpickle and import, are never called.
"""

from __future__ import annotations

import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, first_line, listing, printable, without_credentials
from petechia.core.files import sha256
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers.card import PICKLES, Card
from petechia.models.openers.clip import CONFIG as CLIP_CONFIG
from petechia.models.openers.clip import open_clip_model
from petechia.models.openers.huggingface import CONFIG, PROCESSOR, of_folder
from petechia.models.openers.networks import of_timm, open_encoder
from petechia.models.registry import OPENERS

PREFIX = "mlflow:"
BARS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
SUFFIXES = (".safetensors", ".onnx", ".pt2")
FORM = re.compile(r"(?P<name>[^/:@]+)(/(?P<version>[0-9]{1,18})|@(?P<alias>[^/:@]+))")
SAFE = (
    "register it as ONNX (mlflow.onnx), as a transformers model with safetensors (mlflow.transformers), or a folder with a "
    ".safetensors file"
)


class Version(NamedTuple):
    """A version of a registered model.

    Attributes:
        name: of the model.
        version: its number, as MLflow writes it.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}/{self.version}"


def open_registered(text: str, runtime: Runtime) -> Classifier:
    """MODEL/VERSION or MODEL@ALIAS of the registry that MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI names.

    Raises:
        PetechiaError: MLflow is not installed, the registry does not have the version, it is larger than `model_bytes`, or it
            contains no model that is opened without running its code, or several.
    """
    found = find_version(PREFIX + text)
    private = TemporaryDirectory(prefix="petechia-")
    try:
        folder = _downloaded(found, Path(private.name))
        classifier = _opened(found, folder, runtime)
    except BaseException:
        private.cleanup()
        raise
    weakref.finalize(classifier.answer, private.cleanup)  # an ONNX model is read again when its worker is started again
    return classifier


def find_version(model: str) -> Version:
    """Return the version that "mlflow:MODEL/VERSION" or "mlflow:MODEL@ALIAS" means now.

    Raises:
        PetechiaError: MLflow is not installed, or its registry cannot be reached or does not have the version.
    """
    match = FORM.fullmatch(model.removeprefix(PREFIX))
    if not model.startswith(PREFIX) or match is None:
        raise PetechiaError(f"{printable(model, 200)} is not mlflow:MODEL/VERSION or mlflow:MODEL@ALIAS.")
    name, version, alias = match["name"], match["version"], match["alias"]
    client = registry(model)
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except Exception as error:  # MLflow raises many types
        raise PetechiaError(f"The MLflow registry does not have {printable(model, 200)} ({first_line(error)}).") from None
    return Version(name, str(found.version))


def registry(model: str) -> Any:
    """Return a client of the MLflow registry.

    Args:
        model: what it is needed for, for messages.

    Raises:
        PetechiaError: MLflow is not installed, nothing says which registry is meant, or it cannot be used.
    """
    if find_spec("mlflow") is None:
        raise PetechiaError(f"{printable(model, 200)} needs MLflow, which is not installed; install petechia[track].")
    import mlflow as module

    mlflow: Any = module
    if not (mlflow.is_tracking_uri_set() or os.environ.get("MLFLOW_REGISTRY_URI")):  # MLflow would make a new one here
        raise PetechiaError(f"{printable(model, 200)} needs the address of the registry; set MLFLOW_TRACKING_URI.")
    uri = without_credentials(mlflow.get_registry_uri())
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.is_file():  # likewise
        raise PetechiaError(f"The MLflow registry {uri} cannot be used: there is no file {file}; check MLFLOW_TRACKING_URI.")
    try:
        return mlflow.MlflowClient()
    except Exception as error:  # of a scheme that MLflow does not know, or a database whose driver is not installed
        raise PetechiaError(
            f"The MLflow registry {uri} cannot be used ({first_line(error)}); check MLFLOW_TRACKING_URI."
        ) from None


def _downloaded(found: Version, private: Path) -> Path:
    """Copy the files of a version into a private folder."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        store: Any = get_artifact_repository(f"models:/{found.name}/{found.version}")
        sizes = dict(_listed(store, ""))
        check("model_bytes", sum(sizes.values()), f"{found} has {sum(sizes.values()):,} bytes", "register less")
        if not any(name.endswith(SUFFIXES) for name in sizes):
            raise _nothing_to_open(found, [*sizes])
        with _quiet():
            return Path(store.download_artifacts("", dst_path=str(private)))
    except PetechiaError:
        raise
    except Exception as error:
        raise PetechiaError(f"The files of {found} cannot be read ({first_line(error)}); check the artifact store.") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from drawing progress bars of its own."""
    before = os.environ.get(BARS)
    os.environ[BARS] = "false"
    try:
        yield
    finally:
        os.environ.pop(BARS)
        os.environ |= {} if before is None else {BARS: before}


def _listed(store: Any, folder: str, depth: int = 0) -> Iterator[tuple[str, int]]:
    """Yield the names and sizes of files in an artifact store."""
    for one in store.list_artifacts(folder or None) if depth < 10 else ():
        if one.is_dir:
            yield from _listed(store, one.path, depth + 1)
        else:
            yield one.path, one.file_size or 0


def _nothing_to_open(found: Version, names: list[str]) -> PetechiaError:
    pickles = sorted(name for name in names if name.lower().endswith(PICKLES))
    what = f"only {listing(pickles, 2)}, a pickle, which can run arbitrary code when loaded" if pickles else "no model"
    return PetechiaError(f"{found} contains {what}; {SAFE}.")


def _opened(found: Version, folder: Path, runtime: Runtime) -> Classifier:
    openers = dict(_candidates(folder, runtime, str(found)))
    if not openers:
        raise _nothing_to_open(found, [str(path.relative_to(folder)) for path in folder.rglob("*")])
    if len(openers) > 1:
        names = [str(path.relative_to(folder)) for path in openers]
        raise PetechiaError(f"{found} contains several models ({listing(names, 4)}); register each alone.")
    ((path, opener),) = openers.items()
    classifier = opener()
    return replace(classifier, name=str(found), title=None, digest=classifier.digest or sha256(path))


def _candidates(folder: Path, runtime: Runtime, name: str) -> Iterator[tuple[Path, Callable[[], Classifier]]]:
    """Yield folders and files that may be models, with what opens them."""
    for path, _, names in os.walk(folder):
        place = Path(path)
        models = sorted(one for one in names if one.endswith(SUFFIXES))
        if not models:
            continue
        if CLIP_CONFIG in names:
            yield place, lambda place=place: open_clip_model(str(place), runtime)  # type: ignore[misc]
        elif CONFIG in names:
            _with_processor(place, folder)
            yield place, lambda place=place: of_folder(place, runtime, name)  # type: ignore[misc]
        elif "encoder.safetensors" in names:
            yield place, lambda place=place: open_encoder(str(place), runtime)  # type: ignore[misc]
        else:
            for one in models:
                yield place / one, lambda path=place / one: _of_file(path, runtime)  # type: ignore[misc]


def _of_file(path: Path, runtime: Runtime) -> Classifier:
    card = Card.beside(path)
    if path.suffix == ".safetensors" and card.arch:
        return of_timm(card.arch, path, runtime)
    return OPENERS[path.suffix].open(str(path), runtime)


def _with_processor(place: Path, folder: Path) -> None:
    """Put the preprocessing beside the network, from where MLflow's transformers flavour has it."""
    found = sorted(folder.glob(f"components/*/{PROCESSOR}"))
    if len(found) == 1 and not (place / PROCESSOR).exists():
        shutil.copyfile(found[0], place / PROCESSOR)
