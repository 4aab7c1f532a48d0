"""Maps whose shape could be read in several ways, or that do not lie on the image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.models.openers.program import opened
from petechia.saliency import cam
from petechia.saliency.layers import names_of

SIZE, PATCH, SIDE, CLASSES = 32, 4, 8, 8  # pixels; of a patch; patches in a row


def one_image(size: int = SIZE) -> Tensor:
    return torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(1))


class Mixing(nn.Module):
    """Each token takes something of the mean of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.common = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = tokens + (self.own(tokens) + self.common(tokens.mean(dim=1, keepdim=True))).tanh()
        return mixed


class Tokens(nn.Module):
    """Patches, by a convolution or by rearranging pixels, with tokens of their own before or after them."""

    def __init__(self, before: int, after: int, convolution: bool, width: int = 24) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.embed: nn.Module = nn.Conv2d(1, width, PATCH, PATCH) if convolution else nn.Linear(PATCH * PATCH, width)
        self.extra = nn.Parameter(torch.randn(1, before + after, width))
        self.blocks = nn.Sequential(Mixing(width), Mixing(width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        if isinstance(self.embed, nn.Conv2d):
            patches = self.embed(image).flatten(2).mT
        else:
            rows = image.view(-1, SIDE, PATCH, SIDE, PATCH).permute(0, 1, 3, 2, 4)
            patches = self.embed(rows.reshape(-1, SIDE * SIDE, PATCH * PATCH))
        extra = self.extra.expand(len(image), -1, -1)
        tokens = torch.cat([extra[:, : self.before], patches, extra[:, self.before :]], dim=1)
        scores: Tensor = self.head(self.blocks(tokens).square().mean(dim=1))
        return scores


class ChannelsLast(nn.Module):
    """Maps [B, h, w, C]."""

    def __init__(self, width: int, patch: int = PATCH) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, width, patch, patch), nn.Linear(width, CLASSES)
        self.blocks = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(self.embed(image).permute(0, 2, 3, 1)).square().mean(dim=(1, 2)))
        return scores


class ChannelsFirst(nn.Module):
    """Tokens [B, C, T]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, width, PATCH, PATCH), nn.Linear(width, CLASSES)
        self.blocks = nn.Sequential(nn.Conv1d(width, width, 1), nn.GELU())

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(self.embed(image).flatten(2)).square().mean(dim=2))
        return scores


def by_hand(network: nn.Module, target: int, arranged: Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM of what the blocks give, whose places are arranged as [1, C, h, w] by what is known of the network."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    handle = network.get_submodule("blocks").register_forward_hook(keep)
    score = network(one_image())[0, target]
    handle.remove()
    slopes = arranged(torch.autograd.grad(score, kept[-1])[0])
    return (slopes.mean(dim=(2, 3), keepdim=True) * arranged(kept[-1].detach())).sum(dim=1).relu()[0]


def of_tokens(before: int) -> Callable[[Tensor], Tensor]:
    return lambda tokens: tokens[:, before : before + SIDE * SIDE].mT.reshape(1, -1, SIDE, SIDE)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    f"{before} tokens before, {after} after, {'convolution' if convolution else 'rearranged'}": (
        lambda before=before, after=after, convolution=convolution: Tokens(before, after, convolution),  # type: ignore[misc]
        of_tokens(before),
    )
    for before, after in ((0, 0), (1, 0), (5, 0), (0, 1), (0, 5), (2, 2))
    for convolution in (True, False)
}
CASES |= {
    f"[B, h, w, {width}]": (lambda width=width: ChannelsLast(width), lambda maps: maps.permute(0, 3, 1, 2))  # type: ignore[misc]
    for width in (7, 8, 9, 24)
}
CASES |= {"[B, 16, 16, 16]": (lambda: ChannelsLast(16, 2), lambda maps: maps.permute(0, 3, 1, 2))}
CASES |= {
    f"[B, {width}, {SIDE * SIDE}]": (lambda width=width: ChannelsFirst(width), lambda tokens: tokens.reshape(1, -1, SIDE, SIDE))  # type: ignore[misc]
    for width in (36, 64, 65)
}


@pytest.mark.parametrize("case", CASES)
def test_what_could_be_read_in_several_ways_is_read_right(case: str) -> None:
    make, arranged = CASES[case]
    torch.manual_seed(0)
    network = make().eval()
    truth = torch.stack([by_hand(network, target, arranged) for target in range(CLASSES)])
    found = torch.cat([cam(network, one_image(), target, ("last",))["last"] for target in range(CLASSES)])
    assert float(truth.max()) > 0
    assert float((found - truth).abs().max() / truth.max()) < 1e-4


class Changed(nn.Module):
    """Does something to the image first."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.head = change, nn.Linear(8, CLASSES)
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(self.change(image)).mean(dim=(2, 3)))
        return scores


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[:, :, 8:-8, 8:-8],
        lambda image: image.flip(3),
        lambda image: image.flip(2),
        lambda image: image.mT,
        lambda image: image.rot90(1, (2, 3)),
        lambda image: image.roll((SIZE // 2, SIZE // 2), (2, 3)),
        lambda image: image.roll(SIZE // 4, 2),
        lambda image: image[:, :, SIZE // 3 :, SIZE // 3 :],
        lambda image: nn.functional.pad(image, (SIZE // 2, 0, SIZE // 2, 0)),
        lambda image: nn.functional.interpolate(image[:, :, :, : SIZE // 2], (SIZE, SIZE)),
    ],
    ids=["cropped", "mirrored", "upside down", "transposed", "turned", "rolled", "shifted", "off centre", "padded", "half"],
)
def test_maps_that_do_not_lie_on_the_image_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    with pytest.raises(PetechiaError, match=r"maps of Changed do not lie on the image.*crops, turns or mirrors.*occlusion"):
        cam(Changed(change).eval(), one_image(), 0)
    assert cam(Changed(lambda image: image).eval(), one_image(), 0)["last"].shape == (1, SIDE, SIDE)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["large strided kernels", "dilated", "dead on noise"])
def test_cells_that_see_most_of_the_image_are_no_reason_to_refuse(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number in range(4):
        convolution = (
            nn.Conv2d(8 if number else 1, 8, 3, padding=2**number, dilation=2**number)
            if kind == "dilated"
            else nn.Conv2d(8 if number else 1, 8, 5, 2, 2)
        )
        layers += [convolution, nn.BatchNorm2d(8), nn.ReLU()]
    network = Changed(lambda image: image)
    network.features = nn.Sequential(*layers)
    if kind == "dead on noise":
        layers[-2].bias.data.fill_(-20)  # type: ignore[operator]
    assert set(names_of(network.eval(), one_image())) >= {"last"}


def test_rows_of_a_program_of_one_dimension_are_no_tokens(tmp_path: Path) -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv1d(64, 24, 3), nn.Conv1d(24, 24, 3), nn.Linear(24, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.head(self.second(self.first(image[:, 0]).relu()).relu().mean(dim=2))
            return scores

    torch.manual_seed(0)
    program = torch.export.export(Columns().eval(), (torch.zeros(2, 1, 64, 64),))
    torch.export.save(program, tmp_path / "columns.pt2")
    with pytest.raises(PetechiaError, match="do not lie on the image|no map larger"):
        cam(opened(tmp_path / "columns.pt2").eval(), one_image(64), 0)


def test_a_script_has_a_sentence() -> None:
    script = torch.jit.trace(Changed(lambda image: image).eval(), one_image())  # type: ignore[no-untyped-call]
    with pytest.raises(PetechiaError, match=r"contains a ScriptModule, whose layers cannot be read.*occlusion or rise"):
        cam(script, one_image(), 0)
