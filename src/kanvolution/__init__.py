"""Kanvolution: convolutional Kolmogorov-Arnold networks for PyTorch."""

from kanvolution import bases, layers, models, ops
from kanvolution.bases import Basis, create_basis, list_bases, register_basis
from kanvolution.layers import (
    Bottleneck,
    ConvSpec,
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvNormAct,
    KANLinear,
    LowRank,
    Separable,
)
from kanvolution.models import create_model, list_models, register_model

__version__ = "0.1.0"

__all__ = [
    "Basis",
    "Bottleneck",
    "ConvSpec",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvNormAct",
    "KANLinear",
    "LowRank",
    "Separable",
    "bases",
    "create_basis",
    "create_model",
    "layers",
    "list_bases",
    "list_models",
    "models",
    "ops",
    "register_basis",
    "register_model",
]
