"""Models by name. Importing this package registers the models it ships."""

from kanvolution.models.conversion import ConversionReport, LayerReport, convert
from kanvolution.models.densenet import DenseNet
from kanvolution.models.heads import HEADS, Matryoshka
from kanvolution.models.kan import KAN
from kanvolution.models.network import Classifier, FeatureInfo, FeatureMaps, Network
from kanvolution.models.pretrained import from_pretrained, push_to_hub, save_pretrained
from kanvolution.models.registry import MODELS, create_model, list_models, register_model
from kanvolution.models.resnet import ResNet
from kanvolution.models.simple import SimpleNet
from kanvolution.models.vgg import VGG
from kanvolution.models.weights import load_weights, read_weights

__all__ = [
    "HEADS",
    "KAN",
    "MODELS",
    "VGG",
    "Classifier",
    "ConversionReport",
    "DenseNet",
    "FeatureInfo",
    "FeatureMaps",
    "LayerReport",
    "Matryoshka",
    "Network",
    "ResNet",
    "SimpleNet",
    "convert",
    "create_model",
    "from_pretrained",
    "list_models",
    "load_weights",
    "push_to_hub",
    "read_weights",
    "register_model",
    "save_pretrained",
]
