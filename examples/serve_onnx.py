"""Classify image files with an exported network, without PyTorch and without Kanvolution.

    kanvolution export runs/a --output model.onnx
    python examples/serve_onnx.py model.onnx image.png another.png

It needs onnxruntime, numpy and pillow. The file itself says how images are prepared and what the classes are called.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image


class Classifier:
    """An exported network and what its file says of images."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        description = json.loads(self.session.get_modelmeta().custom_metadata_map["kanvolution"])
        data = description["data"]
        if data is None:
            raise SystemExit(f"{path} does not tell its data; export the folder of a run")
        self.height, self.width = description["input_shape"][-2:]
        self.mode = {1: "L", 3: "RGB"}[data["in_chans"]]
        self.mean = np.asarray(data["mean"], np.float32).reshape(-1, 1, 1)
        self.std = np.asarray(data["std"], np.float32).reshape(-1, 1, 1)
        self.class_names = data["class_names"]

    def prepare(self, path: str) -> np.ndarray:
        """The image as a normalised array [C, H, W]: scaled to cover the size, and its centre."""
        image = Image.open(path).convert(self.mode)
        scale = max(self.height / image.height, self.width / image.width)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        image = image.crop((left, top, left + self.width, top + self.height))
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, -1).transpose(2, 0, 1) / 255
        return (pixels - self.mean) / self.std

    def __call__(self, paths: list[str]) -> np.ndarray:
        """Probabilities [files, classes]."""
        batch = np.stack([self.prepare(path) for path in paths])
        logits = self.session.run(None, {self.session.get_inputs()[0].name: batch})[0]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file of `kanvolution export`")
    parser.add_argument("images", nargs="+", help="image files")
    options = parser.parse_args()
    classifier = Classifier(options.model)
    for file, shares in zip(options.images, classifier(options.images), strict=True):
        best = int(shares.argmax())
        print(f"{file}  {classifier.class_names[best]} {100 * shares[best]:.1f} %")


if __name__ == "__main__":
    main()
