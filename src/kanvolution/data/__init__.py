"""Data sets by name. Importing this package registers those it ships; it reads and downloads nothing."""

from kanvolution.data import digits, folder, imagenet, npz, segmentation, vision
from kanvolution.data.augment import AUGMENTS, create_augment, list_augments, register_augment
from kanvolution.data.batch_transforms import BatchTransform, batch_transform
from kanvolution.data.images import cover, load_image, read_image, read_mask
from kanvolution.data.info import DataInfo, DataSets
from kanvolution.data.registry import DATA, create_data, list_data, register_data
from kanvolution.data.splits import random_split, stratified_split
from kanvolution.data.tensors import TensorImages, tensor_data_sets

__all__ = [
    "AUGMENTS",
    "DATA",
    "BatchTransform",
    "DataInfo",
    "DataSets",
    "TensorImages",
    "batch_transform",
    "cover",
    "create_augment",
    "create_data",
    "digits",
    "folder",
    "imagenet",
    "list_augments",
    "list_data",
    "load_image",
    "npz",
    "random_split",
    "read_image",
    "read_mask",
    "register_augment",
    "register_data",
    "segmentation",
    "stratified_split",
    "tensor_data_sets",
    "vision",
]
