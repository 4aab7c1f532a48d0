"""Rules for operations of programs that do not compare their arguments with their tensors, and so could leave them.

Each was found by changing one argument at a time of valid calls, see docs/robustness.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MOST_INT = 2**31  # largest size, stride, offset and so on; products of two stay within 64 bits


def _group_norm(given: Mapping[str, Any]) -> None:
    images, channels = given["input"], given["C"]
    if images.ndim < 2 or given["group"] < 1 or given["N"] * channels * given["HxW"] != images.numel():
        raise ValueError("native_group_norm is told of other sizes than its input has")
    if (images.shape[0], images.shape[1]) != (given["N"], channels):
        raise ValueError("native_group_norm is told of other sizes than its input has")
    for one in (given["weight"], given["bias"]):
        if one is not None and (one.numel() != channels or one.dtype != given["input"].dtype):
            raise ValueError("native_group_norm needs one weight a channel")


def _batch_norm(given: Mapping[str, Any]) -> None:
    """The kernels read one weight, bias, mean and variance a channel, without counting them, and divide by the pixels."""
    images = given["input"]
    if images.ndim < 2 or not images.numel():
        raise ValueError("batch norm needs images with channels")
    for name in ("weight", "bias", "running_mean", "running_var"):
        one = given.get(name)
        if one is not None and tuple(one.shape) != (images.shape[1],):
            raise ValueError(f"batch norm needs one {name} a channel")


def _instance_norm(given: Mapping[str, Any]) -> None:
    _batch_norm(given)
    if given.get("use_input_stats") is not False and given.get("running_mean") is not None:
        raise ValueError("instance_norm would change its statistics, as in training; export the network in evaluation mode")


def _upsample(given: Mapping[str, Any]) -> None:
    """A scale that does not fit the sizes would make kernels read beside the image."""
    image, size = given.get("self"), given.get("output_size")
    for k, name in enumerate(("scales_h", "scales_w")):
        scale = given.get(name)
        if scale is None or image is None:
            continue
        sides = size if isinstance(size, list) else []
        if len(sides) != 2 or image.ndim != 4 or not 0 < scale < MOST_INT or int(image.shape[2 + k] * scale) != sides[k]:
            raise ValueError(f"{name} does not fit the sizes")


RULES: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "instance_norm": _instance_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "native_batch_norm", "batch_norm"), _batch_norm),
    **dict.fromkeys(
        (
            *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
            *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        ),
        _upsample,
    ),
}
