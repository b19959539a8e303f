"""From a trained network to one that is used: adapting, refining, pruning, 8-bit integers, files for other runtimes."""

from kanvolution.deploy.adapt import Adapter, adapt, fingerprint, load_adapted, load_adapter, load_base
from kanvolution.deploy.adapters import ADAPTERS, AdapterKind, adapter_kind, list_adapters, register_adapter
from kanvolution.deploy.export import Export, export, list_formats, load_exported
from kanvolution.deploy.loaded import Description, Loaded
from kanvolution.deploy.prune import contributions, prune_channels, prune_functions, prune_to
from kanvolution.deploy.quantize import (
    Quantized,
    list_quantize_backends,
    load_quantized,
    quantize,
)
from kanvolution.deploy.quantize_report import QuantizeReport, compare_quantized
from kanvolution.deploy.refine import RangeCounter, Refined, RefinedLayer, divide_grids, fit_range, refine, refit
from kanvolution.deploy.unfused import unfused

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterKind",
    "Description",
    "Export",
    "Loaded",
    "QuantizeReport",
    "Quantized",
    "RangeCounter",
    "Refined",
    "RefinedLayer",
    "adapt",
    "adapter_kind",
    "compare_quantized",
    "contributions",
    "divide_grids",
    "export",
    "fingerprint",
    "fit_range",
    "list_adapters",
    "list_formats",
    "list_quantize_backends",
    "load_adapted",
    "load_adapter",
    "load_base",
    "load_exported",
    "load_quantized",
    "prune_channels",
    "prune_functions",
    "prune_to",
    "quantize",
    "refine",
    "refit",
    "register_adapter",
    "unfused",
]
