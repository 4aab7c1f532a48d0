"""Which output of a model contains the scores of the classes.

A model may also return features, attention maps or the scores of a second task, in any order. What an output is shows in its
shape ([images, classes]), in its name, and in the graph: features feed the layer that makes the scores. Where these do not
agree on one output, the user must name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError, printable
from petechia.models.openers.card import Card, card_path

Kind = Literal["linear", "activation", "other"]
SCORES = frozenset(
    """
    logit logits score scores prob probs proba probas probability probabilities pred preds predict predicted prediction
    predictions softmax sigmoid cls clf class classes classifier classification label labels diagnosis diagnoses finding
    findings pathology pathologies disease diseases
    """.split()  # noqa: SIM905
)
NOT_SCORES = frozenset(
    """
    aux auxiliary feature features feat feats embedding embeddings embed emb embs map maps cam cams heatmap heat
    attention attentions attn hidden state states latent latents representation rep pooled pool pooler pooling avgpool
    gap flatten backbone encoder encoded encoding seg segmentation mask masks box boxes bbox bboxes projection proj
    projected token tokens patch patches recon reconstruction reconstructed decoded uncertainty variance sigma std stage
    intermediate deep deepsup domain vector penultimate bottleneck anchor anchors loss losses mu logvar quality
    """.split()  # noqa: SIM905
)
SHOWN = 8  # outputs in a message
SAME = 1e-3  # largest difference between an output and the sigmoid of another; half precision has three digits


@dataclass(frozen=True)
class Output:
    """One output of a model, as it came back for a few images.

    Attributes:
        name: its name in the file; for a program, the keys and positions that lead to it, as in "heads.logits" or "1".
        values: what the model returned; None if it is not a tensor of numbers.
        value: name of the value of the graph.
    """

    name: str
    values: NDArray[np.float32] | None
    value: str

    def scores(self, images: int) -> NDArray[np.float32] | None:
        """Return the values as [images, classes], or None if they do not have that form; further sides of 1 are dropped."""
        if self.values is None or self.values.ndim < 2 or len(self.values) != images or self.values.size == 0:
            return None
        sides = [side for side in self.values.shape[1:] if side != 1]
        return self.values.reshape(images, -1) if len(sides) <= 1 else None

    @property
    def said(self) -> str:
        """Name and shape, for messages."""
        shape = "no floating-point numbers" if self.values is None else str(list(self.values.shape))
        return f"{'output ' if self.name.isdigit() else ''}{printable(self.name)}: {shape}"


@dataclass(frozen=True)
class Graph:
    """What is computed from what.

    Attributes:
        made: value → the kind of operation that makes it, and the values that the operation takes.
    """

    made: Mapping[str, tuple[Kind, tuple[str, ...]]]

    def feeds_layer(self, first: str, second: str) -> bool:
        """Return whether the second value is computed from the first with a layer that has weights between them."""
        seen: set[tuple[str, bool]] = set()
        ahead = [(second, False)]
        while ahead:
            value, layered = ahead.pop()
            if value == first and layered:
                return True
            if (value, layered) in seen or value not in self.made:
                continue
            seen.add((value, layered))
            kind, taken = self.made[value]
            ahead += [(one, layered or kind == "linear") for one in taken]
        return False

    def ends_in_layer(self, value: str) -> bool:
        """Return whether a linear layer makes the value, with nothing but activations and changes of shape behind it."""
        for _ in range(len(self.made)):
            kind, taken = self.made.get(value, ("other", ()))
            if kind != "activation" or not taken:
                return kind == "linear"
            value = taken[0]
        return False


@dataclass(frozen=True)
class Choice:
    """The output that contains the scores.

    Attributes:
        number: its position among the outputs.
        note: what the user should know about the choice; empty if there was none to make.
    """

    number: int
    note: str = ""


def choose(outputs: Sequence[Output], images: int, graph: Graph, card: Card, path: Path, key: str = "") -> Choice:
    """Choose the output that contains the scores.

    Args:
        outputs: all outputs of the model for some images.
        images: number of these images.
        graph: how the outputs are computed.
        card: description of the model; its key `output` decides if it is set.
        path: path of the model, for messages.
        key: what the user can set to choose, for messages; empty for the key of the JSON beside the model.

    Raises:
        PetechiaError: no output contains scores, or it is not clear which one does.
    """
    key = key or f"output in {card_path(path).name}"
    if card.output is not None:
        return Choice(_named(outputs, card.output, images, path, key))
    usable = [k for k, one in enumerate(outputs) if one.scores(images) is not None]
    if not usable:
        raise _none_usable(outputs, images, path)
    if len(outputs) == 1:
        return Choice(0)
    chosen, why = _clear(outputs, usable, images, graph, card)
    if chosen is None:
        raise PetechiaError(
            f"{path} has several outputs ({_listed(outputs)}), and it is not clear which contains the scores{why}; "
            f"set {key} to its name."
        )
    left = ", ".join(printable(one.name) for k, one in enumerate(outputs[:SHOWN]) if k != chosen)
    return Choice(
        chosen,
        f"The scores are taken from the output {printable(outputs[chosen].name)}{why}, and not from {left}; "
        f"set {key} if that is wrong.",
    )


def _named(outputs: Sequence[Output], wanted: str | int, images: int, path: Path, key: str) -> int:
    names = [one.name for one in outputs]
    number = wanted if isinstance(wanted, int) else names.index(wanted) if wanted in names else -1
    if not 0 <= number < len(outputs):
        raise PetechiaError(
            f"{path} has no output {printable(str(wanted))}; set {key} to one of its outputs: {_listed(outputs)}."
        )
    if outputs[number].scores(images) is None:
        raise _none_usable([outputs[number]], images, path)
    return number


def _none_usable(outputs: Sequence[Output], images: int, path: Path) -> PetechiaError:
    if any(one.values is not None and one.values.shape == (images,) for one in outputs):
        advice = "export it again without the squeeze that drops the second"
    elif len(outputs) > 1:
        advice = "export it with its scores among them"
    else:
        advice = "export the classifier whole, with its last layer"
    return PetechiaError(
        f"{path} returns {_listed(outputs)} for {images} images; a classifier returns scores of two dimensions, "
        f"images and classes: {advice}."
    )


def _listed(outputs: Sequence[Output]) -> str:
    more = f" and {len(outputs) - SHOWN:,} more" if len(outputs) > SHOWN else ""
    return ", ".join(one.said for one in outputs[:SHOWN]) + more


def _clear(outputs: Sequence[Output], usable: list[int], images: int, graph: Graph, card: Card) -> tuple[int | None, str]:
    """Return the position of the output that is clearly the scores, or None, and why."""
    named = {k: tone(outputs[k].name) for k in usable}
    scores = {k: found for k in usable if (found := outputs[k].scores(images)) is not None}
    left = usable
    if card.classes and any(scores[k].shape[1] == len(card.classes) for k in left):
        left = [k for k in left if scores[k].shape[1] == len(card.classes)]
    left = [k for k in left if named[k] >= 0]
    left = [k for k in left if not _decides(scores[k])] or left
    speaking = [k for k, one in enumerate(outputs) if tone(one.name) >= 0]
    left = [k for k in left if not any(_is_layer_before(graph, outputs, k, other) for other in speaking if other != k)]
    twins = {k: other for k in left for other in left if k != other and _activates(scores[k], scores[other])}
    if card.outputs == "probabilities":
        left = [k for k in left if k not in twins]
        why = ", the probabilities" if twins else ""
    else:
        left = [k for k in left if k not in set(twins.values())]
        why = ", the logits" if twins else ""
    if len(left) > 1:
        called = [k for k in left if named[k] > 0]
        left = called or [k for k in left if graph.ends_in_layer(outputs[k].value)]
    if len(left) != 1:
        return None, ""
    if _contradicted(left[0], usable, named, graph, outputs):
        return None, ", because a further layer follows the one whose name says scores"
    # A module in memory does not say how its outputs are made; if one alone has a score for each class, it is that.
    alone = not graph.made and card.classes and scores[left[0]].shape[1] == len(card.classes)
    sure = named[left[0]] > 0 or graph.ends_in_layer(outputs[left[0]].value) or alone
    return (left[0], why) if sure else (None, "")


def _is_layer_before(graph: Graph, outputs: Sequence[Output], first: int, second: int) -> bool:
    return graph.feeds_layer(outputs[first].value, outputs[second].value)


def _contradicted(
    chosen: int, usable: Iterable[int], named: Mapping[int, int], graph: Graph, outputs: Sequence[Output]
) -> bool:
    """Return whether an output that its name calls scores only feeds the layer that makes the chosen one."""
    return named[chosen] == 0 and any(
        named[other] > 0 and _is_layer_before(graph, outputs, other, chosen) for other in usable if other != chosen
    )


def _decides(values: NDArray[np.float32]) -> bool:
    """Return whether an output is the decision itself, 0 or 1 for each class, and not its scores."""
    return bool(np.isin(values, (0, 1)).all())


def _activates(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Return whether the second output is the sigmoid or the softmax of the first, or the logarithm of one."""
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return False
    given = first.astype(np.float64)
    raised = np.exp(given - given.max(axis=1, keepdims=True))
    softmax = raised / raised.sum(axis=1, keepdims=True)
    with np.errstate(over="ignore", divide="ignore"):
        made = (1 / (1 + np.exp(-given)), softmax, np.log(softmax), -np.logaddexp(0, -given))
    return any(np.abs(one - second).max() < SAME for one in made) and bool(np.abs(first - second).max() > SAME)


def tone(name: str) -> int:
    """Return what a name says about an output: 1 scores, -1 something else, 0 nothing."""
    own = name.rpartition("/")[2]  # what is before it are the scopes of a graph
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", own).lower()))
    return -1 if words & NOT_SCORES else int(bool(words & SCORES))
