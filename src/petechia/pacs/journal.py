"""The journal of a watch: which images were screened. It survives a kill at any moment, as each image is one transaction."""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from petechia.core.errors import PetechiaError, first_line, printable

FILE = "journal.sqlite"
CLEAN, FLAGGED, FAILED = "clean", "flagged", "failed"
FORM = 1  # increase it when the tables change
TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS images (
    uid TEXT PRIMARY KEY, state TEXT NOT NULL, suspicion REAL, p_value REAL, reason TEXT, report TEXT, at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class Journal:
    """The journal in a folder, made if need be. One process at a time may use it.

    Args:
        folder: existing folder.
        about: what the judgements depend on; a journal with images that were judged by something else is refused.
        measured: names of files in the folder that depend on it, too; those of something else are removed.

    Raises:
        PetechiaError: the journal is damaged, or has images that were screened with other settings.
    """

    def __init__(self, folder: Path, about: Mapping[str, object], measured: Sequence[str] = ()) -> None:
        self.path = folder / FILE
        with self._sentence():
            self._database = sqlite3.connect(self.path, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(TABLES)
            settings = self._settings()
        if settings is not None and self._has_images():
            self._refuse_other(settings, json.loads(_text(about)))
        elif settings != json.loads(_text(about)):  # no judgement depends on other settings, but a file may
            for name in measured:
                (folder / name).unlink(missing_ok=True)
            with self._sentence():
                self._database.execute("INSERT OR REPLACE INTO about VALUES ('settings', ?)", (_text(about),))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def knows(self, uid: str) -> bool:
        """Whether an image was screened, or failed."""
        with self._sentence():
            return self._database.execute("SELECT 1 FROM images WHERE uid = ?", (uid,)).fetchone() is not None

    def screened(self, uid: str, flagged: bool, suspicion: float, p_value: float, report: str | None) -> None:
        """Note an image that was screened and, if flagged, reported.

        Args:
            uid: SOPInstanceUID of the image.
            flagged: whether it is flagged.
            suspicion: as in `ScreenedImage`.
            p_value: likewise.
            report: SOPInstanceUID of the report.
        """
        self._add(uid, FLAGGED if flagged else CLEAN, suspicion, p_value, None, report)

    def failed(self, uid: str, reason: str) -> None:
        """Note an image that cannot be screened, and why."""
        self._add(uid, FAILED, None, None, printable(reason, 1000), None)

    def forget_failed(self) -> int:
        """Let images that failed be tried again; returns their number."""
        with self._sentence():
            return self._database.execute("DELETE FROM images WHERE state = ?", (FAILED,)).rowcount

    def counts(self) -> dict[str, int]:
        """Number of images in each state."""
        with self._sentence():
            found = dict(self._database.execute("SELECT state, count(*) FROM images GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in (CLEAN, FLAGGED, FAILED)}

    def _add(self, uid: str, state: str, *values: object) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._sentence():
            self._database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", (uid, state, *values, now))

    def _settings(self) -> dict[str, object] | None:
        found = self._database.execute("SELECT CAST(value AS BLOB) FROM about WHERE key = 'settings'").fetchone()
        return None if found is None else dict(json.loads(found[0]))

    def _has_images(self) -> bool:
        with self._sentence():
            return self._database.execute("SELECT 1 FROM images").fetchone() is not None

    def _refuse_other(self, known: dict[str, object], given: dict[str, object]) -> None:
        other = [key for key in given if known.get(key) != given[key]]
        if other:
            raise PetechiaError(
                f"{self.path} was begun with another {' and '.join(other)}; give what it was begun with, or another --out."
            )

    @contextmanager
    def _sentence(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:  # text or JSON in it is damaged
            raise PetechiaError(
                f"{self.path} cannot be used ({first_line(error)}); check the disk, or remove the file: then all "
                f"images are screened again, and no report is stored twice."
            ) from None


def _text(about: Mapping[str, object]) -> str:
    return json.dumps({"form": FORM, **about}, sort_keys=True)
