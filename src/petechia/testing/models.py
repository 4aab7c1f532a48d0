"""What every model that is opened must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers import open_classifier
from petechia.models.registry import OPENERS
from petechia.testing.assertions import require

TOLERANCE = 1e-3  # of logits: other batches may be added up in another order


def check_opener(model: str, nonsense: str = "/no/such/model", runtime: Runtime | None = None) -> Classifier:
    """Check a model, as it is named on the command line, and the opener of its kind.

    The opener is registered and refuses what is not there in a sentence; opened twice, the model says the same. See also
    `check_classifier`.

    Args:
        model: such as "linear:weights.npz" or "model.onnx".
        nonsense: what follows the prefix, or precedes the suffix, in a model that does not exist.
        runtime: where it computes; else on the CPU.

    Returns:
        The classifier.

    Raises:
        AssertionError: says what it does wrong.
    """
    prefix = model.partition(":")[0]
    kind = prefix if prefix in OPENERS else f".{model.rpartition('.')[2]}"
    require(kind in OPENERS, f"{model!r} begins with no prefix and ends in no suffix of {', '.join(OPENERS)}.")
    require(len(OPENERS[kind].help) > 5, f"The opener of {kind!r} has the help {OPENERS[kind].help!r}; say what it opens.")
    where = runtime or Compute(device="cpu", precision="fp32").start()
    _check_refusal(f"{nonsense}{kind}" if kind.startswith(".") else f"{kind}:{nonsense}", where)
    classifier = open_classifier(model, where)
    check_classifier(classifier)
    _check_public_name(classifier, Path(model.rpartition(":")[2]))
    images = _images(classifier, 3)
    same = torch.equal(classifier.logits(images), open_classifier(model, where).logits(images))
    require(same, f"Opened again, {model} gives other logits.")
    return classifier


def check_classifier(classifier: Classifier) -> None:
    """Check a classifier: classes, geometry, logits, and gradients where it has a network.

    Raises:
        AssertionError: says what it does wrong.
    """
    classes = classifier.classes
    require(len(classes) > 0, "It has no classes.")
    require(len(set(classes)) == len(classes), f"A class is there twice: {', '.join(classes)}.")
    images = _images(classifier, 5)
    before = images.copy()
    together = classifier.logits(images)
    require(np.array_equal(images, before), "It changes the images that it is asked about.")
    require(
        together.shape == (5, len(classes)), f"It gives logits {list(together.shape)} for 5 images, {len(classes)} classes."
    )
    require(together.dtype == torch.float32, f"It gives {together.dtype}, not float32.")
    require(bool(together.isfinite().all()), "It gives NaN or infinity.")
    require(torch.equal(together, classifier.logits(images)), "It says something else the second time; call eval().")
    for batch in (1, 2):
        off = float((classifier.logits(images, batch=batch) - together).abs().max())
        require(off <= TOLERANCE, f"In batches of {batch} its logits differ by {off:.3g}: an image depends on the others.")
    require(len(classifier.logits(images[:0])) == 0, "It gives logits for no image.")
    _check_network(classifier)


def _check_public_name(classifier: Classifier, path: Path) -> None:
    name = classifier.public_name
    require(
        not path.is_absolute() or str(path.parent) not in name,
        f"Results, which others read, would call it {name}; set the title of the Classifier to a name without the folder.",
    )


def _check_refusal(model: str, runtime: Runtime) -> None:
    try:
        open_classifier(model, runtime)
    except PetechiaError as error:
        require(str(error).strip().endswith("."), f"For {model} it says {str(error)!r}, which is no sentence.")
        return
    except Exception as error:
        raise AssertionError(f"For {model} it raises {type(error).__name__}; raise PetechiaError with a sentence.") from error
    raise AssertionError(f"It opens {model}, which is not there.")


def _check_network(classifier: Classifier) -> None:
    """The network takes what `answer` takes, says the same, and has gradients."""
    if classifier.network is None:
        return
    require(not classifier.network.training, "Its network is in training mode; call eval().")
    images = classifier.tensor(_images(classifier, 2)).clone().requires_grad_()
    with torch.enable_grad():
        logits = classifier.network(images)
    require(
        torch.allclose(logits.detach().float(), classifier.answer(images.detach()).float(), atol=TOLERANCE),
        "Its network and its answer differ.",
    )
    require(logits.requires_grad, "Its network has no gradients; leave network out, or let them through.")
    (slope,) = torch.autograd.grad(logits.sum(), images)
    require(bool(slope.isfinite().all()), "The gradients of its network are NaN or infinite.")


def _images(classifier: Classifier, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Random prepared images."""
    size = classifier.preprocess.size
    shape = (count, size, size, 3) if classifier.colour else (count, size, size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
