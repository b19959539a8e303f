"""Random changes of a whole batch of images, every image with parameters of its own.

Each is called with images [N, C, H, W] in [0, 1], and masks [N, H, W] of class indices or None, and returns both. What
moves pixels moves those of the mask alike; what comes in from outside is black, and class 0 in a mask. All random
numbers come from torch's global generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import rgb_to_grayscale

Batch = tuple[Tensor, Tensor | None]


class BatchTransform(ABC):
    """A random change of images, and of their masks where they have any."""

    @abstractmethod
    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        """Images [N, C, H, W] in [0, 1] and masks [N, H, W] or None, changed."""


def uniform(count: int, low: float, high: float) -> Tensor:
    """`count` independent numbers, uniform in [low, high)."""
    return torch.rand(count) * (high - low) + low


class Chain(BatchTransform):
    """One after the other."""

    def __init__(self, *steps: BatchTransform) -> None:
        self.steps = steps

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        for step in self.steps:
            images, masks = step(images, masks)
        return images, masks


class Flip(BatchTransform):
    """Mirror left and right, half of the images.

    Args:
        dim: the dimension that is turned round: -1 mirrors left and right, -2 top and bottom.
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        turned = torch.rand(len(images)) < 0.5
        images = torch.where(turned.view(-1, 1, 1, 1), images.flip(self.dim), images)
        if masks is not None:
            masks = torch.where(turned.view(-1, 1, 1), masks.flip(self.dim), masks)
        return images, masks


class Symmetries(BatchTransform):
    """One of the eight symmetries of a square, at random; of the four of a rectangle where the sides differ."""

    def __init__(self) -> None:
        self.flips = Chain(Flip(-1), Flip(-2))

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        images, masks = self.flips(images, masks)
        if images.shape[-1] == images.shape[-2]:
            turned = torch.rand(len(images)) < 0.5
            images = torch.where(turned.view(-1, 1, 1, 1), images.mT, images)
            if masks is not None:
                masks = torch.where(turned.view(-1, 1, 1), masks.mT, masks)
        return images, masks


class Shift(BatchTransform):
    """Move by whole pixels, up to a share of the side (at least a pixel) in each direction.

    Args:
        share: of height and width.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        count, _, height, width = images.shape
        most = [max(1, int(self.share * side)) for side in (height, width)]
        offsets = [torch.randint(2 * m + 1, (count,)) for m in most]
        rows, columns = (
            offset.view(-1, 1) + torch.arange(side) for offset, side in zip(offsets, (height, width), strict=True)
        )
        border = [most[1], most[1], most[0], most[0]]
        if masks is not None:
            masks = _window(F.pad(masks, border).unsqueeze(1), rows, columns).squeeze(1)
        return _window(F.pad(images, border), rows, columns), masks


def _window(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows [N, H] and columns [N, W] of images [N, C, *, *]."""
    channels = images.shape[1]
    images = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, images.shape[3]))
    return images.gather(3, columns[:, None, None, :].expand(-1, channels, images.shape[2], -1))


class Affine(BatchTransform):
    """Turn, scale and move about the centre; bilinear for images, the nearest pixel for masks.

    Args:
        degrees: the largest angle, to either side.
        translate: the largest move, as a share of the side.
        scale: smallest and largest factor.
    """

    def __init__(self, degrees: float, translate: float, scale: tuple[float, float]) -> None:
        self.degrees, self.translate, self.scale = degrees, translate, scale

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        count, _, height, width = images.shape
        angle = uniform(count, -self.degrees, self.degrees).deg2rad()
        factor = uniform(count, *self.scale)
        moves = torch.stack([uniform(count, -self.translate, self.translate) for _ in range(2)], 1)
        # From a place in the result to the one in the image it comes from: the inverse of turn, scale, move. Places are
        # in units of half the side, so the two off-diagonal numbers change with the ratio of the sides.
        cos, sin = angle.cos() / factor, angle.sin() / factor
        turn = torch.stack([cos, sin * (height / width), -sin * (width / height), cos], 1).view(-1, 2, 2)
        matrices = torch.cat([turn, -2 * turn @ moves.unsqueeze(2)], 2)
        grid = F.affine_grid(matrices.to(images.dtype), [count, 1, height, width], align_corners=False)
        if masks is not None:
            floats = masks.unsqueeze(1).to(images.dtype)
            masks = F.grid_sample(floats, grid, "nearest", align_corners=False).squeeze(1).to(masks.dtype)
        # Rounding may leave [0, 1] by a last bit.
        return F.grid_sample(images, grid, align_corners=False).clamp_(0, 1), masks


class Jitter(BatchTransform):
    """Change brightness, then contrast, by factors of 1 - amount to 1 + amount.

    Contrast is changed about the mean grey of each image. Masks stay as they are.

    Args:
        brightness: amount in [0, 1].
        contrast: amount in [0, 1].
    """

    def __init__(self, brightness: float, contrast: float) -> None:
        self.brightness, self.contrast = brightness, contrast

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        light, spread = (
            uniform(len(images), 1 - amount, 1 + amount).view(-1, 1, 1, 1)
            for amount in (self.brightness, self.contrast)
        )
        images = (images * light).clamp_(0, 1)
        grey = rgb_to_grayscale(images) if images.shape[1] == 3 else images
        mean = grey.mean((1, 2, 3), keepdim=True)
        return torch.lerp(mean, images, spread).clamp_(0, 1), masks


class Erase(BatchTransform):
    """Paint a rectangle of some images over. Masks stay as they are: what is hidden is to be guessed.

    Source: Z. Zhong et al., Random Erasing Data Augmentation, arXiv 1708.04896.

    Args:
        probability: share of the images.
        fill: value of each channel, such as the mean of the data set.
        area: smallest and largest share of the image.
        ratio: the sides of a rectangle differ by factors up to this.
    """

    def __init__(
        self, probability: float, fill: Sequence[float], area: tuple[float, float] = (0.02, 1 / 3), ratio: float = 3.3
    ) -> None:
        self.probability, self.fill, self.area, self.ratio = probability, fill, area, ratio

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        count, _, height, width = images.shape
        chosen = torch.rand(count) < self.probability
        share = uniform(count, *self.area)
        stretch = (uniform(count, -1, 1) * math.log(self.ratio) / 2).exp()
        inside = chosen.view(-1, 1, 1)
        for dim, side, length in ((1, height, share.sqrt() * stretch), (2, width, share.sqrt() / stretch)):
            length = (length * side).round().clamp(1, side).view(-1, 1)
            start = (torch.rand(count, 1) * (side - length + 1)).floor()
            place = torch.arange(side)
            inside = inside & ((place >= start) & (place < start + length)).unsqueeze(3 - dim)
        fill = torch.tensor(self.fill, dtype=images.dtype).view(-1, 1, 1)
        return torch.where(inside.unsqueeze(1), fill, images), masks


class Each(BatchTransform):
    """A transform of torchvision (v2), applied to one image after the other, together with its mask.

    Args:
        transform: any that takes images in [0, 1], and masks where they are to be used with it.
    """

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        if masks is None:
            return torch.stack([self.transform(image) for image in images]), None
        changed: list[Tensor] = []
        moved: list[Tensor] = []
        for image, mask in zip(images, masks, strict=True):
            image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
            changed.append(image.as_subclass(Tensor))
            moved.append(mask.as_subclass(Tensor))
        return torch.stack(changed), torch.stack(moved)


class ImagesOnly(BatchTransform):
    """A function of a batch of images; masks are refused, since they might have to follow.

    Args:
        function: from images [N, C, H, W] to images of the same shape.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Batch:
        if masks is not None:
            raise ValueError("a function of images alone cannot augment images with masks; use a BatchTransform")
        return self.function(images), None


def batch_transform(made: Callable | None) -> BatchTransform | None:
    """What an augmentation made: a `BatchTransform`, a transform of torchvision v2, a function of a batch, or None."""
    if made is None or isinstance(made, BatchTransform):
        return made
    return Each(made) if isinstance(made, v2.Transform) else ImagesOnly(made)
