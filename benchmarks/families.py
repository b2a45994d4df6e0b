"""Networks that nobody here wrote, one small member of each family: timm's by name, Hugging Face's from a tiny config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TIMM: dict[str, str] = {
    "BEiT": "beit_base_patch16_224", "BoTNet": "eca_botnext26ts_256", "HaloNet": "halonet_h1", "LambdaNet": "lambda_resnet26t",
    "MobileOne": "mobileone_s0", "RepVGG": "repvgg_a0", "GCResNeXt": "gcresnext26ts", "CaiT": "cait_xxs24_224",
    "CoaT": "coat_tiny", "ConViT": "convit_tiny", "ConvMixer": "convmixer_768_32", "ConvNeXt": "convnext_atto",
    "ConvNeXt RMS": "convnext_zepto_rms", "ConvNeXtV2": "convnextv2_atto", "CPUBone": "cpubone_nano",
    "CrossViT": "crossvit_9_dagger_240", "CSATv2": "csatv2", "CSPNet": "cs3darknet_s", "CSPNeXt": "cspnext_tiny",
    "DaViT": "davit_tiny", "DeiT distilled": "deit_tiny_distilled_patch16_224", "DeiT III": "deit3_small_patch16_224",
    "DenseNet": "densenet121", "DLA": "dla46_c", "DPN": "dpn48b", "EdgeNeXt": "edgenext_xx_small",
    "EfficientFormer": "efficientformer_l1", "EfficientFormerV2": "efficientformerv2_s0", "EfficientNet": "efficientnet_b0",
    "MobileNetV2": "mobilenetv2_035", "MixNet": "mixnet_s", "TinyNet": "tinynet_e", "EfficientViM": "efficientvim_m1",
    "EfficientViT (MIT)": "efficientvit_b0", "EfficientViT (MSRA)": "efficientvit_m0", "EVA02": "eva02_tiny_patch14_224",
    "DINOv3": "vit_tiny_patch16_dinov3_qkvb", "FasterNet": "fasternet_t0", "FastViT": "fastvit_t8",
    "FocalNet": "focalnet_tiny_srf", "GCViT": "gcvit_xxtiny", "GhostNet": "ghostnet_050", "HardCoRe-NAS": "hardcorenas_a",
    "HGNetV2": "hgnetv2_b0", "Hiera": "hiera_tiny_224", "HieraDet": "hieradet_small", "HRNet": "hrnet_w18_small",
    "iFormer": "iformer_t", "InceptionNeXt": "inception_next_atto", "Inception-ResNet": "inception_resnet_v2",
    "InceptionV3": "inception_v3", "InceptionV4": "inception_v4", "LCNetV2": "lcnetv2_small", "LeViT": "levit_128s",
    "LowFormer": "lowformer_b0", "MambaOut": "mambaout_femto", "MaxViT": "maxvit_pico_rw_256",
    "MaxxViT": "maxxvit_rmlp_nano_rw_256", "CoAtNet": "coatnet_pico_rw_224", "CoAtNet MLP": "coatnet_rmlp_nano_rw_224",
    "PoolFormer": "poolformer_s12", "PoolFormerV2": "poolformerv2_s12", "ConvFormer": "convformer_s18",
    "CAFormer": "caformer_s18", "MLP-Mixer": "mixer_s16_224", "ResMLP": "resmlp_12_224", "gMLP": "gmlp_ti16_224",
    "gMixer": "gmixer_12_224", "MobileNetV3": "mobilenetv3_small_050", "MobileNetV4": "mobilenetv4_hybrid_medium",
    "MobileViT": "mobilevit_xxs", "MobileViTV2": "mobilevitv2_050", "MViTv2": "mvitv2_tiny", "NesT": "nest_tiny",
    "Next-ViT": "nextvit_small", "NF-RegNet": "nf_regnet_b0", "NFNet": "dm_nfnet_f0", "NF-ResNet": "nf_resnet26",
    "PiT": "pit_ti_224",    "PVTv2": "pvt_v2_b0", "RDNet": "rdnet_tiny", "RegNetX": "regnetx_002", "RegNetY": "regnety_002",
    "RepGhost": "repghostnet_050", "RepViT": "repvit_m0_9", "Res2Net": "res2net50_14w_8s", "ResNeSt": "resnest14d",
    "ResNet": "resnet18", "ResNet-RS": "resnet26t", "SE-ResNet": "seresnet18", "ECA-ResNet": "ecaresnet26t",
    "ResNetV2": "resnetv2_18", "BiT": "resnetv2_50x1_bit", "ReXNet": "rexnet_100", "SelecSLS": "selecsls42",
    "SENet (legacy)": "legacy_seresnet18", "Sequencer": "sequencer2d_s", "SHViT": "shvit_s1", "SKNet": "skresnet18",
    "StarNet": "starnet_s050", "SwiftFormer": "swiftformer_xs", "Swin": "swin_tiny_patch4_window7_224",
    "SwinV2": "swinv2_tiny_window8_256", "SwinV2-CR": "swinv2_cr_tiny_ns_224", "TinyViT": "tiny_vit_5m_224",
    "TNT": "tnt_s_patch16_224", "TResNet": "tresnet_m", "Twins-SVT": "twins_svt_small", "Twins-PCPVT": "twins_pcpvt_small",
    "VGG": "vgg11_bn", "Visformer": "visformer_tiny", "ViT": "vit_tiny_patch16_224",
    "ViT registers": "vit_wee_patch16_reg1_gap_256",    "ViT hybrid": "vit_tiny_r_s16_p8_224",
    "ViT relpos": "vit_relpos_small_patch16_224",
    "ViT srelpos": "vit_srelpos_small_patch16_224", "ViT-SAM": "samvit_base_patch16_224", "ViTamin": "vitamin_small_224",
    "VOLO": "volo_d1_224", "VoVNet": "ese_vovnet19b_slim_dw", "Xception": "legacy_xception", "Xception aligned": "xception41",
    "XCiT": "xcit_nano_12_p16_224",
}  # fmt: skip
SHALLOWER = {"BEiT": {"depth": 3}, "ViT-SAM": {"depth": 3}}  # members for which small ones do not exist
SIZES = (64, 96, 112, 128, 160, 192, 224, 240, 256, 299)


class Logits(nn.Module):
    """A Hugging Face classifier that returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 10]."""
        return self.network(pixel_values=x).logits


def _transformers(name: str, **settings: Any) -> Callable[[int], nn.Module]:
    def build(size: int) -> nn.Module:
        import transformers

        sized = {"image_size": size} if name not in ("ResNet", "ConvNext", "ConvNextV2") else {}
        config = getattr(transformers, f"{name}Config")(num_labels=10, **sized, **settings)
        return Logits(getattr(transformers, f"{name}ForImageClassification")(config))

    return build


_VIT = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
HUGGING_FACE: dict[str, Callable[[int], nn.Module]] = {
    "HF ViT": _transformers("ViT", **_VIT),
    "HF DINOv2": _transformers("Dinov2", **{k: v for k, v in _VIT.items() if k != "intermediate_size"}, patch_size=16),
    "HF BEiT": _transformers("Beit", **_VIT),
    "HF ResNet": _transformers("ResNet", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic"),
    "HF ConvNeXt": _transformers("ConvNext", depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320]),
    "HF ConvNeXtV2": _transformers("ConvNextV2", depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320]),
    "HF Swin": _transformers("Swin", embed_dim=48, depths=[2, 2, 2, 2], window_size=7),
}
FAMILIES = (*TIMM, *HUGGING_FACE)


def build(family: str, whole: bool = False) -> tuple[nn.Module, int]:
    """A member of the family with ten classes, and the size of its images.

    Args:
        family: one of `FAMILIES`.
        whole: take the size that its authors meant; otherwise the smallest of `SIZES` that goes through.
    """
    if family in HUGGING_FACE:
        size = 224 if whole or family == "HF Swin" else 64  # its windows do not shrink with the maps
        return HUGGING_FACE[family](size).eval(), size
    import timm

    name, depth = TIMM[family], SHALLOWER.get(family, {})
    if whole:
        network = timm.create_model(name, num_classes=10, **depth)
        return network.eval(), network.pretrained_cfg["input_size"][-1]
    for size in SIZES:
        for settings in ({"img_size": size}, {"img_size": size, "window_size": 4}, {}):
            try:
                network = timm.create_model(name, num_classes=10, **depth, **settings).eval()
                with torch.no_grad():
                    if torch.isfinite(network(torch.rand(2, 3, size, size))).all():
                        return network, size
            except Exception:  # too small, or no such argument
                continue
    raise ValueError(f"{name} takes none of the sizes {SIZES}")
