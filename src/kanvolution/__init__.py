"""Kanvolution: convolutional Kolmogorov-Arnold networks for PyTorch."""

from kanvolution import bases, layers, models, ops
from kanvolution.bases import Basis, create_basis, list_bases, register_basis, set_backend
from kanvolution.layers import (
    ActivationPenalty,
    Bottleneck,
    ConvSpec,
    Experts,
    FocalModulation,
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvNormAct,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLinear,
    LowRank,
    MixtureOfExperts,
    SelfAttention,
    Separable,
    collect_losses,
    weight_penalty,
)
from kanvolution.models import KAN, create_model, list_models, register_model

__version__ = "0.1.0"

__all__ = [
    "KAN",
    "ActivationPenalty",
    "Basis",
    "Bottleneck",
    "ConvSpec",
    "Experts",
    "FocalModulation",
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
    "SelfAttention",
    "Separable",
    "bases",
    "collect_losses",
    "create_basis",
    "create_model",
    "layers",
    "list_bases",
    "list_models",
    "models",
    "ops",
    "register_basis",
    "register_model",
    "set_backend",
    "weight_penalty",
]
