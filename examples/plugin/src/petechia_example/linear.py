"""A model opener: linear models of pixels in a NumPy archive, `linear:FILE`."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from petechia import PetechiaError
from petechia.core.runtime import Runtime
from petechia.data import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.registry import ModelOpener


def open_linear(text: str, runtime: Runtime) -> Classifier:
    """Open an archive of `weights`, [K, side, side], and `classes`, K names.

    Raises:
        PetechiaError: it is not such a file.
    """
    try:
        with np.load(text, allow_pickle=False) as arrays:  # a pickle could run any code
            weights, classes = torch.from_numpy(arrays["weights"]).float(), tuple(map(str, arrays["classes"]))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise PetechiaError(f"linear:{text} cannot be read ({error}); give an archive of weights and classes.") from None
    if weights.ndim != 3 or weights.shape[1] != weights.shape[2] or len(weights) != len(classes):
        raise PetechiaError(f"linear:{text} holds weights of shape {list(weights.shape)}; write [classes, side, side].")
    layer = nn.Linear(weights[0].numel(), len(classes), bias=False)
    layer.weight.data.copy_(weights.flatten(1))
    network = runtime.to_device(nn.Sequential(nn.Identity(), nn.Flatten(), layer)).eval()
    geometry, title = Preprocess(size=weights.shape[1]), f"linear:{Path(text).name}"  # which results show
    return Classifier(f"linear:{text}", classes, geometry, network, runtime, network, title=title)


LINEAR = ModelOpener("linear:FILE", "A linear model of pixels in a NumPy archive", open_linear)
