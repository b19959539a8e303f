"""From a trained network to one that is used: adapting it to other data, and files that run without this package."""

from kanvolution.deploy.adapt import Adapter, adapt, fingerprint, load_adapted, load_adapter, load_base
from kanvolution.deploy.adapters import ADAPTERS, AdapterKind, adapter_kind, list_adapters, register_adapter
from kanvolution.deploy.export import Description, Export, Loaded, export, list_formats, load_exported

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterKind",
    "Description",
    "Export",
    "Loaded",
    "adapt",
    "adapter_kind",
    "export",
    "fingerprint",
    "list_adapters",
    "list_formats",
    "load_adapted",
    "load_adapter",
    "load_base",
    "load_exported",
    "register_adapter",
]
