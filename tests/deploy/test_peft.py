import warnings

import pytest
import torch

import kanvolution as kv
from tests.deploy.test_adapt import disturb
from tests.tolerances import assert_close

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")


def test_peft_adapts_linear_layers_by_their_weight_and_merges() -> None:
    model, x = kv.KAN([5, 6, 3], basis="spline").eval(), torch.randn(4, 5)
    before = model(x)
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=["layers.0.weight", "layers.1.weight"])
    wrapped = peft.get_peft_model(model, config)
    assert_close(wrapped(x), before)
    disturb(wrapped)
    adapted = wrapped(x)
    assert (adapted - before).abs().max() > 0.01
    assert_close(wrapped.merge_and_unload()(x), adapted, 1e-5)
