"""The list of the models in a zoo."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petechia.core.results import Number, Record, Result


class ZooModel(Record):
    """One model of a zoo, with its ground truth.

    Attributes:
        half: "tune" for choosing the settings of a detector, "judge" for evaluating it.
        network: architecture and seed.
        trigger: description of the trigger; "none" for a clean model.
        targets: target classes, joined by commas; empty for a clean model.
        rate: share of the training images that carry the trigger; null for a clean model.
        mode: poisoning mode and labels; empty for a clean model.
        asr: ASR(0.9) of the model, "asr_0.9" in the file.
        took: whether the backdoor took, that is, whether ASR(0.9) is at least 0.5 above the control's; null for a clean model.
        file: path of the model file.
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
        directory: folder of the zoo.
        models: finished models.
        failures: name of a run → why it failed in this call.
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
