"""Names of torch-conv-kan's networks that are not here, and what to use instead."""

from __future__ import annotations

_BASES = ("KAN", "FastKAN", "KALN", "KACN", "KAGN")
_HELPERS = (
    *(
        f"{stem}_conv{size}"
        for stem in ("kan", "fast_kan", "kaln", "kacn", "kagn", "wav_kan")
        for size in ("1x1", "3x3")
    ),
    *("bottleneck_kagn_conv1x1", "bottleneck_kagn_conv3x3", "conv3x3"),
    *("moe_kaln_conv3x3", "moe_kagn_conv3x3", "moe_bottleneck_kagn_conv3x3"),
)
_GROUPS: dict[tuple[str, ...], str] = {
    (
        *("KAGNRDNet", "kagrdnet_tiny", "kagrdnet_small", "kagrdnet_base", "kagrdnet_large"),
        *("RDNetClassifierHead", "PatchifyStem", "Block", "BlockESE", "EffectiveSEModule", "DenseBlock", "DenseStage"),
    ): "its depthwise layers mix the functions of different channels; create_model('kaconvnext_s'), 'kaconvnext_b' and "
    "'kaconvnext_l' are networks of depthwise Kolmogorov-Arnold convolutions",
    ("ResKANet", "MoEResKANet"): "use reskanet_18x32p, reskagnet50 and the others, or kanvolution.models.ResNet",
    ("DenseKANet", "TinyDenseKANet"): "use densekagnet121, tiny_densekagnet and the others, or "
    "kanvolution.models.DenseNet",
    ("UKANet",): "use ukanet_18, ukagnet_18 and the others, or kanvolution.models.UNet",
    (
        "U2KANet",
        "U2KANetSmall",
        "ResidualUNetBase",
        "ResidualUNetBaseF",
    ): "use u2kagnet, u2kagnet_small and the others, or kanvolution.models.U2Net and its ResidualU",
    ("VGG",): "use vggkan, vggkagn and the others, or kanvolution.models.VGG",
    (
        *("BasicBlockTemplate", "BottleneckTemplate"),
        *(
            f"{stem}{block}"
            for stem in (*_BASES, "BottleneckKAGN", "MoEKALN")
            for block in ("BasicBlock", "Bottleneck")
        ),
        "MoEBottleneckKAGNBasicBlock",
    ): "use kanvolution.models.resnet.Residual",
    _HELPERS: "use KAGNConv2DLayer and the others with kernel_size=1, or kernel_size=3 and padding=1",
    ("self_kagn_conv3x3", "self_bottleneck_kagn_conv3x3"): "use SelfKAGNtention2D or BottleNeckSelfKAGNtention2D with "
    "padding=1",
    ("MatryoshkaHead",): "use kanvolution.models.Matryoshka",
    ("get_activation_from_string", "get_norm_layer_from_string"): "AutoKAN takes the strings itself",
}

MISSING: dict[str, str] = {name: instead for names, instead in _GROUPS.items() for name in names}
"""name -> why it is not here or what to use."""
