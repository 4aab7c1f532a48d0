"""`petechia info`."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

from petechia.cli.common import Device, Precision, Threads, console, table
from petechia.core.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "polars", "pydicom", "pillow", "pydantic")
EXTRAS = {
    "cluster": ("ray",),
    "web": ("fastapi", "uvicorn"),
    "xrv": ("torchxrayvision",),
    "onnx": ("onnxruntime",),
    "hf": ("transformers",),
    "clip": ("open_clip",),
    "track": ("mlflow",),
    "dicomweb": ("dicomweb_client", "highdicom", "prometheus_client"),
}


def info(device: Device = "auto", precision: Precision = "auto", threads: Threads = 0) -> None:
    """Show versions, the device and precision that would be used, installed extras and plugins. Add this to bug reports."""
    from petechia.core.runtime import Compute
    from petechia.data.cache import cache_folder

    runtime = Compute(device=device, precision=precision, threads=threads).start()
    rows = [
        ["petechia", __version__],
        ["python", f"{platform.python_version()}, {platform.platform()}"],
        ["device", str(runtime)],
        ["cache", str(cache_folder())],
        *([name, _version(name)] for name in PACKAGES),
        *([f"extra {name}", _extra(needs)] for name, needs in EXTRAS.items()),
        *([f"plugins: {kind}", ", ".join(names) or "none"] for kind, names in _plugins().items()),
    ]
    console.print(table("what", "value", rows=rows))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _extra(needs: tuple[str, ...]) -> str:
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    return f"not installed ({', '.join(missing)})" if missing else ", ".join(f"{name} {_version(name)}" for name in needs)


def _plugins() -> dict[str, list[str]]:
    """Kind → names that other packages add, each with its package; nothing of them is imported."""
    from importlib.metadata import entry_points

    groups = ("triggers", "sources", "models", "explanations", "detectors")
    return {
        group: sorted(f"{one.name} ({one.dist.name if one.dist else '?'})" for one in entry_points(group=f"petechia.{group}"))
        for group in groups
    }
