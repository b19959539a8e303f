"""Structures: one convolution made of others, for any basis and dimension. They are data and nest."""

from kanvolution.layers.structures.bottleneck import Bottleneck, BottleneckConv
from kanvolution.layers.structures.experts import Experts, MixtureOfExperts, NoisyTopKGate
from kanvolution.layers.structures.low_rank import LowRank
from kanvolution.layers.structures.separable import Separable
from kanvolution.layers.structures.structure import (
    STRUCTURES,
    ConvArguments,
    Structure,
    build_conv,
    register_structure,
    structure_from_dict,
)

__all__ = [
    "STRUCTURES",
    "Bottleneck",
    "BottleneckConv",
    "ConvArguments",
    "Experts",
    "LowRank",
    "MixtureOfExperts",
    "NoisyTopKGate",
    "Separable",
    "Structure",
    "build_conv",
    "register_structure",
    "structure_from_dict",
]
