"""The registry of explanation methods, and what asks it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.saliency import (
    METHODS,
    LayerMethod,
    Recorded,
    ScoreMethod,
    cam,
    interactive_methods,
    layer_methods,
    score_methods,
)
from petechia.saliency.black_box import occlusion, occlusion_by_eighths
from tests.saliency.test_activation_maps import batch, network

LAYER_METHODS = ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "scorecam", "gradcam-skip"]
ROOT = Path(__file__).parents[2]


def test_the_methods_and_what_each_needs() -> None:
    assert list(METHODS) == [*LAYER_METHODS, "occlusion", "rise"]
    assert list(layer_methods()) == LAYER_METHODS
    assert list(score_methods()) == ["occlusion", "rise"]
    assert {name: one.label for name, one in interactive_methods().items()} == {
        **{"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "xgradcam": "XGrad-CAM", "hirescam": "HiResCAM"},
        **{"layercam": "LayerCAM", "eigencam": "Eigen-CAM"},
    }


@pytest.mark.parametrize("name", [*METHODS])
def test_the_documentation_names_every_method_and_its_paper(name: str) -> None:
    rows = [line for line in (ROOT / "docs" / "explaining.md").read_text().splitlines() if f"`{name}`" in line]
    assert rows
    assert any(METHODS[name].source.split(",")[0] in row for row in rows)


def test_a_method_of_another_package_appears_everywhere() -> None:
    def loudest(recorded: Recorded) -> dict[str, Tensor]:
        return {
            layer: one.amax(dim=1).relu().expand(recorded.classes.shape[1], -1, -1, -1)
            for layer, one in recorded.activations().items()
        }

    others = {
        "loudest": LayerMethod("Loudest", "largest activation", "nobody", loudest),
        "guess": ScoreMethod("Guess", "nothing", "nobody", lambda _scores, images, _: images[:, 0] * 0),
    }
    with METHODS.temporarily(others):
        maps = cam(network("test_resnet"), batch(2), 0, ("layer4",), "loudest")["layer4"]
        assert maps.shape == (2, 2, 2)
        assert "loudest" in interactive_methods()
        with pytest.raises(PetechiaError, match=r"'guess' is not a method; the methods are gradcam, .*-skip, loudest\."):
            cam(network("test_resnet"), batch(2), 0, ("layer4",), "guess")
    with pytest.raises(TypeError, match="is neither a petechia.saliency.LayerMethod"), METHODS.temporarily({"x": loudest}):
        pass


def test_help_lists_the_methods() -> None:
    shown = " ".join(CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "300"}).output.split())
    assert f"{', '.join(LAYER_METHODS)}, occlusion or rise." in shown


def test_the_usual_occlusion_covers_each_image_with_its_own_mean() -> None:
    images = torch.rand(3, 1, 40, 48, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.5, 0.1]).view(3, 1, 1, 1)
    targets = torch.tensor([0, 1, 0])

    def scores(given: Tensor) -> Tensor:
        return torch.stack([given[:, 0, 3:9, 4:20].mean(dim=(1, 2)), given.mean(dim=(1, 2, 3))], dim=1)

    found = occlusion_by_eighths(scores, images, targets)
    for row in range(3):
        one = images[row : row + 1]
        alone = occlusion(scores, one, targets[row : row + 1], window=5, stride=2, value=float(one.mean()))
        assert torch.equal(found[row : row + 1], alone)
