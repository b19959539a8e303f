"""Layers: the pure Kolmogorov-Arnold convolution and linear layer, the block around it, and conv factories."""

from kanvolution.layers.attention import RotaryPositions, SelfAttention
from kanvolution.layers.block import KANConvNormAct
from kanvolution.layers.collect import HeldLosses, collect_losses, named_losses
from kanvolution.layers.conv import KAN_CONVOLUTIONS, KANConv1d, KANConv2d, KANConv3d
from kanvolution.layers.focal_modulation import FocalModulation
from kanvolution.layers.linear import KANLinear
from kanvolution.layers.noise import MultiplicativeNoise, NoiseInjection
from kanvolution.layers.penalties import ActivationPenalty, kan_layers, weight_penalty
from kanvolution.layers.spec import ConvFactory, ConvSpec, resolve_conv
from kanvolution.layers.structures import Bottleneck, Experts, LowRank, MixtureOfExperts, Separable, Structure
from kanvolution.layers.transpose import (
    KAN_TRANSPOSED_CONVOLUTIONS,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
)

__all__ = [
    "KAN_CONVOLUTIONS",
    "KAN_TRANSPOSED_CONVOLUTIONS",
    "ActivationPenalty",
    "Bottleneck",
    "ConvFactory",
    "ConvSpec",
    "Experts",
    "FocalModulation",
    "HeldLosses",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvNormAct",
    "KANConvTranspose1d",
    "KANConvTranspose2d",
    "KANConvTranspose3d",
    "KANLinear",
    "LowRank",
    "MixtureOfExperts",
    "MultiplicativeNoise",
    "NoiseInjection",
    "RotaryPositions",
    "SelfAttention",
    "Separable",
    "Structure",
    "collect_losses",
    "kan_layers",
    "named_losses",
    "resolve_conv",
    "weight_penalty",
]
