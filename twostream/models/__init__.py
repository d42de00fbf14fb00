"""The networks: a registry over names, the networks themselves, and where their weights come from.

Importing this package does not import torch: parameters are checked against `names` before anything heavy is loaded.
"""

from __future__ import annotations

from typing import Any

__all__ = ["create_model", "list_models", "weights_source"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from twostream.models import pretrained, registry

        return getattr(pretrained if name == "weights_source" else registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
