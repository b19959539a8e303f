"""Models by name. Importing this package registers the models it ships."""

from kanvolution.models.densenet import DenseNet
from kanvolution.models.heads import HEADS, Matryoshka
from kanvolution.models.kan import KAN
from kanvolution.models.network import Classifier, FeatureInfo, FeatureMaps, Network
from kanvolution.models.registry import MODELS, create_model, list_models, register_model
from kanvolution.models.resnet import ResNet
from kanvolution.models.simple import SimpleNet
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
    "Matryoshka",
    "Network",
    "ResNet",
    "SimpleNet",
    "create_model",
    "list_models",
    "register_model",
]
