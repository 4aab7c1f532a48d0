"""The layers "last" and "middle" of networks of all kinds, against Grad-CAM by hand."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from timm.layers.config import set_fused_attn
from timm.models.hiera import Hiera
from timm.models.mlp_mixer import MlpMixer
from timm.models.volo import VOLO
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.models.openers.adapter import InputSpec, LogitAdapter
from petechia.models.openers.program import opened
from petechia.saliency import cam, explain
from petechia.saliency.layers import names_of
from petechia.saliency.readings import Reader, Reading
from tests.conftest import TORTURE

SIZE = 64
CLASSES = 3


class Hand(NamedTuple):
    """A layer, and how it arranges what it gives: [B, C, h, w], [B, h, w, C] or tokens after a prefix; its place in a tuple."""

    module: str
    kind: str = "BTC"
    prefix: int = 0
    place: int | None = None


class Family(NamedTuple):
    """A small network, and its layers; no middle one: none is named."""

    make: Callable[[], nn.Module]
    last: Hand
    middle: Hand | None = None
    size: int = SIZE


def of_timm(arch: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(arch, num_classes=CLASSES, **settings)


def volo() -> nn.Module:
    return VOLO([1, 1, 2, 1], img_size=SIZE, num_classes=CLASSES, embed_dims=[48, 96, 96, 96], num_heads=[2, 2, 2, 2])


def hiera() -> nn.Module:
    return Hiera(img_size=(224, 224), num_classes=CLASSES, embed_dim=24, num_heads=1, stages=(1, 1, 2, 1))


FAMILIES = {
    "levit": Family(of_timm("levit_128s"), Hand("stages"), Hand("stages.1"), 224),
    "xcit": Family(
        of_timm("xcit_nano_12_p16_224", img_size=SIZE, depth=6), Hand("cls_attn_blocks.1.norm1", prefix=1), Hand("blocks.2")
    ),
    "cait": Family(of_timm("cait_xxs24_224", img_size=SIZE, depth=6), Hand("blocks"), Hand("blocks.1")),
    "pit": Family(
        of_timm("pit_ti_224", img_size=SIZE),
        Hand("transformers.2.blocks.3.norm1", prefix=1),
        Hand("transformers.1", "BCHW", place=0),
    ),
    "volo": Family(volo, Hand("norm", prefix=1), Hand("network.0", "BHWC")),
    "crossvit": Family(
        of_timm("crossvit_tiny_240", depth=((1, 1, 0), (1, 1, 0))), Hand("blocks.1.blocks.0.0.norm1", prefix=1), size=240
    ),
    "coat": Family(
        of_timm("coat_tiny", img_size=SIZE, serial_depths=(1, 1, 1, 1), parallel_depth=2),
        Hand("parallel_blocks.0", prefix=1, place=1),
        Hand("serial_blocks1.0", prefix=1),
    ),
    "sam": Family(
        of_timm("samvit_base_patch16_224", img_size=SIZE, embed_dim=48, depth=6, num_heads=2),
        Hand("neck", "BCHW"),
        Hand("blocks.2", "BHWC"),
    ),
    "tnt": Family(
        of_timm("tnt_s_legacy_patch16_224", img_size=SIZE, embed_dim=48, inner_dim=12, depth=6),
        Hand("blocks.4", prefix=1, place=1),
        Hand("blocks.2", prefix=1, place=1),
    ),
    "mixer": Family(
        lambda: MlpMixer(num_classes=CLASSES, img_size=SIZE, num_blocks=4, embed_dim=48),
        Hand("blocks.3.norm1"),
        Hand("blocks.1.norm1"),
    ),
    "vit without a class token": Family(
        of_timm("test_vit", img_size=SIZE, global_pool="avg", class_token=False), Hand("blocks.5.norm1"), Hand("blocks.2.norm1")
    ),
    "deit, distilled": Family(
        of_timm("deit_tiny_distilled_patch16_224", img_size=SIZE, depth=4, embed_dim=48),
        Hand("blocks.3.norm1", prefix=2),
        Hand("blocks.1.norm1", prefix=2),
    ),
    "swin": Family(
        of_timm("swin_tiny_patch4_window7_224", img_size=112, depths=(1, 1, 1, 1), embed_dim=24),
        Hand("norm", "BHWC"),
        Hand("layers.2", "BHWC"),
        112,
    ),
}


def varied(network: nn.Module) -> nn.Module:
    """Scales and norms that differ between channels, or some maps would be 0."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.rand_like(weight))
        for one in network.modules():
            if isinstance(one, nn.Linear) and one.out_features == CLASSES:
                nn.init.normal_(one.weight, std=0.1)  # some begin at 0
                one.weight[2] = -one.weight[0]  # what speaks against one class speaks for another, so that one has heat
    return network.eval()


def images(count: int = 1, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def by_hand(network: nn.Module, image: Tensor, target: int, hand: Hand) -> Tensor:
    """Grad-CAM in the whole graph."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Any) -> None:
        output = output if hand.place is None else output[hand.place]
        output.retain_grad()
        kept.append(output)

    network.requires_grad_(False)  # LeViT keeps what it computes of parameters
    handle = network.get_submodule(hand.module).register_forward_hook(keep)
    network(image.clone().requires_grad_())[0, target].backward()
    handle.remove()
    assert kept[-1].grad is not None
    activation, slope = kept[-1].detach()[0], kept[-1].grad[0]
    if hand.kind == "BTC":
        side = round((len(activation) - hand.prefix) ** 0.5)
        activation, slope = (one[hand.prefix :].reshape(side, side, -1) for one in (activation, slope))
    if hand.kind != "BCHW":
        activation, slope = activation.permute(2, 0, 1), slope.permute(2, 0, 1)
    return (activation * slope.mean(dim=(1, 2))[:, None, None]).sum(dim=0).relu()


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_every_family_agree_with_grad_cam_by_hand(family: str) -> None:
    make, last, middle, size = FAMILIES[family]
    torch.manual_seed(0)
    network, image = varied(make()), images(1, size)
    wanted = {"last": last} | ({"middle": middle} if middle else {})
    assert names_of(network, image) == {layer: hand.module for layer, hand in wanted.items()}
    found = [cam(network, image, target) for target in range(CLASSES)]
    for layer, hand in wanted.items():
        truth = torch.stack([by_hand(network, image, target, hand) for target in range(CLASSES)])
        maps = torch.cat([one[layer] for one in found])
        assert float(truth.max()) > 0
        assert float((maps - truth).abs().max() / truth.max()) < 1e-4
    assert not any(module._forward_hooks for module in network.modules())
    assert len(found[0]) == len(wanted)


def test_tokens_in_another_order_are_put_in_place() -> None:
    """Hiera keeps the tokens of a window together: of 2 x 2 places each, at the third stage."""
    torch.manual_seed(0)
    network, image = varied(hiera()), images(1, 224)
    names = names_of(network, image)
    assert names == {"last": "blocks.4", "middle": "blocks.3"}
    kept: list[Tensor] = []
    network.get_submodule("blocks.3").register_forward_hook(lambda _module, _given, output: kept.append(output))
    maps = cam(network, image, 0, method="eigencam")
    tokens = kept[-1].detach()[0]
    left, values, _ = torch.linalg.svd(tokens, full_matrices=False)
    principal = left[:, 0] * values[0]
    principal = principal * principal.sum().sign()
    in_place = principal.reshape(2, 2, 7, 7).permute(2, 0, 3, 1).reshape(14, 14).relu()
    assert torch.allclose(maps["middle"][0], in_place, atol=1e-4 * float(in_place.max()))
    with pytest.raises(PetechiaError, match=r"Layer 'blocks.1.norm1' gives \[1, \d+, \d+\], not a map"):
        cam(network, image, 0, ("blocks.1.norm1",))


class Shuffled(nn.Module):
    """Tokens in an order that nothing tells of."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16), nn.Linear(16, CLASSES)
        self.order = order

    def forward(self, given: Tensor) -> Tensor:
        tokens = self.embed(given).flatten(2).mT[:, self.order]
        scores: Tensor = self.head(self.norm(tokens).square().mean(dim=1))
        return scores


def test_tokens_in_an_unknown_order_are_refused() -> None:
    torch.manual_seed(0)
    shuffled = Shuffled(torch.randperm(64, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(PetechiaError, match=r"maps of Shuffled do not lie on the image.*another order.*occlusion or rise"):
        cam(shuffled, images(), 0)
    assert names_of(Shuffled(torch.arange(64)), images())["last"] == "norm"


def test_a_network_without_gradients_has_a_sentence() -> None:
    class Flat(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return given.detach().mean(dim=(2, 3))

    with pytest.raises(PetechiaError, match=r"scores of Flat have no gradient at the image.*occlusion or rise"):
        cam(Flat(), images(), 0)


class Wrapped(nn.Module):
    """What many have around a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network

    def forward(self, given: Tensor) -> Tensor:
        scores: Tensor = self.backbone(given)
        return scores


@pytest.mark.parametrize(
    "make",
    [
        of_timm("test_vit", img_size=SIZE),
        of_timm("test_resnet"),
        lambda: timm.models.DenseNet(block_config=(2, 2, 2, 2), growth_rate=8, num_classes=CLASSES),
    ],
)
def test_what_is_wrapped_around_a_network_does_not_matter(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    names = names_of(network, images())
    assert set(names) == {"last", "middle"}
    assert names_of(Wrapped(network), images()) == {layer: f"backbone.{name}" for layer, name in names.items()}


def test_a_network_that_keeps_what_it_computed_can_be_trained_afterwards() -> None:
    network = timm.create_model("levit_128s", num_classes=CLASSES).eval()
    cam(network, images(1, 224), 0)
    for _ in range(2):
        network(images(1, 224))[0, 0].backward()
    assert all(parameter.requires_grad for parameter in network.parameters())


class Shared(nn.Module):
    """A module that runs at two sizes of maps, as in timm's Visformer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 2, 2)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.second(self.norm(self.first(given)))).square().mean(dim=(2, 3)))
        return scores


def test_a_module_that_runs_at_several_sizes_counts_by_its_last_run() -> None:
    torch.manual_seed(0)
    network = Shared().eval()
    assert names_of(network, images()) == {"last": "norm", "middle": "first"}
    assert cam(network, images(), 0)["last"].shape == (1, 4, 4)


class Attention(nn.Module):
    """As many tokens as pixels of the map of attention: [B, heads, 64, 64] looks like a map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.drop = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 48), nn.Dropout()
        self.head = nn.Linear(16, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        tokens = self.embed(given).flatten(2).mT
        query, key, value = self.mix(tokens).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        shares = self.drop((query @ key.mT).softmax(dim=-1))
        mixed = (shares @ value).transpose(1, 2).flatten(2)
        scores: Tensor = self.head(mixed.mean(dim=1))
        return scores


def test_attention_is_no_map() -> None:
    network = Attention()
    assert names_of(network, images())["last"] == "mix"
    with pytest.raises(PetechiaError, match=r"Layer 'drop' gives \[1, 2, 64, 64\], not a map"):
        cam(network, images(), 0, ("drop",))


def test_a_classifier_whose_weights_are_still_0_has_its_layers() -> None:
    network = timm.create_model("xcit_nano_12_p16_224", img_size=SIZE, depth=2, num_classes=CLASSES).eval()
    wanted = names_of(network, images())
    again = timm.create_model("xcit_nano_12_p16_224", img_size=SIZE, depth=2, num_classes=CLASSES).eval()
    nn.init.zeros_(again.get_parameter("head.weight"))
    assert names_of(again, images()) == wanted
    assert wanted["last"] == "cls_attn_blocks.1.norm1"


@pytest.mark.parametrize(
    ("shape", "reading"),
    [
        ((2, 65, 64), Reading("BTC", (8, 8), 1)),
        ((2, 69, 64), Reading("BTC", (8, 8), 5)),
        ((2, 256, 64), Reading("BCT", (8, 8))),
        ((2, 256, 16), Reading("BCT", (4, 4))),
        ((2, 64, 256), Reading("BTC", (8, 8))),
        ((2, 1, 64), None),
        ((2, 12, 8, 8), Reading("BCHW", (8, 8))),
        ((2, 8, 8, 12), Reading("BHWC", (8, 8))),
        ((2, 3, 65, 65), None),
        ((8, 64, 12), None),
    ],
)
def test_shapes_are_read(shape: tuple[int, ...], reading: Reading | None) -> None:
    known = [(2, 12, 8, 8), (2, 65, 12)]
    assert next(iter(Reader((SIZE, SIZE)).read([*known, shape], 2)[-1]), None) == reading


def exported(network: nn.Module, folder: Path, batch: int | None = None, size: int = SIZE, bare: bool = False) -> nn.Module:
    """A program, opened; bare: its file does not tell the modules of the network."""
    free = None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(network, (torch.zeros(batch or 2, 3, size, size),), dynamic_shapes=free)
    torch.export.save(program, folder / "network.pt2")
    if bare:
        _strip(folder / "network.pt2")
    return opened(folder / "network.pt2").eval()


def _strip(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        content = {entry.filename: file.read(entry) for entry in file.infolist()}
    (name,) = [name for name in content if name.endswith("models/model.json")]
    said = json.loads(content[name])
    for node in said["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    content[name] = json.dumps(said).encode()
    with zipfile.ZipFile(path, "w") as file:
        for entry, data in content.items():
            file.writestr(entry, data)


PROGRAMS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "vit, plain attention": ("test_vit", {"img_size": SIZE, "depth": 3}, False),
    "vit, no class token": ("test_vit", {"img_size": SIZE, "depth": 3, "class_token": False, "global_pool": "avg"}, False),
    "vit, fused attention": ("test_vit", {"img_size": SIZE, "depth": 3}, True),
    "resnet": ("test_resnet", {}, True),
}
MORE_PROGRAMS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "deit, distilled": ("deit_tiny_distilled_patch16_224", {"img_size": SIZE, "depth": 4, "embed_dim": 48}, True),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": SIZE, "depths": (1, 1, 1, 1), "embed_dim": 24, "window_size": 4},
        True,
    ),
    "convnext": ("test_convnext", {}, True),
    "efficientnet": ("test_efficientnet", {}, True),
    "mobilenet": ("lcnet_035", {}, True),
}
PROGRAMS |= MORE_PROGRAMS if TORTURE else {}  # an export takes seconds


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_exported_network_has_the_maps_of_the_network(program: str, tmp_path: Path) -> None:
    arch, settings, fused = PROGRAMS[program]
    torch.manual_seed(0)
    set_fused_attn(fused)
    network = varied(timm.create_model(arch, num_classes=CLASSES, **settings))
    same(exported(network, tmp_path), network)
    set_fused_attn(True)


def same(program: nn.Module, network: nn.Module) -> None:
    given = images(3)
    truth, found = explain(network, given, [[0, 1, 2]] * 3), explain(program, given, [[0, 1, 2]] * 3)
    assert set(found.maps) == set(truth.maps) == {"middle", "last"}
    for layer, maps in truth.maps.items():
        assert float(maps.max()) > 0
        assert found.maps[layer].shape == maps.shape
        assert float((found.maps[layer] - maps).abs().max() / maps.max()) < 1e-4


def test_an_exported_densenet_has_the_papers_layers(tmp_path: Path) -> None:
    network = varied(timm.models.DenseNet(block_config=(1, 1, 1, 1), growth_rate=8, num_classes=CLASSES))
    program = exported(network, tmp_path)
    same(program, network)
    by_name = cam(program, images(), 0, ("features.transition3.norm",))["features.transition3.norm"]
    assert torch.equal(by_name, cam(program, images(), 0, ("middle",))["middle"])


@pytest.mark.parametrize("class_token", [True, False])
def test_a_program_that_does_not_tell_its_modules_has_a_map_all_the_same(class_token: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    set_fused_attn(False)
    pool = "token" if class_token else "avg"
    network = varied(
        timm.create_model("test_vit", num_classes=CLASSES, img_size=SIZE, depth=3, class_token=class_token, global_pool=pool)
    )
    program = exported(network, tmp_path, bare=True)
    set_fused_attn(True)
    found = cam(program, images(), 0)
    last = "blocks.2.norm1" if class_token else "norm"
    assert found["last"].shape == (1, 4, 4)
    assert torch.allclose(found["last"], cam(network, images(), 0, (last,))[last], atol=1e-6)


def test_a_program_for_two_images_explains_five(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, given = varied(timm.create_model("test_resnet", num_classes=CLASSES)), images(5)
    spec = InputSpec(2, 3, SIZE)
    adapter = LogitAdapter(exported(network, tmp_path, batch=2), spec, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).eval()
    for targets in (None, 1, [0, 1, 2, 0, 1], [[0, 2]] * 5):
        truth, found = explain(network, given, targets), explain(adapter, given, targets)
        assert torch.equal(found.targets, truth.targets)
        assert torch.allclose(found.logits, truth.logits, atol=1e-5)
        for layer, maps in truth.maps.items():
            assert torch.allclose(found.maps[layer], maps, atol=1e-5)
