"""Optional packages: imported where they are used, with an error that names the extra when one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` of this package installs.

    Args:
        module: dotted name ("sklearn.datasets").
        extra: name of the extra in `pip install 'kanvolution[extra]'`.

    Raises:
        ImportError: the package is not installed; the message says how to install it.

    Example:
        >>> from kanvolution.extras import require
        >>> require("json", "train").dumps([1])
        '[1]'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(
            f"the package {package!r} is not installed; install it with: pip install 'kanvolution[{extra}]'",
            name=package,
        ) from error
