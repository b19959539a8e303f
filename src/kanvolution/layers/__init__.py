"""Layers: the pure Kolmogorov-Arnold convolution and linear layer, the block around it, and conv factories."""

from kanvolution.layers.block import KANConvNormAct
from kanvolution.layers.conv import KAN_CONVOLUTIONS, KANConv1d, KANConv2d, KANConv3d
from kanvolution.layers.linear import KANLinear
from kanvolution.layers.spec import ConvFactory, ConvSpec, resolve_conv
from kanvolution.layers.structures import Bottleneck, LowRank, Separable, Structure

__all__ = [
    "KAN_CONVOLUTIONS",
    "Bottleneck",
    "ConvFactory",
    "ConvSpec",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvNormAct",
    "KANLinear",
    "LowRank",
    "Separable",
    "Structure",
    "resolve_conv",
]
