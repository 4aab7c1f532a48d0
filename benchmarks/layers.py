"""Which layers of timm's networks are explained, a network of every family, against Grad-CAM by hand.

    python -m benchmarks.layers [FAMILY…] --out FILE

Weights are random. The computation by hand hooks the layer's module in the whole graph, one class at a time, and arranges what
the module gives as rows and columns by what is written down here of its family.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.data import Preprocess
from petechia.models.model import Architecture, Description, Model
from petechia.saliency import cam
from petechia.saliency.layers import NAMED, names_of

CLASSES = ("A", "B", "C")
# The smallest network of each family, or a small one that has what the family is known for.
NETWORKS = {
    "beit": ("beit_base_patch16_224",),
    "byoanet": ("halonet_h1",),
    "byobnet": ("test_byobnet",),
    "cait": ("cait_xxs24_224",),
    "coat": ("coat_lite_tiny", "coat_tiny"),
    "convit": ("convit_tiny",),
    "convmixer": ("convmixer_768_32",),
    "convnext": ("test_convnext",),
    "cpubone": ("cpubone_nano",),
    "crossvit": ("crossvit_tiny_240",),
    "csatv2": ("csatv2",),
    "cspnet": ("cs3darknet_focus_s",),
    "cspnext": ("cspnext_tiny",),
    "davit": ("davit_tiny",),
    "deepseek_vit": ("deepseek_vit_412m",),
    "deit": ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"),
    "densenet": ("densenet121",),
    "dla": ("dla46x_c",),
    "dpn": ("dpn48b",),
    "edgenext": ("edgenext_xx_small",),
    "efficientformer": ("efficientformer_l1",),
    "efficientformer_v2": ("efficientformerv2_s0",),
    "efficientnet": ("test_efficientnet", "efficientnet_lite0"),
    "efficientvim": ("efficientvim_m1",),
    "efficientvit_mit": ("efficientvit_b0",),
    "efficientvit_msra": ("efficientvit_m0",),
    "eva": ("vit_tiny_patch16_dinov3_qkvb",),
    "fasternet": ("fasternet_t0",),
    "fastvit": ("fastvit_t8",),
    "focalnet": ("focalnet_tiny_srf",),
    "gcvit": ("gcvit_xxtiny",),
    "gemma4_vit": ("gemma4_vit_167m_enc",),
    "ghostnet": ("ghostnet_050",),
    "hardcorenas": ("hardcorenas_b",),
    "hgnet": ("hgnetv2_b0",),
    "hiera": ("hiera_tiny_224",),
    "hieradet_sam2": ("sam2_hiera_tiny",),
    "hrnet": ("hrnet_w18_small",),
    "iformer": ("iformer_t",),
    "inception_next": ("inception_next_atto",),
    "inception_resnet_v2": ("inception_resnet_v2",),
    "inception_v3": ("inception_v3",),
    "inception_v4": ("inception_v4",),
    "lcnetv2": ("lcnetv2_small",),
    "levit": ("levit_128s",),
    "lowformer": ("lowformer_b0",),
    "mambaout": ("test_mambaout",),
    "maxxvit": ("test_coatnet", "maxvit_rmlp_pico_rw_256"),
    "metaformer": ("poolformer_s12", "caformer_s18"),
    "mlp_mixer": ("mixer_s32_224", "gmixer_12_224", "gmlp_ti16_224", "resmlp_12_224"),
    "mobilenetv3": ("lcnet_035",),
    "mobilenetv5": ("mobilenetv5_base",),
    "mobilevit": ("mobilevit_xxs",),
    "mvitv2": ("mvitv2_tiny",),
    "naflexvit": ("naflexvit_base_patch16_gap",),
    "nasnet": ("nasnetalarge",),
    "nest": ("nest_tiny",),
    "nextvit": ("nextvit_small",),
    "nfnet": ("test_nfnet",),
    "pit": ("pit_ti_224",),
    "pnasnet": ("pnasnet5large",),
    "pvt_v2": ("pvt_v2_b0",),
    "qwen3_vit": ("qwen3_vit_88m",),
    "rdnet": ("rdnet_tiny",),
    "regnet": ("regnetx_002",),
    "repghost": ("repghostnet_050",),
    "repvit": ("repvit_m1",),
    "res2net": ("res2next50",),
    "resnest": ("resnest14d",),
    "resnet": ("test_resnet", "resnet18"),
    "resnetv2": ("resnetv2_18",),
    "rexnet": ("rexnet_100",),
    "selecsls": ("selecsls42",),
    "senet": ("legacy_seresnet18",),
    "sequencer": ("sequencer2d_s",),
    "shvit": ("shvit_s1",),
    "sknet": ("skresnet18",),
    "starnet": ("starnet_s050",),
    "swiftformer": ("swiftformer_xs",),
    "swin_transformer": ("swin_tiny_patch4_window7_224",),
    "swin_transformer_v2": ("swinv2_tiny_window8_256",),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224",),
    "tiny_vit": ("tiny_vit_5m_224",),
    "tnt": ("tnt_s_legacy_patch16_224",),
    "tresnet": ("tresnet_m",),
    "twins": ("twins_svt_small", "twins_pcpvt_small"),
    "vgg": ("vgg11",),
    "visformer": ("visformer_tiny",),
    "vision_transformer": ("test_vit", "vit_medium_patch16_reg4_gap_256"),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224",),
    "vision_transformer_relpos": ("test_vit_relpos",),
    "vision_transformer_sam": ("samvit_base_patch16_224",),
    "vitamin": ("vitamin_small_224",),
    "volo": ("volo_d1_224",),
    "vovnet": ("ese_vovnet19b_slim_dw",),
    "xception": ("legacy_xception",),
    "xception_aligned": ("xception41p",),
    "xcit": ("xcit_nano_12_p16_224",),
}
SIZES = {"sam2_hiera_tiny": 224, "qwen3_vit_88m": 256, "deepseek_vit_412m": 294}  # pixels, smaller than usual
# Of networks whose smallest one is large.
SMALLER: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 4},
    "qwen3_vit_88m": {"depth": 4},
    "naflexvit_base_patch16_gap": {"embed_dim": 192, "num_heads": 3},
}
HEAD = "| family | network | image | last | cells | middle | cells | largest difference |\n|---|---|--:|---|--:|---|--:|--:|"


class Hand(NamedTuple):
    """How a network arranges what a layer gives.

    Attributes:
        kind: its dimensions: "BCHW", "BHWC", tokens "BTC", or "windows" of Hiera: tokens by places in a 2 x 2 window.
        prefix: tokens before those of the image.
        place: of the tensor in a tuple that the layer gives.
    """

    kind: str = "BCHW"
    prefix: int = 0
    place: int | None = None


TOKENS, AFTER_CLASS = Hand("BTC"), Hand("BTC", 1)
# By network, the last and the middle layer. All others give [B, C, h, w].
BY_HAND: dict[str, tuple[Hand, Hand]] = {
    "beit_base_patch16_224": (AFTER_CLASS, AFTER_CLASS),
    "cait_xxs24_224": (TOKENS, TOKENS),
    "coat_lite_tiny": (AFTER_CLASS, AFTER_CLASS),
    "coat_tiny": (Hand("BTC", 1, 1), AFTER_CLASS),
    "convit_tiny": (AFTER_CLASS, TOKENS),
    "crossvit_tiny_240": (AFTER_CLASS, AFTER_CLASS),
    "deit_tiny_patch16_224": (AFTER_CLASS, AFTER_CLASS),
    "deit_tiny_distilled_patch16_224": (Hand("BTC", 2), Hand("BTC", 2)),
    "efficientformer_l1": (TOKENS, Hand()),
    "vit_tiny_patch16_dinov3_qkvb": (Hand("BTC", 5), Hand("BTC", 5)),
    "hiera_tiny_224": (TOKENS, Hand("windows")),
    "levit_128s": (TOKENS, TOKENS),
    "mixer_s32_224": (TOKENS, TOKENS),
    "gmixer_12_224": (TOKENS, TOKENS),
    "gmlp_ti16_224": (TOKENS, TOKENS),
    "resmlp_12_224": (TOKENS, TOKENS),
    "mvitv2_tiny": (TOKENS, Hand("BTC", 0, 0)),
    "naflexvit_base_patch16_gap": (Hand("BTC", 4), Hand("BTC", 4)),
    "pit_ti_224": (AFTER_CLASS, Hand("BCHW", 0, 0)),
    "tnt_s_legacy_patch16_224": (Hand("BTC", 1, 1), Hand("BTC", 1, 1)),
    "twins_svt_small": (TOKENS, TOKENS),
    "twins_pcpvt_small": (TOKENS, TOKENS),
    "test_vit": (AFTER_CLASS, AFTER_CLASS),
    "vit_medium_patch16_reg4_gap_256": (Hand("BTC", 4), Hand("BTC", 4)),
    "vit_tiny_r_s16_p8_224": (AFTER_CLASS, AFTER_CLASS),
    "test_vit_relpos": (TOKENS, TOKENS),
    "deepseek_vit_412m": (TOKENS, TOKENS),
    "qwen3_vit_88m": (TOKENS, TOKENS),
    "nest_tiny": (Hand("BHWC"), Hand()),
    "sam2_hiera_tiny": (Hand("BHWC"), Hand("BHWC")),
    "samvit_base_patch16_224": (Hand(), Hand("BHWC")),
    "vitamin_small_224": (TOKENS, TOKENS),
    "volo_d1_224": (AFTER_CLASS, Hand("BHWC")),
    "xcit_nano_12_p16_224": (AFTER_CLASS, TOKENS),
    "swin_tiny_patch4_window7_224": (Hand("BHWC"), Hand("BHWC")),
    "swinv2_tiny_window8_256": (Hand("BHWC"), Hand("BHWC")),
    "test_mambaout": (Hand("BHWC"), Hand("BHWC")),
    "sequencer2d_s": (Hand("BHWC"), Hand("BHWC")),
}


def built(name: str) -> Model:
    """Build a network with random weights; its norms differ from channel to channel, or some maps would be 0."""
    torch.manual_seed(0)
    network: Any = timm.create_model(name, num_classes=len(CLASSES), **SMALLER.get(name, {})).eval()
    with torch.no_grad():
        for one in network.modules():
            weight = getattr(one, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 1:
                weight.copy_(torch.rand_like(weight) + 0.5)
            if isinstance(one, nn.Linear | nn.Conv2d) and len(one.weight) == len(CLASSES):
                nn.init.normal_(one.weight, std=0.1)  # some begin at 0
                one.weight[2] = -one.weight[0]  # what speaks against A speaks for C, so that one of them has heat
    size = SIZES.get(name, network.pretrained_cfg["input_size"][-1])
    description = Description(
        architecture=Architecture(arch=name, channels=3),
        classes=CLASSES,
        preprocess=Preprocess(size=size),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    return Model(network, description).eval()


def by_hand(model: Model, image: Tensor, target: int, module: str, hand: Hand) -> Tensor:
    """Grad-CAM of one image, float32 [h, w]: weights are mean slopes; what is below 0 is 0."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Any) -> None:
        output = output if hand.place is None else output[hand.place]
        output.retain_grad()
        kept.append(output)

    model.requires_grad_(False)  # LeViT keeps what it computes of parameters
    handle = model.network.get_submodule(module).register_forward_hook(keep)
    model(image.clone().requires_grad_())[0, target].backward()
    handle.remove()
    activation, slope = kept[-1].detach()[0], kept[-1].grad[0]  # type: ignore[index]
    if hand.kind in ("BTC", "windows"):
        side = round((len(activation) - hand.prefix) ** 0.5)
        activation, slope = (one[hand.prefix :].reshape(side, side, -1) for one in (activation, slope))
    if hand.kind == "windows":
        half = side // 2
        activation, slope = (
            one.reshape(2, 2, half, half, -1).permute(2, 0, 3, 1, 4).reshape(side, side, -1) for one in (activation, slope)
        )
    if hand.kind != "BCHW":
        activation, slope = activation.permute(2, 0, 1), slope.permute(2, 0, 1)
    return torch.einsum("chw,c->hw", activation, slope.mean(dim=(1, 2))).relu()


def row(family: str, name: str) -> str:
    """Explain a network, and return its row of the table."""
    model = built(name)
    size = model.description.preprocess.size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    start = f"| {family} | {name} | {size} |"
    try:
        names = names_of(model, image)
        found = [cam(model, image, target, tuple(names)) for target in range(len(CLASSES))] if names else []
        if not names:
            cam(model, image)
    except PetechiaError as error:
        return f"{start} {error} |||||"
    differences, cells = [], {}
    for layer, module in names.items():
        hand = BY_HAND.get(name, (Hand(), Hand()))[NAMED.index(layer)]
        truth = torch.stack([by_hand(model, image, target, module, hand) for target in range(len(CLASSES))])
        maps = torch.cat([one[layer] for one in found])
        cells[layer] = f"{maps.shape[1]} × {maps.shape[2]}"
        fits = maps.shape == truth.shape and float(truth.max()) > 0
        difference = float((maps - truth).abs().max() / truth.max()) if fits else float("nan")
        differences.append(f"{difference:.0e}" if difference else "0")
    shown = " | ".join(f"`{names[layer]}` | {cells[layer]}" if layer in names else "none |" for layer in NAMED)
    return f"{start} {shown} | {', '.join(differences)} |"


def table(families: list[str]) -> Iterator[str]:
    """Yield the table; a network that is no classifier has its reason."""
    yield HEAD
    for family in families:
        for name in NETWORKS.get(family, timm.list_models(module=family)[:1]):
            try:
                yield row(family, name)
            except Exception as error:
                yield f"| {family} | {name} || {type(error).__name__}: {str(error)[:120]} |||||"
            gc.collect()


def main() -> None:
    """Print the table as it grows, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=timm.list_modules())
    parser.add_argument("--out", type=Path, default=Path("layers.md"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for line in table(given.families):
        print(line, flush=True)
        lines.append(line)
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
