"""Bases by name: which functions, which input map. Importing this package registers the bases it ships."""

from kanvolution.bases.basis import (
    BASES,
    Basis,
    Extension,
    check_basis,
    create_basis,
    list_bases,
    register_basis,
    resolve_basis,
    set_backend,
)
from kanvolution.bases.bernstein import Bernstein
from kanvolution.bases.chebyshev import Chebyshev
from kanvolution.bases.description import basis_from_description
from kanvolution.bases.extended import extended
from kanvolution.bases.fourier import Fourier
from kanvolution.bases.gram import Gram
from kanvolution.bases.identity import Identity
from kanvolution.bases.jacobi import Jacobi
from kanvolution.bases.joined import Joined, joined
from kanvolution.bases.kept import KeptFunctions
from kanvolution.bases.legendre import Legendre
from kanvolution.bases.mixed import MixedBasis
from kanvolution.bases.rbf import RBF
from kanvolution.bases.relu import ReLUBumps
from kanvolution.bases.spline import Spline
from kanvolution.bases.wavelet import EdgeWavelet, Wavelet

__all__ = [
    "BASES",
    "RBF",
    "Basis",
    "Bernstein",
    "Chebyshev",
    "EdgeWavelet",
    "Extension",
    "Fourier",
    "Gram",
    "Identity",
    "Jacobi",
    "Joined",
    "KeptFunctions",
    "Legendre",
    "MixedBasis",
    "ReLUBumps",
    "Spline",
    "Wavelet",
    "basis_from_description",
    "check_basis",
    "create_basis",
    "extended",
    "joined",
    "list_bases",
    "register_basis",
    "resolve_basis",
    "set_backend",
]
