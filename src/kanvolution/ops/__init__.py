"""Functional maths: each family of functions as one differentiable operator, and the textbook formulas as oracle.

The families map x [N, C, *S] to [N, C, K, *S]; all take the options of `Expansion` (input_map, base, dtype).
`kanvolution.ops.reference` holds the textbook formulas they are tested against.
"""

from kanvolution.ops.backends import BACKENDS
from kanvolution.ops.bernstein import bernstein
from kanvolution.ops.chebyshev import chebyshev
from kanvolution.ops.convolution import Contraction, Convolution
from kanvolution.ops.edge_wavelet import edge_wavelet_convolution, edge_wavelets
from kanvolution.ops.expansion import Expansion, Planes, Slopes, expansion
from kanvolution.ops.flops import flop_counter
from kanvolution.ops.fourier import fourier
from kanvolution.ops.gram import gram, gram_coefficients
from kanvolution.ops.jacobi import jacobi
from kanvolution.ops.legendre import legendre
from kanvolution.ops.none import no_functions
from kanvolution.ops.pointwise import POINTWISE, Pointwise
from kanvolution.ops.rbf import rbf
from kanvolution.ops.relu import relu_bumps
from kanvolution.ops.spline import spline
from kanvolution.ops.wavelet import WAVELETS, wavelet

__all__ = [
    "BACKENDS",
    "POINTWISE",
    "WAVELETS",
    "Contraction",
    "Convolution",
    "Expansion",
    "Planes",
    "Pointwise",
    "Slopes",
    "bernstein",
    "chebyshev",
    "edge_wavelet_convolution",
    "edge_wavelets",
    "expansion",
    "flop_counter",
    "fourier",
    "gram",
    "gram_coefficients",
    "jacobi",
    "legendre",
    "no_functions",
    "rbf",
    "relu_bumps",
    "spline",
    "wavelet",
]
