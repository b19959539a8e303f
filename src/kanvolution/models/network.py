"""What all networks have in common: stages with known feature maps, a head that can be replaced, checkpointing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kanvolution.checks import integer_at_least, probability
from kanvolution.layers.spec import ConvFactory, resolve_conv
from kanvolution.models.heads import MakeHead, named_head
from kanvolution.models.hub_mixin import HubMixin
from kanvolution.registry import unknown_name


@dataclass(frozen=True)
class FeatureInfo:
    """The feature map after a stage: its name, channels, and by how much it is smaller than the image."""

    name: str
    channels: int
    reduction: int


class Network(HubMixin, nn.Module, ABC):
    """Image [N, in_chans, H, W] -> feature maps of the stages -> features -> output.

    A subclass sets `feature_info`, one entry for each map of `forward_stages`, and `num_features`, and calls
    `reset_classifier` at the end of its constructor.
    """

    pipeline_tag: ClassVar[str | None] = None
    """What the Hugging Face Hub calls the use of a network of this class."""

    feature_info: tuple[FeatureInfo, ...]
    num_features: int
    num_classes: int

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False

    @abstractmethod
    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The feature maps of an image, one for each entry of `feature_info`."""

    @abstractmethod
    def forward_features(self, x: Tensor) -> Any:
        """Image -> what the head takes: a feature map [N, num_features, H', W'], or a list that begins with one."""

    @abstractmethod
    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        """Features -> output; with `pre_logits` what the head would take."""

    @abstractmethod
    def make_head(self, num_classes: int) -> nn.Module:
        """A new head with `num_classes` (>= 1) outputs."""

    def forward(self, x: Tensor) -> Any:
        return self.forward_head(self.forward_features(x))

    @property
    def smallest_image(self) -> int:
        """The smallest height and width of an image: the network's strides together."""
        return max(info.reduction for info in self.feature_info)

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is [N, C, H, W] and no side is shorter than `smallest_image`."""
        if x.ndim != 4:
            raise ValueError(
                f"input (shape {tuple(x.shape)}) must be a batch of images [N, C, H, W]; for a single one use "
                "x.unsqueeze(0)"
            )
        smallest = self.smallest_image
        if x.shape[2] < smallest or x.shape[3] < smallest:
            raise ValueError(
                f"input (={x.shape[2]}x{x.shape[3]} pixels) must be at least {smallest}x{smallest}: the network's "
                f"strides reduce an image by {smallest}; enlarge the image or take a network with smaller strides"
            )

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0 leaves it out."""
        like = next(self.parameters())
        self.num_classes = num_classes
        self.head = self.make_head(num_classes).to(like.device, like.dtype) if num_classes else nn.Identity()
        if hasattr(self, "config"):  # what create_model would make this model from
            self.config = _up_to_date(self, {**self.config, "num_classes": num_classes})

    def set_feature_channels(self, channels: Sequence[int]) -> None:
        """Say how many channels the feature maps have, one number for each, after layers were given fewer.

        Raises:
            ValueError: another number of maps.
        """
        if len(channels) != len(self.feature_info):
            raise ValueError(f"channels (={list(channels)}) must have one entry for {len(self.feature_info)} maps")
        self.feature_info = tuple(
            replace(info, channels=width) for info, width in zip(self.feature_info, channels, strict=True)
        )
        self.num_features = channels[-1]

    def get_classifier(self) -> nn.Module:
        """The head; an identity where num_classes is 0."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of the stages in training and compute their insides again in backward."""
        self.grad_checkpointing = enable

    def run(self, stage: Callable[..., Any], *inputs: Any) -> Any:
        """`stage(*inputs)`, checkpointed where that is switched on. Subclasses call their stages through it."""
        if self.grad_checkpointing and self.training:
            return checkpoint(stage, *inputs, use_reentrant=False)
        return stage(*inputs)


class Classifier(Network):
    """A `Network` of a stem and stages one after the other, average pooling, dropout and a head.

    A subclass calls this constructor, sets `stem`, `stages` (the first map is that of the first stage) and
    `feature_info`, and then calls `finish`.

    Args:
        conv: conv factory, name of a basis, or dictionary of a `ConvSpec`; `self.conv` is the factory.
        drop_rate: dropout before the head and after its hidden layers.
        head: name of a head, see `HEADS`, or (features, num_classes) -> module.
        head_width: features of the head's hidden layers; None for its own.
        pool_size: side, or height and width, of the map that features are averaged to.
    """

    pipeline_tag = "image-classification"

    stem: nn.Module
    stages: nn.ModuleList

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        *,
        drop_rate: float = 0.0,
        head: str | MakeHead = "linear",
        head_width: int | None = None,
        pool_size: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        self.conv = resolve_conv(conv, ndim=2)
        height, width = (pool_size, pool_size) if isinstance(pool_size, int) else pool_size
        self.pool = nn.AdaptiveAvgPool2d(
            (integer_at_least("pool_size", height, 1), integer_at_least("pool_size", width, 1))
        )
        self.pooled = height * width
        self.drop = nn.Dropout(probability("drop_rate", drop_rate))
        self.new_head = named_head(head, self.conv, head_width, drop_rate) if isinstance(head, str) else head

    def finish(self, num_classes: int) -> None:
        """Make the head for the stages that are there."""
        self.num_features = self.feature_info[-1].channels
        self.reset_classifier(num_classes)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        maps = []
        x = self.run(self.stem, x)
        for stage in self.stages:
            x = self.run(stage, x)
            maps.append(x)
        return maps

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_stages(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.pool(x).flatten(1))
        return x if pre_logits else self.head(x)

    def make_head(self, num_classes: int) -> nn.Module:
        return self.new_head(self.num_features * self.pooled, num_classes)


class FeatureMaps(HubMixin, nn.Module):
    """The feature maps of a network's stages: image -> list of tensors [N, channels, H', W']. The head is left out.

    Args:
        network: a `Network`.
        out_indices: which entries of `network.feature_info`; None for all.

    Raises:
        ValueError: an index that is not there.
    """

    def __init__(self, network: Network, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        count = len(network.feature_info)
        chosen = range(count) if out_indices is None else out_indices
        for index in chosen:
            if not -count <= index < count:
                raise ValueError(f"out_indices (={list(chosen)}) must be between {-count} and {count - 1}")
        network.reset_classifier(0)
        self.network = network
        self.out_indices = tuple(index % count for index in chosen)
        if hasattr(network, "config"):  # of a network that was loaded, say
            config = {**network.config, "features_only": True, "out_indices": list(self.out_indices)}
            self.config = _up_to_date(self, config)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and reduction of each map."""
        return tuple(self.network.feature_info[index] for index in self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.network.forward_stages(x)
        return [maps[index] for index in self.out_indices]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `Network.set_grad_checkpointing`."""
        self.network.set_grad_checkpointing(enable)


def _up_to_date(network: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """A config with the changes of a changed network as they are now: names and layers may be others than before."""
    if "changes" not in config:
        return config
    from kanvolution.models.pretrained import with_changes  # which is above

    return with_changes(network, config)


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `known`, naming the nearest."""
    if value not in known:
        raise ValueError(unknown_name(name, value, known))
