"""The methods of models that are saved and loaded: save_pretrained, from_pretrained, push_to_hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


class HubMixin:
    """Methods that do what the functions of the same names in `kanvolution` do; those describe the arguments."""

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write config, weights and model card into a folder; see `kanvolution.save_pretrained`."""
        from kanvolution.models.pretrained import save_pretrained

        return save_pretrained(self, folder, **options)  # type: ignore[arg-type]

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save to a repository of the Hugging Face Hub; see `kanvolution.push_to_hub`."""
        from kanvolution.models.pretrained import push_to_hub

        return push_to_hub(self, repo_id, **options)  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """The saved model of a folder or repository, which must be of this class; see `kanvolution.from_pretrained`."""
        from kanvolution.models.pretrained import from_pretrained

        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise ValueError(
                f"{str(source)!r} holds a {type(model).__name__}, not a {cls.__name__}; "
                "kanvolution.from_pretrained loads any model"
            )
        return model
