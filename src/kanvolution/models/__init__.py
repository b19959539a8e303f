"""Models by name. Importing this package registers the models it ships."""

from kanvolution.models.kan import KAN
from kanvolution.models.network import Classifier, FeatureInfo, FeatureMaps, Network
from kanvolution.models.registry import MODELS, create_model, list_models, register_model
from kanvolution.models.simple import SimpleNet

__all__ = [
    "KAN",
    "MODELS",
    "Classifier",
    "FeatureInfo",
    "FeatureMaps",
    "Network",
    "SimpleNet",
    "create_model",
    "list_models",
    "register_model",
]
