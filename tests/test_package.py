"""What `import kanvolution` may and may not do."""

import subprocess
import sys

import pytest

import kanvolution as kv
from kanvolution.registry import Registry

OPTIONAL = (
    "accelerate hydra omegaconf sklearn torchmetrics rich matplotlib tensorboard wandb trackio optuna ray torchao onnx "
    "onnxruntime peft datasets webdataset timm torchvision triton captum"
)


def test_import_touches_no_optional_package_and_no_device() -> None:
    code = (
        "import sys, kanvolution, torch;"
        f"found = [n for n in '{OPTIONAL}'.split() if n in sys.modules];"
        "assert not found, found;"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_public_names_exist() -> None:
    for name in kv.__all__:
        assert getattr(kv, name) is not None
    assert kv.__version__.count(".") == 2


def test_registry_suggests_and_refuses() -> None:
    registry: Registry[int] = Registry("thing")
    registry.register("alpha")(1)
    registry.register("beta")(2)
    assert list(registry) == ["alpha", "beta"] and registry["beta"] == 2 and len(registry) == 2 and "alpha" in registry
    with pytest.raises(ValueError, match=r"unknown thing 'alfa'. Did you mean 'alpha'\? Known: alpha, beta\."):
        registry["alfa"]
    with pytest.raises(ValueError, match="thing 'alpha' is already registered"):
        registry.register("alpha")(3)
    registry.unregister("alpha")
    assert "alpha" not in registry
