"""Models by name. Importing this package registers the models it ships."""

from kanvolution.models.kaconvnext import KAConvNeXt
from kanvolution.models.kan import KAN
from kanvolution.models.network import Classifier, FeatureInfo, FeatureMaps, Network
from kanvolution.models.registry import MODELS, create_model, list_models, register_model
from kanvolution.models.segmenter import Segmenter
from kanvolution.models.simple import SimpleNet
from kanvolution.models.u2net import U2Net
from kanvolution.models.unet import UNet

__all__ = [
    "KAN",
    "MODELS",
    "Classifier",
    "FeatureInfo",
    "FeatureMaps",
    "KAConvNeXt",
    "Network",
    "Segmenter",
    "SimpleNet",
    "U2Net",
    "UNet",
    "create_model",
    "list_models",
    "register_model",
]
