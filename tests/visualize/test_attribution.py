"""Where a network looks: maps against what is known, and what looking leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.visualize import grad_cam, integrated_gradients, plot_attribution

pytest.importorskip("captum")


def network() -> nn.Module:
    torch.manual_seed(0)
    return kv.create_model("simple4", num_classes=4, in_chans=1, channels=[3, 3, 3, 3])


class Corner(nn.Module):
    """Class 1 is as likely as the upper left quarter is bright."""

    def __init__(self, segment: bool = False) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1)
        self.segment = segment
        with torch.no_grad():
            self.features.weight.fill_(1.0)
            self.features.bias.zero_()
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., :4, :4] = 1
        self.register_buffer("mask", mask)

    def forward(self, x):
        x = self.features(x) * self.get_buffer("mask") * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
        return x if self.segment else x.mean((2, 3))


def test_cam_has_the_size_of_the_image_and_its_largest_value_is_one() -> None:
    maps = grad_cam(network(), torch.randn(3, 1, 16, 16))
    assert maps.shape == (3, 16, 16)
    assert maps.min() >= 0
    assert all(value in (0.0, pytest.approx(1.0)) for value in maps.amax((1, 2)).tolist())


def test_integrated_gradients_find_the_corner() -> None:
    image = torch.ones(1, 1, 8, 8)
    found = integrated_gradients(Corner(), image, target=1)
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :4, :4] = 1 / 64
    torch.testing.assert_close(found, expected)


def test_integrated_gradients_add_up_to_the_score() -> None:
    model = network().eval()
    images = torch.randn(2, 1, 12, 12)
    found = integrated_gradients(model, images, target=[1, 3], steps=128)
    with torch.no_grad():
        change = model(images) - model(torch.zeros(1, 1, 12, 12))
    torch.testing.assert_close(found.sum((1, 2, 3)), change[[0, 1], [1, 3]], atol=2e-2, rtol=2e-2)


def test_segmentation_looks_at_the_pixels_of_the_class() -> None:
    found = integrated_gradients(Corner(segment=True), torch.ones(1, 1, 8, 8), target=1)
    assert found[..., :4, :4].min() > 0.9
    assert found[..., 4:, :].abs().max() == 0


@pytest.mark.parametrize("layer", ["stages.0", "stages.2.conv", "stages.3.act"])
def test_every_layer_by_name(layer: str) -> None:
    assert grad_cam(network(), torch.randn(2, 1, 8, 8), layer=layer, target=2).shape == (2, 8, 8)


def test_the_model_stays_as_it_was() -> None:
    model = network().train()
    next(model.parameters()).requires_grad_(False)
    wanted = [p.requires_grad for p in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 1, 8, 8)
    grad_cam(model, images)
    integrated_gradients(model, images, steps=4)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert not images.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def test_any_network_has_a_last_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    assert grad_cam(model, torch.randn(1, 3, 8, 8)).shape == (1, 8, 8)


def test_overlays_have_a_panel_for_each_image() -> None:
    images, maps = torch.rand(5, 3, 8, 8), torch.rand(5, 8, 8)
    figure = plot_attribution(images, maps, [f"image {i}" for i in range(5)], heading="stages.3")
    assert [a.get_title() for a in figure.axes if a.get_title()] == [f"image {i}" for i in range(5)]
    plot_attribution(torch.rand(1, 2, 8, 8), torch.randn(1, 2, 8, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grad_cam(network(), torch.randn(1, 1, 8, 8), layer="stages.9"), "Did you mean 'stages"),
        (lambda: grad_cam(network(), torch.randn(1, 1, 8, 8), target=4), r"0\.\.3"),
        (lambda: grad_cam(network(), torch.randn(1, 8, 8)), r"must be \[N, C, H, W\]"),
        (lambda: grad_cam(network(), torch.randn(1, 1, 8, 8), layer="head"), "makes no feature map"),
        (lambda: grad_cam(nn.Flatten(), torch.randn(1, 1, 8, 8)), "name a layer"),
        (lambda: integrated_gradients(network(), torch.randn(1, 1, 8, 8), steps=1), "steps"),
        (lambda: plot_attribution(torch.rand(2, 1, 4, 4), torch.rand(3, 4, 4)), "as many"),
    ],
)
def test_bad_values_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
