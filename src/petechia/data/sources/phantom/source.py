"""From the text of a source to a phantom with its labels."""

from __future__ import annotations

from pydantic import Field

from petechia.core.errors import PetechiaError
from petechia.core.task import Task
from petechia.data.catalog import Catalog
from petechia.data.formats.locate import Missing
from petechia.data.sources.options import validated
from petechia.data.sources.phantom import PhantomOptions, open_phantom
from petechia.data.sources.phantom.findings import FINDINGS
from petechia.data.sources.registry import source_forms


class _LabelledPhantom(PhantomOptions):
    """What can be chosen: how it is drawn, and how it is labelled. The drawing knows nothing of the labels.

    Attributes:
        findings: how many of them are labelled, the first ones; 1 makes a binary task.
        task: "multi-class" leaves out the images with several of them.
    """

    findings: int = Field(len(FINDINGS), ge=1, le=len(FINDINGS))
    task: Task = "multi-label"


def open_phantom_source(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Describe a phantom; nothing is drawn yet.

    Args:
        source: the whole source, for messages.
        text: KEY=VALUE, separated by commas, see `PhantomOptions` and above.
        missing: means nothing here.

    Raises:
        PetechiaError: a key is unknown, or a value is not allowed.
    """
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PetechiaError(f"{part!r} in the data source {source!r} is not KEY=VALUE; use {source_forms()}.")
        given[key.strip()] = value.strip()
    options = validated(source, given, _LabelledPhantom)
    return open_phantom(options).with_classes(options.findings, options.task)
