"""Uses all that the example of a plugin adds, on the command line, and prints what came of it as JSON.

It runs in the environment in which the example is installed: python use_plugin.py FOLDER.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.data import Catalog, open_source

CLASSES = ["sick", "well"]
PHANTOM = "phantom:images=40,size=32"


def call(*arguments: str) -> tuple[int, str]:
    """Exit status and output of petechia."""
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400"})
    return done.exit_code, " ".join(done.output.split())


def images_of(catalog: Catalog) -> dict[str, Any]:
    """The images by their ids."""
    return dict(zip(catalog.ids.tolist(), catalog.reader.read(np.arange(len(catalog))), strict=True))


def use(folder: Path) -> dict[str, Any]:
    """Exit status and output of each command, and what the trigger did to an image."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16), dtype=np.uint8)
    Image.fromarray(images[0]).save(folder / "a.png")
    np.savez(folder / "set.npz", images=images, labels=rng.integers(0, 2, (40, 2)), classes=CLASSES)
    np.savez(folder / "m.npz", weights=rng.normal(size=(2, 16, 16)), classes=CLASSES)
    ring = ["--set", "attack.trigger.kind=ring", "--set"]
    poison = ["poison", PHANTOM, "--set", "attack.mode=replace", "--set", "attack.rate=0.5", "--out"]
    layer = ["--layer", "0", "--target", "well"]
    found: dict[str, Any] = {
        "poison": call(*poison, str(folder / "poisoned"), *ring, "attack.trigger.radius=0.4"),
        "unknown key": call(*poison, str(folder / "x"), *ring, "attack.trigger.radios=0.4"),
        "unknown kind": call(*poison, str(folder / "x"), "--set", "attack.trigger.kind=rung"),
        "scan": call("scan", f"npz:{folder / 'set.npz'}", "--out", str(folder / "scan")),
        "explain": call(
            *("explain", f"linear:{folder / 'm.npz'}", str(folder / "a.png"), "--out", str(folder / "out")),
            *("--method", "slope", *layer),
        ),
        **{f"{command} --help": call(command, "--help") for command in ("scan", "explain", "screen")},
    }
    clean, poisoned = images_of(open_source(PHANTOM)), images_of(open_source(f"nih:{folder / 'poisoned'}"))
    changed = [name for name in clean if (clean[name] != poisoned[name]).any()]
    where = poisoned[changed[0]] != clean[changed[0]]
    inverted = (poisoned[changed[0]] == 255 - clean[changed[0]])[where].all()
    return found | {"images": len(changed), "inverted": bool(inverted), "top": int(np.flatnonzero(where.any(axis=1))[0])}


if __name__ == "__main__":
    print(json.dumps(use(Path(sys.argv[1]))))
