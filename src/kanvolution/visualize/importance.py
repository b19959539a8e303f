"""Which functions matter: the variance each contributes to its output on data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanvolution.visualize.layers import Edge, LayerView, ravel

_EDGES_AT_ONCE = 4096


@dataclass(frozen=True)
class Importance:
    """Variances on data that the functions of a layer contribute to its outputs.

    Attributes:
        edges: Var[phi_{o,c,t}(x_c)], [out_channels, inputs of a group, taps].
        functions: of each of the K functions alone, sum over edges of w_k^2 Var[B_k(x_c)], [K]. Functions that go
            together cancel or add up, so these need not sum to the edges' total.
    """

    view: LayerView
    edges: Tensor
    functions: Tensor

    @property
    def inputs(self) -> Tensor:
        """What each input channel contributes to all outputs, [in_channels]."""
        view = self.view
        by_group = self.edges.sum(2).unflatten(0, (view.groups, -1)).sum(1)
        return by_group.flatten()

    @property
    def outputs(self) -> Tensor:
        """What each output channel receives, [out_channels]."""
        return self.edges.sum((1, 2))

    @property
    def taps(self) -> Tensor:
        """What each tap of the kernel contributes, of the kernel's shape."""
        return self.edges.sum((0, 1)).reshape(self.view.kernel_size)

    def ranked(self, count: int | None = None) -> list[Edge]:
        """The edges, most important first."""
        order = self.edges.flatten().argsort(descending=True, stable=True)[:count]
        return [self.view.edge_at(index) for index in order.tolist()]

    def edges_for(self, share: float) -> int:
        """How many edges it takes to give this share (0 to 1) of what all contribute together."""
        sums = self.edges.flatten().sort(descending=True).values.double().cumsum(0)
        return min(len(sums), int((sums < share * sums[-1]).sum()) + 1)

    def of(self, edge: Edge) -> float:
        """The variance that one edge contributes."""
        row = self.edges[edge.output, edge.input % self.view.inputs_per_group]
        return float(row[ravel(edge.tap, self.view.kernel_size)])

    def share(self, edge: Edge) -> float:
        """Its part of what the layer's edges contribute together, 0 to 1."""
        total = float(self.edges.sum())
        return self.of(edge) / total if total > 0 else 0.0


@torch.no_grad()
def importance(view: LayerView, inputs: Tensor) -> Importance:
    """Importance of a layer's edges and functions, Var[phi(x)] over values of its inputs.

    Computed from the covariance of the K functions for each input channel, w^T Cov w for an edge with weights w, so the
    cost does not grow with edges times values.

    Args:
        view: the layer.
        inputs: [in_channels, M], see `layer_inputs`.

    Raises:
        ValueError: values of another number of channels, or fewer than two.
    """
    if inputs.ndim != 2 or inputs.shape[0] != view.in_channels or inputs.shape[1] < 2:
        raise ValueError(
            f"inputs (shape {tuple(inputs.shape)}) must be [{view.in_channels}, M], M >= 2, for {view.name}"
        )
    shown = view.functions
    weight = view.weight.float()
    inputs = inputs.to(weight.device)
    if view.basis.per_output:
        edges, functions = _per_edge(view, inputs, weight)
    else:
        channels = torch.arange(view.in_channels, device=weight.device)
        values = view.basis.edge_values(inputs, torch.zeros_like(channels), channels).float()[:, shown]
        covariance = _covariance(values).unflatten(0, (view.groups, -1))
        grouped = weight[:, :, shown].unflatten(0, (view.groups, -1))
        edges = torch.einsum("goikt,gikl,goilt->goit", grouped, covariance, grouped).flatten(0, 1)
        own = covariance.diagonal(dim1=-2, dim2=-1)
        functions = torch.einsum("goikt,gik->k", grouped.square(), own)
    if shown.start:
        functions = torch.cat([functions.new_zeros(shown.start), functions])
    return Importance(view, edges.clamp_min(0).cpu(), functions.cpu())


def _per_edge(view: LayerView, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same where every edge has functions of its own: a block of edges at a time."""
    outputs, width, _, taps = weight.shape
    per_group = outputs // view.groups
    edges = weight.new_zeros(outputs * width, taps)
    functions = weight.new_zeros(weight[:, :, view.functions].shape[2])
    flat = weight[:, :, view.functions].flatten(0, 1)
    for block in torch.arange(outputs * width, device=weight.device).split(_EDGES_AT_ONCE):
        output = block // width
        channel = block % width + output // per_group * width
        values = view.basis.edge_values(inputs, output, channel).float()[:, view.functions]
        covariance = _covariance(values)
        edges[block] = torch.einsum("ekt,ekl,elt->et", flat[block], covariance, flat[block])
        functions += torch.einsum("ekt,ek->k", flat[block].square(), covariance.diagonal(dim1=-2, dim2=-1))
    return edges.view(outputs, width, taps), functions


def _covariance(values: Tensor) -> Tensor:
    """[E, K, M] -> [E, K, K]."""
    centred = values - values.mean(-1, keepdim=True)
    return centred @ centred.mT / values.shape[-1]
