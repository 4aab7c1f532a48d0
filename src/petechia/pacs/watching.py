"""Watches a PACS: lists its images, screens those that are new, and stores reports about those that are flagged."""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.dicomweb.pacs import Instance, InstanceError, Pacs, Query
from petechia.data.dicomweb.session import ForbiddenError, PacsAwayError
from petechia.data.formats.images import Decoding
from petechia.data.not_read import EVERYTHING_READ, Files
from petechia.detect.protocol import Calibration, ImagesUnderTest
from petechia.detect.screen import ImageScreen
from petechia.detect.screen.result import ScreenedImage
from petechia.models.classifier import Classifier
from petechia.pacs.health import Health
from petechia.pacs.journal import Journal
from petechia.pacs.reports import ModelScreened, is_own, make_picture, make_report, picture_place, report_place
from petechia.pacs.result import Round

BATCH = 8  # images that are screened at a time; their files are in memory
FIRST, LONGEST = 2.0, 300.0  # seconds until a PACS that is away is asked again, at first and at most
PUT_OFF, PUT_OFF_LONGEST = 60.0, 6 * 3600.0  # likewise for one image that it is at odds with


class _Fetched(NamedTuple):
    one: Instance
    content: bytes
    image: NDArray[np.uint8]
    shape: tuple[int, ...]


class Watch:
    """Screens what is new in a PACS.

    Args:
        pacs: the PACS.
        query: gives for a day which images are watched.
        classifier: the model.
        model: its name and digest.
        screen: the detector, which has the clean images.
        calibration: of the screen.
        journal: which images were screened.
        health: is told what happens.
        say: is told, in a sentence, of every image that is flagged or cannot be screened, and of a PACS that is away.

    Attributes:
        total: what all rounds brought.
    """

    def __init__(
        self,
        pacs: Pacs,
        query: Callable[[datetime.date], Query],
        classifier: Classifier,
        model: ModelScreened,
        screen: ImageScreen,
        calibration: Calibration,
        journal: Journal,
        health: Health,
        say: Callable[[str], None],
    ) -> None:
        self._pacs, self._query = pacs, query
        self._classifier, self._model = classifier, model
        self._screen, self._calibration = screen, calibration
        self._journal, self._health, self._say = journal, health, say
        self._unlisted = EVERYTHING_READ
        self._later: dict[str, tuple[int, float]] = {}  # SOPInstanceUID → how often it was put off, and until when
        self._stuck: list[PacsAwayError] = []  # since the last image that could be had
        self.total = Round()

    def forever(self, interval: float, chance: Callable[[], float] = random.random) -> NoReturn:
        """Work round after round. While the PACS is away, it is asked less and less often.

        Raises:
            PetechiaError: the PACS refuses, which waiting does not mend.
        """
        away = 0
        while True:
            try:
                self.round()
                away, wait = 0, interval
            except PacsAwayError as error:
                self._health.progress(up=False)
                wait = back_off(away, chance())
                away += 1
                self._say(f"{error} It is asked again in {wait:.0f} s.")
            time.sleep(wait)

    def round(self) -> Round:
        """List the images of the PACS, and screen those that are new.

        Raises:
            PacsAwayError: the PACS does not answer; what was screened until then is in the journal.
            PetechiaError: it refuses.
        """
        begun, before = time.monotonic(), self.total
        self._stuck = []
        files = Files()
        new = self._new(files)
        while some := list(islice(new, BATCH)):
            fetched = [one for one in map(self._fetch, some) if one is not None]
            self.total += self._examine(fetched) + Round(failed=len(some) - len(fetched))
        self.total += self._tell_unlisted(files)
        if self._stuck and self.total.screened == before.screened:
            raise self._stuck[-1]
        self._health.progress()
        self._health.rounds.inc()
        self._health.round_seconds.set(time.monotonic() - begun)
        return self.total - before

    def _new(self, files: Files) -> Iterator[Instance]:
        today = datetime.datetime.now().astimezone().date()
        for one in self._pacs.instances(self._query(today), files):
            self._health.progress()
            waits = self._later.get(one.uid, (0, 0.0))[1] > time.monotonic()
            if one.is_image and not waits and not is_own(one) and not self._journal.knows(one.uid):
                yield one

    def _tell_unlisted(self, files: Files) -> Round:
        """Tell of what is listed without a valid UID, where that is not what was told last."""
        before, self._unlisted = self._unlisted, files.frozen
        if self._unlisted == before or not self._unlisted:
            return Round()
        self._say(str(self._unlisted))
        new = max(self._unlisted.images - before.images, 0)
        self._health.failed.inc(new)
        return Round(failed=new)

    def _fetch(self, one: Instance) -> _Fetched | None:
        """Fetch and decode an image; None if that one cannot be had. If the PACS lets nobody in, it will refuse others, too."""
        if one.frames > 1:
            told = f"It has {one.frames:,} frames, and a watch screens images with one; use petechia screen MODEL dicomweb:URL."
            self._fail(one, PetechiaError(told))
            return None
        try:
            content = self._pacs.fetch(one)
        except InstanceError as error:
            self._fail(one, error)
            return None
        except PacsAwayError as error:
            self._raise_if_away(one, error)
            self._put_off(one, error)
            return None
        except ForbiddenError as error:  # of one image for good, or of all until somebody gives the right back
            self._put_off(one, error)
            return None
        self._stuck = []
        try:
            image = Decoding(self._classifier.colour).decode(content, one.uid)
        except PetechiaError as error:
            self._fail(one, error)
            return None
        return _Fetched(one, content, self._classifier.prepare(image), image.shape[:2])

    def _fail(self, one: Instance, error: PetechiaError) -> Round:
        self._journal.failed(one.uid, str(error))
        self._health.failed.inc()
        self._say(f"Not screened: {one.uid}. {error}")
        return Round(failed=1)

    def _raise_if_away(self, one: Instance, error: PacsAwayError) -> None:
        """Raise an error if the PACS does not answer otherwise, either, or not for one image after the other."""
        self._stuck.append(error)
        if len(self._stuck) > BATCH or not self._pacs.answers(one):
            raise error

    def _put_off(self, one: Instance, error: PetechiaError) -> None:
        """Leave an image to a later round, so that one that the PACS is at odds with does not stop the others."""
        times = self._later.get(one.uid, (0, 0.0))[0]
        self._later[one.uid] = times + 1, time.monotonic() + doubled(PUT_OFF, times, PUT_OFF_LONGEST)
        if not times:
            self._say(f"Put off: {one.uid}. {error}")

    def _examine(self, fetched: list[_Fetched]) -> Round:
        """Screen some images; if that fails, one by one, so that an image that the model fails on does not stop the others."""
        if not fetched:
            return Round()
        images = np.stack([one.image for one in fetched])
        shapes = np.array([one.shape for one in fetched], np.intp)
        subject = ImagesUnderTest(self._classifier, images, tuple(one.one.uid for one in fetched), shapes)
        try:
            found = self._screen.examine(subject, self._calibration).images
        except PetechiaError as error:
            if len(fetched) > 1:
                return sum((self._examine([one]) for one in fetched), Round())
            return self._fail(fetched[0].one, error)
        return sum(map(self._note, fetched, found), Round())

    def _note(self, fetched: _Fetched, found: ScreenedImage) -> Round:
        uid, report = fetched.one.uid, None
        if found.flagged:
            try:
                report = self._report(fetched, found)
            except InstanceError as error:
                return self._not_reported(fetched.one, found) + self._fail(fetched.one, error)
            except PacsAwayError as error:
                self._raise_if_away(fetched.one, error)
                self._put_off(fetched.one, error)
                return self._not_reported(fetched.one, found) + Round(failed=1)
            self._health.flagged.inc()
            self._say(f"Flagged: {uid}, {found.class_}, p = {found.p_value:.2g}; report {report}.")
        self._journal.screened(uid, found.flagged, found.suspicion, found.p_value, report)
        self._later.pop(uid, None)
        self._health.screened.inc()
        self._health.progress()
        return Round(1, int(found.flagged))

    def _not_reported(self, one: Instance, found: ScreenedImage) -> Round:
        self._say(f"Flagged, but not reported: {one.uid}, {found.class_}, p = {found.p_value:.2g}.")
        return Round(flagged=1)

    def _report(self, fetched: _Fetched, found: ScreenedImage) -> str:
        """Store what is not stored yet about a flagged image; returns the UID of the report.

        Raises:
            InstanceError: no report can be made, or the PACS does not take it.
        """
        one, content, image, _ = fetched
        report = report_place(one, self._model)
        missing = []
        if not self._pacs.has(*picture_place(one, self._model)):
            missing.append(make_picture(content, one, found, self._model, image))
        if not self._pacs.has(*report):
            missing.append(make_report(content, one, found, self._model))
        if missing:
            self._pacs.store(one.study, missing)
            self._health.stored.inc(len(missing))
        return report.uid


def back_off(failures: int, chance: float) -> float:
    """Seconds until a PACS is asked again that was away so many times before in a row; `chance` in [0, 1) spreads them."""
    return doubled(FIRST, failures, LONGEST) * (0.5 + chance / 2)


def doubled(first: float, times: int, longest: float) -> float:
    """Seconds, doubled some times, and at most the longest."""
    return min(longest, first * 2.0 ** min(times, 20))
