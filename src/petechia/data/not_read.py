"""What lies where the images come from and was not read: counted completely, and named up to a limit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from enum import StrEnum
from functools import reduce

from petechia.core.errors import printable
from petechia.core.results import Record

NAMED = 5  # names that are kept for each reason
LONGEST = 200  # characters of a name that are kept


class Reason(StrEnum):
    """Why a file was not read."""

    FORMAT = "image format that is not read"
    VOLUME = "volume"
    VIDEO = "video"
    ARRAY = "file of arrays"
    PACKED = "compressed image or archive"
    FRAMES = "DICOM file with several frames"
    SLICES = "volume without the slices that were asked for"
    DAMAGED = "cannot be decoded"
    NO_DICOM = "no DICOM file"
    NO_NIFTI = "no NIfTI file"
    UNLISTED = "not listed by the table"
    NO_DIRECTORY = "not listed by the DICOMDIR"
    MISSING = "listed by the table, but not found"
    NO_CLASS = "in no folder of a class"
    MASK = "mask of another image"
    HIDDEN = "hidden file"
    LINK = "link that leads out of the folder or nowhere"
    NAME = "name that is not valid UTF-8"
    PIPE = "pipe or device"
    UNREADABLE = "file or folder that may not be opened"
    NO_UID = "listed by the PACS without a valid UID"
    NO_PIXELS = "DICOM file without an image, such as a report"

    @property
    def is_image(self) -> bool:
        """Whether such a file is, or may hold, an image."""
        return self is not Reason.NO_PIXELS


class Unread(Record):
    """The files that were not read for one reason.

    Attributes:
        reason: why; one of the values of `Reason`.
        count: number of files.
        names: the first few of them.
    """

    reason: Reason
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = self.count - len(self.names)
        shown = ", ".join(map(printable, self.names)) + (f" and {more:,} more" if more else "")
        return f"{self.reason}: {self.count:,} ({shown})"


class NotRead(Record):
    """What was not read.

    Attributes:
        images: number of files that are, or may hold, images.
        others: number of DICOM files without an image, such as reports.
        reasons: the same by reason.
    """

    images: int = 0
    others: int = 0
    reasons: tuple[Unread, ...] = ()

    @classmethod
    def of(cls, reason: Reason, names: Iterable[str]) -> NotRead:
        """Files that were all not read for the same reason."""
        files = Files()
        for name in names:
            files.add(reason, name)
        return files.frozen

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __add__(self, other: NotRead) -> NotRead:
        """Both together."""
        files = Files()
        for one in (*self.reasons, *other.reasons):
            files.add_all(one)
        return files.frozen

    def __str__(self) -> str:
        """The numbers and first names for display; empty if everything was read."""
        if not self:
            return ""
        kinds = ((self.images, "image"), (self.others, "other file"))
        counted = " and ".join(f"{count:,} {kind}{'' if count == 1 else 's'}" for count, kind in kinds if count)
        return f"Not looked at: {counted}. By reason: {'; '.join(map(str, self.reasons))}."


EVERYTHING_READ = NotRead()


class Files:
    """Collects files that are not read; memory does not grow with their number.

    Args:
        folder: set before each name.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = f"{folder}/" if folder else ""
        self._counts: Counter[Reason] = Counter()
        self._names: defaultdict[Reason, list[str]] = defaultdict(list)

    def add(self, reason: Reason, name: str) -> None:
        """Add one file."""
        self._counts[reason] += 1
        if len(self._names[reason]) < NAMED:
            self._names[reason].append(printable(f"{self._folder}{name}", LONGEST))

    def add_all(self, unread: Unread) -> None:
        """Add files that were collected before."""
        self._counts[unread.reason] += unread.count
        self._names[unread.reason] = [*self._names[unread.reason], *unread.names][:NAMED]

    @property
    def frozen(self) -> NotRead:
        """What was collected, in the order of `Reason`."""
        reasons = [one for one in Reason if self._counts[one]]
        counts = [self._counts[one] for one in reasons]
        return NotRead(
            images=sum(count for one, count in zip(reasons, counts, strict=True) if one.is_image),
            others=sum(count for one, count in zip(reasons, counts, strict=True) if not one.is_image),
            reasons=tuple(
                Unread(reason=one, count=count, names=tuple(self._names[one]))
                for one, count in zip(reasons, counts, strict=True)
            ),
        )


def together(several: Iterable[NotRead]) -> NotRead:
    """All of them together."""
    return reduce(NotRead.__add__, several, EVERYTHING_READ)
