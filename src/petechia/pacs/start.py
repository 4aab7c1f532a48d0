"""Starts a watch: its folder, its model and clean images, and how it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import FrameType

from petechia.core import files
from petechia.core.errors import PetechiaError
from petechia.core.progress import Progress
from petechia.data.sources.dicomweb import read_source
from petechia.detect.collection import Images, collect, described
from petechia.detect.protocol import Calibration, ImagesUnderTest
from petechia.detect.screen import ImageScreen
from petechia.detect.screen.detector import CLEAN
from petechia.models.classifier import Classifier
from petechia.pacs.health import Health, HealthServer
from petechia.pacs.journal import Journal
from petechia.pacs.reports import ModelScreened
from petechia.pacs.result import Round
from petechia.pacs.watching import Watch

CALIBRATION = "calibration.json"
PRIVATE = 0o700  # the journal says which studies were suspicious
KIND = "dicomweb"
CHOOSING = ("modality", "days", "date", "description")  # options that choose images
ROUNDS, LEAST = 10, 600.0  # rounds, or seconds if that is more, without progress, after which a watch is not healthy


def watch_pacs(
    source: str,
    classifier: Classifier,
    clean: Images,
    folder: Path,
    fpr: float,
    target: str | None,
    interval: float,
    once: bool,
    port: int | None,
    started: Callable[[str], None] | None,
    say: Callable[[str], None],
    progress: Progress,
) -> Round:
    """Watch a PACS; see `petechia.watch`."""
    kind, _, text = source.partition(":")
    if kind != KIND or not text:
        raise PetechiaError("A watch needs a PACS; give dicomweb:URL, as in dicomweb:https://pacs.example/dicom-web.")
    pacs, options = read_source(source, text)
    if unused := options.model_fields_set.difference(CHOOSING):
        raise PetechiaError(
            f"{min(unused)}= in {source!r} is not for a watch; choose images with {', '.join(f'{one}=' for one in CHOOSING)}."
        )
    model = _digested(classifier)
    about = {"model": model.digest, "--clean": described(clean), "--fpr": fpr, "--target": target, "PACS": pacs.url}
    with ExitStack() as stack:
        if not folder.is_dir():
            files.make_folder(folder)
            folder.chmod(PRIVATE)
        stack.enter_context(files.locked(folder))
        journal = stack.enter_context(closing(Journal(folder, about, (CALIBRATION,))))
        journal.forget_failed()
        health = Health(max(LEAST, ROUNDS * interval))
        if port is not None:
            server = stack.enter_context(closing(HealthServer(health, port)))
            if started is not None:
                started(server.url)
        screen, calibration = _fitted(classifier, clean, folder / CALIBRATION, fpr, target, progress)
        watch = Watch(pacs, options.query, classifier, model, screen, calibration, journal, health, say)
        if once:
            return watch.round()
        with _until_told():
            watch.forever(interval)
        return watch.total


def _digested(classifier: Classifier) -> ModelScreened:
    name, digest = classifier.identified()
    return ModelScreened(name, digest or sha256(name.encode()).hexdigest())


def _fitted(
    classifier: Classifier, clean: Images, file: Path, fpr: float, target: str | None, progress: Progress
) -> tuple[ImageScreen, Calibration]:
    """The screen and its calibration, which is measured once and kept in a file."""
    progress.phase("reading clean images")
    trusted = collect(clean, classifier, CLEAN, progress).images
    screen = ImageScreen(fpr, target, clean=trusted)
    if file.exists():
        return screen, Calibration.load(file)
    calibration = screen.calibrate([ImagesUnderTest(classifier, trusted)], progress)
    calibration.save(file)
    return screen, calibration


@contextmanager
def _until_told() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the block at once: what was not finished is done by the next watch."""
    main = threading.current_thread() is threading.main_thread()  # no other thread may set what a signal does
    before = signal.signal(signal.SIGTERM, _interrupt) if main else None
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
