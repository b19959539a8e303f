"""Where a network looks: Grad-CAM and integrated gradients, for classification and segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.checks import integer_at_least
from kanvolution.extras import require
from kanvolution.registry import unknown_name
from kanvolution.visualize.examples import pixels
from kanvolution.visualize.figures import new_figure
from kanvolution.visualize.layers import in_eval

Target = int | Sequence[int] | Tensor | None
"""A class for all images, one for each image, or None for the predicted class."""


class _ClassScores(nn.Module):
    """A network whose output is one score for each class: of segmentation logits, the sum over the predicted pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(x)
        if output.ndim <= 2:
            return output
        if output.shape[1] == 1:  # one class against the background
            return (output * (output > 0)).flatten(2).sum(2)
        predicted = torch.zeros_like(output).scatter_(1, output.argmax(1, keepdim=True), 1.0)
        return (output * predicted).flatten(2).sum(2)


def grad_cam(model: nn.Module, images: Tensor, *, layer: str | None = None, target: Target = None) -> Tensor:
    """Grad-CAM: which places of a layer's feature map raise the score of a class.

    Args:
        model: the network, in any mode; it is used in evaluation mode and left as it was.
        images: [N, C, H, W], prepared as the network takes them.
        layer: name of a module whose output is a feature map; None for the last stage, or the last convolution.
        target: class, one for all images or one for each; None for the predicted class.

    Returns:
        [N, H, W], 0 to 1, the largest of each image 1 (0 everywhere where nothing raises the score).

    Raises:
        ValueError: a layer that is not there (the nearest is named) or makes no feature map, a class that is not there.

    Source: Selvaraju et al., "Grad-CAM", arXiv 1610.02391.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.visualize import grad_cam
        >>> model = kv.create_model("simple4", num_classes=10, in_chans=1, channels=[2, 2, 2, 2])
        >>> grad_cam(model, torch.randn(3, 1, 16, 16)).shape
        torch.Size([3, 16, 16])
    """
    _check_images(images)
    captum = require("captum.attr", "viz")
    name = _default_layer(model) if layer is None else layer
    modules = dict(model.named_modules())
    if name not in modules or not name:
        raise ValueError(unknown_name("layer", name, [known for known in modules if known]))
    with in_eval(model), torch.enable_grad(), _frozen(model):
        scores = _ClassScores(model)
        # A network without trainable parameters has its gradients through the images.
        inputs = images.detach().to(_device(model)).requires_grad_()
        chosen = _classes(scores, inputs, target)
        found = captum.LayerGradCam(scores, modules[name]).attribute(inputs, target=chosen, relu_attributions=True)
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise ValueError(f"layer (={name!r}) makes no feature map [N, C, H, W]; choose a stage or a convolution")
        maps = captum.LayerAttribution.interpolate(found, images.shape[-2:], "bilinear")
    return _normalised(maps.detach().cpu().sum(1))


def integrated_gradients(
    model: nn.Module, images: Tensor, *, target: Target = None, steps: int = 32, baseline: Tensor | float = 0.0
) -> Tensor:
    """Integrated gradients: how much each value of an image contributes to the score of a class.

    Args:
        model: the network; left as it was.
        images: [N, C, H, W].
        target: class, one for all images or one for each; None for the predicted class.
        steps: points of the path from the baseline to the image, >= 2.
        baseline: an image without content, [C, H, W] or one number (0 is the mean of normalised images).

    Returns:
        [N, C, H, W]; the sum over an image approximates the score's difference from that of the baseline.

    Raises:
        ValueError: a class that is not there, or too few steps.

    Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", arXiv 1703.01365.
    """
    _check_images(images)
    integer_at_least("steps", steps, 2)
    captum = require("captum.attr", "viz")
    with in_eval(model), torch.enable_grad(), _frozen(model):
        scores = _ClassScores(model)
        inputs = images.detach().to(_device(model))
        start = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device).expand_as(inputs)
        chosen = _classes(scores, inputs, target)
        found = captum.IntegratedGradients(scores).attribute(
            inputs, baselines=start, target=chosen, n_steps=steps, internal_batch_size=max(64, len(inputs))
        )
    return found.detach().cpu()


def plot_attribution(
    images: Tensor, maps: Tensor, titles: Sequence[str] | None = None, *, heading: str = "", columns: int = 4
) -> Any:
    """Images with their maps laid over them.

    Args:
        images: [N, C, H, W] with values in [0, 1]; one or three channels are shown as they are, the mean of others.
        maps: [N, H, W] or [N, C, H, W] (magnitudes are summed over channels).
        titles: one for each image.
        heading: above all.
        columns: pairs of pictures in a row.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: different numbers of images, maps and titles.
    """
    if len(images) != len(maps) or (titles is not None and len(titles) != len(images)):
        raise ValueError(
            f"images (={len(images)}), maps (={len(maps)}) and titles (={len(titles or images)}) must be as many"
        )
    integer_at_least("columns", columns, 1)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure((2.2 * columns + 0.8, 2.45 * rows + 0.5))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    shown = _normalised(maps.abs().sum(1) if maps.ndim == 4 else maps)
    picture = None
    for i, panel in enumerate(panels):
        panel.set_axis_off()
        if i >= len(images):
            continue
        panel.imshow(pixels(images[i]), cmap="gray", vmin=0, vmax=1)
        picture = panel.imshow(shown[i].numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.55)
        if titles is not None:
            panel.set_title(titles[i], fontsize=8)
    if picture is not None:
        bar = figure.colorbar(picture, ax=list(panels), shrink=0.7, ticks=[0, 1])
        bar.set_ticklabels(["none", "most"], fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=10)
    return figure


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images (shape {tuple(images.shape)}) must be [N, C, H, W] with at least one image")


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _classes(scores: nn.Module, images: Tensor, target: Target) -> Tensor:
    with torch.no_grad():
        values = scores(images)
    if target is None:
        return values.argmax(1)
    chosen = torch.as_tensor(target, device=values.device).expand(len(images)).long()
    if int(chosen.min()) < 0 or int(chosen.max()) >= values.shape[1]:
        raise ValueError(f"target (={target}) must be classes in 0..{values.shape[1] - 1}")
    return chosen


def _default_layer(model: nn.Module) -> str:
    """The last stage of a `Network`, else its last layer with a kernel over images."""
    info = getattr(model, "feature_info", None)
    modules = dict(model.named_modules())
    if info and info[-1].name in modules:
        return info[-1].name
    names = [name for name, module in modules.items() if name and _is_flat_kernel(getattr(module, "kernel_size", None))]
    if not names:
        raise ValueError(f"the model (a {type(model).__name__}) has no convolution over images; name a layer")
    return names[-1]


def _is_flat_kernel(size: object) -> bool:
    return isinstance(size, tuple) and len(size) == 2


def _normalised(maps: Tensor) -> Tensor:
    """[N, H, W] with the largest of each image at 1."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Gradients of parameters are neither computed nor left behind."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
