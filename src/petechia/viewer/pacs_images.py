"""Opens images of a PACS by their UIDs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petechia.core.errors import PetechiaError
from petechia.viewer.uploads import MOST_UPLOAD

if TYPE_CHECKING:
    from petechia.data.dicomweb.pacs import Pacs


class PacsImages:
    """The images of a PACS. Nothing of them is kept here.

    Args:
        source: "dicomweb:URL", without options.

    Raises:
        PetechiaError: it is not such a source, or the extra `dicomweb` is not installed.
    """

    def __init__(self, source: str) -> None:
        kind, _, text = source.partition(":")
        if kind != "dicomweb" or not text:
            raise PetechiaError("--pacs needs dicomweb:URL, as in dicomweb:https://pacs.example/dicom-web.")
        from petechia.data.sources.dicomweb import read_source

        pacs, options = read_source(source, text)
        if options.model_fields_set:
            raise PetechiaError(f"--pacs takes an address without options; leave out {min(options.model_fields_set)}=.")
        self._pacs: Pacs = pacs

    def fetch(self, study: str, series: str = "", instance: str = "") -> bytes:
        """Fetch a DICOM file: that of an instance, or of the first image in a study or series.

        Args:
            study: StudyInstanceUID.
            series: SeriesInstanceUID; "" takes any.
            instance: SOPInstanceUID; "" takes any.

        Raises:
            PetechiaError: there is no such image, it is too large, or the PACS does not answer.
        """
        images = (
            one
            for one in self._pacs.in_study(study)
            if one.is_image and series in ("", one.series) and instance in ("", one.uid)
        )
        found = min(images, key=lambda one: (one.series_description == "Petechia", one.series, one.uid), default=None)
        if found is None:
            raise PetechiaError("The PACS has no such image; check the UIDs in the address.")
        content = self._pacs.fetch(found)
        if len(content) > MOST_UPLOAD:
            raise PetechiaError(f"The image has more than {MOST_UPLOAD // 2**20} MiB, which the viewer does not open.")
        return content
