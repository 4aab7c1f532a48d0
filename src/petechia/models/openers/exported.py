"""Opens programs of `torch.export` (.pt2). `program` says why that is safe.

Everything is tried in a worker process first: the file is read, and the program runs forward and backward. What crashes, never
ends or takes all memory ends that process, with one sentence, and never runs in this one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from petechia.core.budget import check_file, limit
from petechia.core.runtime import Runtime
from petechia.core.worker import Limits, Pool
from petechia.models.classifier import Classifier
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import Card
from petechia.models.openers.program import opened

HERE = "petechia.models.openers.rehearsal"


@cache
def _workers(threads: int) -> Pool:
    """Return the worker that tries programs. It stays for the next one, because importing torch takes seconds."""
    return Pool(Limits(limit("model_memory"), limit("model_seconds"), threads=threads), (HERE,))


def of_program(path: Path, runtime: Runtime) -> Classifier:
    """Open a program written by `torch.export.save`, with the JSON file beside it if there is one; see `Card`.

    The classifier is not a black box: each operation counts as a layer.

    Raises:
        PetechiaError: the file is not an image classifier, would have to be unpickled, uses an operation that is not on the
            allow list, or crashes, or the JSON does not match it.
    """
    card = Card.beside(path)
    check_file(path, "model_bytes", "check the path of the model")
    size = card.preprocess.size if card.preprocess and "size" in card.preprocess.model_fields_set else None
    threads = torch.get_num_threads()
    _workers(threads).ask(str(path), f"{HERE}:rehearse", str(path.resolve()), card.channels, size, threads)
    program = opened(path)
    return classifier_of(path, program, InputSpec.of(path, card, *program.shape), card, runtime)
