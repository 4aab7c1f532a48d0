"""Models of torchxrayvision as classifiers.

Their weights are pickles, which can run arbitrary code when loaded. So a file is opened only if its SHA-256 is known: from the
list below, or from the user. What was hashed is what is opened: a private copy.
"""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, first_line
from petechia.core.runtime import Runtime
from petechia.data.preprocess import Preprocess
from petechia.models.classifier import Classifier

# SHA-256 of files of torchxrayvision's release v1. Several independent projects must publish the same digest of a file.
DIGESTS = {
    "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt": (
        "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899"
    ),
}


class OperatingPoints(nn.Module):
    """A torchxrayvision network with the interface of Petechia's classifiers: images in 0…1 in, logits out.

    The network's own outputs are probabilities, scaled piecewise so that the operating point t of each class becomes 0.5.
    Subtracting logit(t) from the logit puts the same point at 0 without that scaling, and never saturates. Outputs that
    the weights do not name are left out.
    """

    places: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        targets: list[str] = list(network.targets)  # type: ignore[arg-type]
        named = [k for k, target in enumerate(targets) if target]
        points = getattr(network, "op_threshs", None)
        shift = torch.zeros(len(targets)) if points is None else torch.logit(points.float()).nan_to_num()
        network.op_threshs, network.apply_sigmoid = None, False  # type: ignore[assignment]
        self.network = network
        self.classes = tuple(targets[k] for k in named)
        self.register_buffer("places", torch.tensor(named), persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 [B, K], of images, float32 [B, 1, H, W] in 0…1. The network itself takes −1024…1024."""
        logits: Tensor = self.network((images * 2 - 1) * 1024).float() - self.shift
        return logits[:, self.places]


def of_torchxrayvision(text: str, runtime: Runtime) -> Classifier:
    """Open a torchxrayvision model, NAME or NAME:SHA256, with weights that are downloaded from its releases or cached.

    Raises:
        PetechiaError: torchxrayvision is not installed or does not know the model, or the weights are not available, or their
            SHA-256 is not the known one.
    """
    weights, _, digest = text.partition(":")
    try:
        import torchxrayvision as xrv
    except ImportError as error:
        raise PetechiaError(f"xrv:{weights} needs {error.name}; install it with pip install 'petechia[xrv]'.") from None
    known = [name for name in xrv.models.model_urls if name.startswith(("densenet", "resnet"))]
    if weights not in known:
        raise PetechiaError(f"torchxrayvision has no model {weights!r}; its models are {', '.join(known)}.")
    try:
        with redirect_stdout(io.StringIO()):  # it prints as it downloads
            file = Path(xrv.models.get_weights(weights))
    except Exception as error:
        raise PetechiaError(
            f"The weights of xrv:{weights} are not available ({first_line(error)}); without a network connection, put the file "
            f"{xrv.models.model_urls[weights]['weights_url']} into {xrv.utils.get_cache_dir()}."
        ) from None
    content = _checked(weights, file, digest.lower())
    network = _opened(weights, content, file, xrv)
    xrv.utils.warning_log["norm_check"] = True  # otherwise it prints a scaling warning for uniform images
    geometry = Preprocess(crop="square", size=getattr(network, "input_resolution", 224), resample="area")
    placed = runtime.to_device(OperatingPoints(network)).eval()
    found = hashlib.sha256(content).hexdigest()
    return Classifier(f"xrv:{weights}", placed.classes, geometry, placed, runtime, placed, digest=found)


def _checked(weights: str, file: Path, digest: str) -> bytes:
    """Return the content of the file with the weights, whose SHA-256 is the given or the known one.

    Raises:
        PetechiaError: it has another SHA-256, or none is known.
    """
    if digest and not re.fullmatch("[0-9a-f]{64}", digest):
        raise PetechiaError(f"xrv:{weights} is followed by {digest[:80]!r}; give the SHA-256 of its weights, 64 digits.")
    content = read_file(file, "model_bytes", "check the cache of torchxrayvision")
    found, wanted = hashlib.sha256(content).hexdigest(), digest or DIGESTS.get(file.name, "")
    if not wanted:
        raise PetechiaError(
            f"{file} is a pickle, which can run arbitrary code when loaded, and Petechia does not know its SHA-256; compare "
            f"{found} with a source that you trust, and give xrv:{weights}:{found}."
        )
    if found != wanted:
        raise PetechiaError(
            f"{file} has the SHA-256 {found} instead of {wanted}, so it was changed or is incomplete; download it again."
        )
    return content


def _opened(weights: str, content: bytes, file: Path, xrv: Any) -> Any:
    """Have torchxrayvision open a private copy of the weights that were checked."""
    with TemporaryDirectory() as private:
        (Path(private) / file.name).write_bytes(content)
        try:
            with redirect_stdout(io.StringIO()):
                return xrv.models.get_model(weights, cache_dir=private)
        except Exception as error:
            raise PetechiaError(
                f"torchxrayvision cannot open the weights of xrv:{weights} ({first_line(error)}); check its version."
            ) from None
