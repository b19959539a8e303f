"""From a trained network to one that is used: adapting it to other data."""

from kanvolution.deploy.adapt import Adapter, adapt, fingerprint, load_adapted, load_adapter, load_base
from kanvolution.deploy.adapters import ADAPTERS, AdapterKind, adapter_kind, list_adapters, register_adapter

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterKind",
    "adapt",
    "adapter_kind",
    "fingerprint",
    "list_adapters",
    "load_adapted",
    "load_adapter",
    "load_base",
    "register_adapter",
]
