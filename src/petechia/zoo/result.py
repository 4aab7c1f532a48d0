"""The models of a zoo, listed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petechia.core.results import Number, Record, Result


class ZooModel(Record):
    """One model of a zoo, with the truth about it.

    Attributes:
        half: "tune" to choose a detector's settings on, "judge" to measure it on.
        network: architecture and seed.
        trigger: in words; "none" for a clean model.
        targets: target classes, joined by commas; empty for a clean model.
        rate: share of the training images that carry the trigger; null for a clean model.
        mode: how it was poisoned; empty for a clean model.
        asr: its ASR(0.9), in the file "asr_0.9".
        took: whether the backdoor took, that is, whether ASR(0.9) is at least 0.5 above the control's; null for a clean model.
        file: of the model.
    """

    half: Literal["tune", "judge"]
    network: str
    trigger: str
    targets: str
    rate: float | None
    mode: str
    asr: Number = Field(alias="asr_0.9")
    took: bool | None
    file: str


class Zoo(Result):
    """The finished models of a zoo. File: zoo.json.

    Attributes:
        directory: of the zoo.
        models: that are there.
        failures: name of a run → why it failed, in this call.
    """

    file_name: ClassVar[str] = "zoo.json"

    directory: str
    models: tuple[ZooModel, ...]
    failures: dict[str, str] = Field(default_factory=dict)

    def _overview(self) -> list[tuple[str, str]]:
        took = sum(one.took is True for one in self.models)
        clean = sum(one.took is None for one in self.models)
        return [
            ("directory", self.directory),
            ("models", str(len(self.models))),
            ("backdoors that took", str(took)),
            ("backdoors that did not take", str(len(self.models) - took - clean)),
            ("clean", str(clean)),
        ]
