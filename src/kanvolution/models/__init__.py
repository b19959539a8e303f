"""Models by name. Importing this package registers the models it ships."""

from kanvolution.models.densenet import DenseNet
from kanvolution.models.heads import HEADS, Matryoshka
from kanvolution.models.kaconvnext import KAConvNeXt
from kanvolution.models.kan import KAN
from kanvolution.models.network import Classifier, FeatureInfo, FeatureMaps, Network
from kanvolution.models.registry import MODELS, create_model, list_models, register_model
from kanvolution.models.resnet import ResNet
from kanvolution.models.segmenter import Segmenter
from kanvolution.models.simple import SimpleNet
from kanvolution.models.u2net import U2Net
from kanvolution.models.unet import UNet
from kanvolution.models.vgg import VGG

__all__ = [
    "HEADS",
    "KAN",
    "MODELS",
    "VGG",
    "Classifier",
    "DenseNet",
    "FeatureInfo",
    "FeatureMaps",
    "KAConvNeXt",
    "Matryoshka",
    "Network",
    "ResNet",
    "Segmenter",
    "SimpleNet",
    "U2Net",
    "UNet",
    "create_model",
    "list_models",
    "register_model",
]
