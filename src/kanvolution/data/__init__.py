"""Data sets by name. Importing this package registers those it ships; it reads and downloads nothing."""

from kanvolution.data import digits, folder, npz, vision
from kanvolution.data.augment import AUGMENTS, create_augment, list_augments, register_augment
from kanvolution.data.batch_transforms import BatchTransform, batch_transform
from kanvolution.data.images import load_image, read_image
from kanvolution.data.info import DataInfo, DataSets
from kanvolution.data.registry import DATA, create_data, list_data, register_data
from kanvolution.data.splits import stratified_split
from kanvolution.data.tensors import TensorImages

__all__ = [
    "AUGMENTS",
    "DATA",
    "BatchTransform",
    "DataInfo",
    "DataSets",
    "TensorImages",
    "batch_transform",
    "create_augment",
    "create_data",
    "digits",
    "folder",
    "list_augments",
    "list_data",
    "load_image",
    "npz",
    "read_image",
    "register_augment",
    "register_data",
    "stratified_split",
    "vision",
]
