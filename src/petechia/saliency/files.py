"""Explain image files: overlays, raw maps and a JSON with what the model says and where it looks most."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError, alternatives, listing
from petechia.core.files import building, refuse_existing
from petechia.core.progress import SILENT, Progress
from petechia.core.version import __version__
from petechia.data.catalog import Catalog, Reader
from petechia.data.formats.dicom import is_dicom
from petechia.data.formats.images import Decoding, FileReader, encode_png, read_image_file
from petechia.data.formats.secondary_capture import secondary_capture
from petechia.data.formats.slices import SliceReader
from petechia.data.levels import in_colour
from petechia.data.not_read import EVERYTHING_READ, Files, Reason
from petechia.data.preprocess import Box
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.saliency.activation_maps import Explainer
from petechia.saliency.localisation import peak
from petechia.saliency.overlays import overlay
from petechia.saliency.registry import METHODS, LayerMethod, ScoreMethod, score_methods
from petechia.saliency.result import ExplainedClass, ExplainedImage, Explanations, LayerMap, Place

INPUT = "input"  # the layer of methods for black boxes
LONGEST = 60  # characters of a class, an image or a layer in the name of a file
SURE = 1 - 1e-5  # score from which a sigmoid inside a network leaves no gradient
NO_HEAT = "No heat: nothing at this layer speaks for the class."
UNTOLD = "No heat: nothing at this layer speaks for the class, or a sigmoid in the network hides it: the score is almost 1."
Content = Callable[[], bytes]  # gives the content of a file
Mapped = tuple[
    NDArray[np.float32], list[int], dict[str, NDArray[np.float32]]
]  # probabilities [K], T classes, layer → maps [T, h, w]
Mapper = Callable[[torch.Tensor], Mapped]  # of one image, float32 [1, C, H, W]
Images = Sequence[Path | NDArray[np.uint8]] | Catalog


@dataclass(frozen=True)
class Request:
    """How to explain.

    Attributes:
        targets: names of the classes; none: each image's class of the highest score.
        layers: as in `explain`; methods for black boxes have none.
        method: one of `METHODS`.
        dicom: whether to write overlays as DICOM secondary captures too.
    """

    targets: Sequence[str] = ()
    layers: Sequence[str] | None = None
    method: str = "gradcam"
    dicom: bool = False


def explain_files(
    classifier: Classifier,
    images: Images,
    out: Path | None,
    request: Request,
    progress: Progress = SILENT,
) -> Explanations:
    """Explain images one by one and write a new folder.

    For every image, class and layer there are `NAME-CLASS-LAYER.png`, the heat over the image as it is in the file, and
    `NAME-CLASS-LAYER.npy`, the map, float32 [h, w]; with `dicom` also `NAME-CLASS-LAYER.dcm`.

    Args:
        classifier: the model; a black box only with a method that needs no layers.
        images: PNG, JPEG, TIFF or DICOM files, or decoded images, uint8 [H, W] or [H, W, 3]; or a catalog, of which images that
            cannot be decoded are left out and named in `not_read`.
        out: the folder, which must not exist; None writes nothing, and `save` of the result writes all of it.
        request: how.
        progress: told of every image.

    Returns:
        The content of `explanations.json`.

    Raises:
        PetechiaError: the model or an image cannot be read, or the model has no such class or layer.
    """
    if out is not None:
        refuse_existing(out)
    if request.method not in METHODS:
        raise PetechiaError(f"{request.method!r} is not a method; the methods are {', '.join(METHODS)}.")
    method = METHODS[request.method]
    if classifier.network is None and method.needs_network:
        others = alternatives(score_methods())
        raise PetechiaError(f"{classifier.name} is a black box, without layers to look into; give --method {others}.")
    targets = [_class_index(classifier, name) for name in request.targets]
    if out is None:
        made: dict[str, Content] = {}
        found = _explain_all(classifier, images, targets, request, made.__setitem__, progress)
        for name, content in made.items():
            found.attach(name, content)
        return found
    with building(out) as folder:

        def write(name: str, content: Content) -> None:
            (folder / name).write_bytes(content())

        found = _explain_all(classifier, images, targets, request, write, progress)
        (folder / found.file_name).write_text(found.to_json(), encoding="utf-8")
    return found


class _Picture(NamedTuple):
    """An image to explain.

    Attributes:
        name: in results.
        stem: beginning of the names of its files.
        read: returns the image, uint8 [H, W] or [H, W, 3], or the error that leaves it out.
        content: returns the content of its file; b"" if it has none.
    """

    name: str
    stem: str
    read: Callable[[], NDArray[np.uint8] | PetechiaError]
    content: Content


def _pictures(images: Images, colour: bool) -> list[_Picture]:
    """The images, in order; the stems differ."""
    if isinstance(images, Catalog):
        found = [_in_catalog(name, row, images.reader) for row, name in enumerate(images.ids.tolist())]
    else:
        found = [_given(one, f"image_{number}", Decoding(colour)) for number, one in enumerate(images, 1)]
    stems = _unique([one.stem for one in found])
    return [one._replace(stem=stem) for one, stem in zip(found, stems, strict=True)]


def _given(image: Path | NDArray[np.uint8], name: str, decoding: Decoding) -> _Picture:
    if not isinstance(image, Path):
        return _Picture(name, name, lambda: image, bytes)
    content = partial(read_image_file, image)
    return _Picture(str(image), image.stem, lambda: decoding.decode(content(), str(image)), content)


def _in_catalog(name: str, row: int, reader: Reader) -> _Picture:
    def read() -> NDArray[np.uint8] | PetechiaError:
        return next(iter(reader.read(np.array([row]))))

    def content() -> bytes:
        return read_image_file(reader.path(row)) if isinstance(reader, FileReader | SliceReader) else b""

    return _Picture(name, name, read, content)


def _explain_all(
    classifier: Classifier,
    images: Images,
    targets: list[int],
    request: Request,
    keep: Callable[[str, Content], None],
    progress: Progress,
) -> Explanations:
    explained, unread, first = [], Files(), None
    maps_of = _mapper(classifier, targets, request)
    for picture in _pictures(images, classifier.colour):
        image = picture.read()
        if isinstance(image, PetechiaError):
            first = first or image
            unread.add(Reason.DAMAGED, picture.name)
        else:
            explained.append(_explain_one(classifier, picture, image, maps_of, request, keep))
        progress.advance()
    if not explained and first:
        raise PetechiaError(f"None of the {len(images):,} images can be read; the first problem: {first}")
    source = images if isinstance(images, Catalog) else None
    return Explanations(
        petechia=__version__,
        model=_described(classifier),
        method=request.method,
        images=tuple(explained),
        not_read=source.not_read + unread.frozen if source else EVERYTHING_READ,
        warnings=source.notes if source else (),
    )


def _described(classifier: Classifier) -> dict[str, Any]:
    """What is known of a model: of Petechia's own, all that its file says."""
    name = {"file" if Path(classifier.name).is_file() else "name": classifier.public_name}
    if isinstance(classifier.network, Model):
        return {**name, **classifier.network.description.model_dump(mode="json")}
    return {**name, "classes": list(classifier.classes), "preprocess": classifier.preprocess.model_dump(mode="json")}


def _class_index(classifier: Classifier, name: str) -> int:
    if name not in classifier.classes:
        raise PetechiaError(f"The model has no class {name!r}; its classes are {listing(classifier.classes, 20)}.")
    return classifier.classes.index(name)


def _unique(names: list[str]) -> list[str]:
    """Names that can be files' and differ."""
    found: dict[str, None] = {}
    for name in map(_file_name, names):
        number, free = 2, name
        while free in found:
            number, free = number + 1, f"{name}-{number}"
        found[free] = None
    return list(found)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text).strip(".")[:LONGEST] or "_"


def _explain_one(
    classifier: Classifier,
    picture: _Picture,
    image: NDArray[np.uint8],
    maps_of: Mapper,
    request: Request,
    keep: Callable[[str, Content], None],
) -> ExplainedImage:
    batch = classifier.tensor(classifier.prepare(image)[None])
    scores, classes, maps = maps_of(batch)
    if not all(np.isfinite(one).all() for one in (scores, *maps.values())):
        raise PetechiaError(f"{classifier.name} answers {picture.name} with NaN or infinity, so nothing can be explained.")
    explained = []
    kept = classifier.preprocess.kept(*image.shape[:2])
    stems, layer_stems = _unique(list(classifier.classes)), dict(zip(maps, _unique(list(maps)), strict=True))
    for row, index in enumerate(classes):
        label = classifier.classes[index]
        layers = {}
        for layer, found in maps.items():
            stem = f"{picture.stem}-{stems[index]}-{layer_stems[layer]}"
            words = f"{request.method} of layer {layer} for class {label}, score {scores[index]:.3f}, by Petechia"
            for suffix, made in _files(image, kept, found[row], words, picture.content, request.dicom).items():
                keep(stem + suffix, made)
            layers[layer] = _describe(stem, kept, found[row], float(scores[index]))
        explained.append(ExplainedClass(class_=label, score=float(scores[index]), layers=layers))
    named = dict(zip(classifier.classes, map(float, scores), strict=True))
    height, width = image.shape[:2]
    return ExplainedImage(file=picture.name, height=height, width=width, scores=named, explained=tuple(explained))


def _mapper(classifier: Classifier, targets: list[int], request: Request) -> Mapper:
    method = METHODS[request.method]
    if isinstance(method, LayerMethod):
        return _by_layers(classifier, targets, request)
    return _by_answers(classifier, targets, method)


def _by_layers(classifier: Classifier, targets: list[int], request: Request) -> Mapper:
    runtime = classifier.runtime
    with runtime.autocast():
        explainer = Explainer(classifier.require_network(), request.layers, request.method, runtime.recorder)

    def maps_of(batch: torch.Tensor) -> Mapped:
        found = explainer(batch, [targets] if targets else None)
        maps = {layer: one.cpu().numpy().reshape(-1, *one.shape[-2:]) for layer, one in found.maps.items()}
        return found.logits[0].sigmoid().cpu().numpy(), found.targets.flatten().tolist(), maps

    return maps_of


def _by_answers(classifier: Classifier, targets: list[int], method: ScoreMethod) -> Mapper:
    def classify(images: torch.Tensor) -> torch.Tensor:
        return classifier.logits(images).sigmoid().to(images.device)

    def maps_of(batch: torch.Tensor) -> Mapped:
        with torch.inference_mode():
            scores = classify(batch)[0]
            classes = targets or [int(scores.argmax())]
            heat = method.heat(classify, batch.repeat(len(classes), 1, 1, 1), torch.tensor(classes))
        return scores.cpu().numpy(), classes, {INPUT: heat.cpu().numpy()}

    return maps_of


def _files(
    image: NDArray[np.uint8], kept: Box, heat: NDArray[np.float32], words: str, content: Content, dicom: bool
) -> dict[str, Content]:
    """Suffix of a file → what gives its content."""

    def raw() -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, heat)
        return buffer.getvalue()

    def picture() -> bytes:
        return encode_png(heat_on(image, heat, kept))

    def capture() -> bytes:
        source = content()
        return secondary_capture(heat_on(image, heat, kept), words, source if is_dicom(source) else None)

    return {".npy": raw, ".png": picture, **({".dcm": capture} if dicom else {})}


def heat_on(image: NDArray[np.uint8], heat: NDArray[np.float32], kept: Box) -> NDArray[np.uint8]:
    """A map, float32 [h, w], over the part that a model sees of an image, uint8 [H, W] or [H, W, 3]; uint8 [H, W, 3]."""
    picture = in_colour(image)
    seen = (slice(kept.top, kept.top + kept.height), slice(kept.left, kept.left + kept.width))
    picture[seen] = overlay(image[seen], heat)
    return picture


def _describe(stem: str, kept: Box, heat: NDArray[np.float32], score: float) -> LayerMap:
    height, width = heat.shape
    row, column = peak(heat[None])[0]
    place = None
    if not np.isnan(row):
        place = Place(row=float(kept.top + row * kept.height), column=float(kept.left + column * kept.width))
    return LayerMap(
        overlay=f"{stem}.png",
        map=f"{stem}.npy",
        cells=(height, width),
        hottest=float(heat.max()),
        peak=place,
        note="" if place else NO_HEAT if score < SURE else UNTOLD,
    )
