"""Networks as files that run without this package: ONNX, torch.export programs, and compiled AOTInductor packages.

While torch.export traces a network, its layers compose ordinary operators, so a file needs no operator of this package.
A file holds its own description (`Description`): what goes in, what comes out, how images are prepared.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kanvolution.deploy.loaded import KEY, Description, Loaded
from kanvolution.deploy.outputs import beside, check_compiler, check_new_file, quiet
from kanvolution.extras import require
from kanvolution.models.pretrained import model_config
from kanvolution.registry import Registry


@dataclass(frozen=True)
class Export:
    """A file that was written, and how it compares with the network.

    Args:
        path: of the file.
        description: as in the file.
        difference: the largest difference between outputs of the file and of the network, as a share of the largest
            magnitude of the network's, over all inputs that were tried.
        tolerance: the largest difference allowed.
        tried: shapes of the inputs that were tried.
    """

    path: Path
    description: Description
    difference: float
    tolerance: float
    tried: tuple[tuple[int, ...], ...]


class Format(Protocol):
    """A kind of file.

    Attributes:
        suffix: of its files.
        tolerance: largest difference from the network's outputs, as a share of their largest magnitude.
    """

    suffix: str
    tolerance: float

    def check(self) -> None:
        """Raises what is missing (ImportError for a package, ValueError for a compiler) before work starts."""
        ...

    def write(self, program: ExportedProgram, path: Path, description: str) -> None:
        """Write the file, with a description."""
        ...

    def load(self, path: Path) -> tuple[Callable[[Tensor], Tensor], str | None]:
        """What computes the outputs, and the description, if there is one."""
        ...


FORMATS: Registry[Format] = Registry("format")


def list_formats() -> list[str]:
    """Names of the formats of `export`."""
    return list(FORMATS)


class Onnx:
    """ONNX, for ONNX Runtime and many others."""

    suffix = ".onnx"
    tolerance = 1e-4

    def check(self) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package, "deploy")

    def write(self, program: ExportedProgram, path: Path, description: str) -> None:
        with quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
        assert made is not None
        made.model.metadata_props[KEY] = description
        made.save(str(path))

    def load(self, path: Path) -> tuple[Callable[[Tensor], Tensor], str | None]:
        runtime = require("onnxruntime", "deploy")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: x.numpy(force=True)})[0])

        return run, session.get_modelmeta().custom_metadata_map.get(KEY)


class TorchProgram:
    """A program of torch.export, for PyTorch; it can be compiled, quantised and moved to a GPU there."""

    suffix = ".pt2"
    tolerance = 1e-5

    def check(self) -> None:
        """Nothing is needed."""

    def write(self, program: ExportedProgram, path: Path, description: str) -> None:
        torch.export.save(program, path, extra_files={KEY: description})

    def load(self, path: Path) -> tuple[Callable[[Tensor], Tensor], str | None]:
        found = {KEY: ""}
        program = torch.export.load(path, extra_files=found)
        return program.module(), found[KEY] or None


class AOTInductor:
    """Machine code made by AOTInductor, for this kind of processor; runs from Python and from C++."""

    suffix = ".pt2"
    tolerance = 1e-4

    def check(self) -> None:
        check_compiler("format 'aoti'")

    def write(self, program: ExportedProgram, path: Path, description: str) -> None:
        # The packager insists on the suffix and replaces what is there.
        with quiet():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"aot_inductor.metadata": {KEY: description}}
            )

    def load(self, path: Path) -> tuple[Callable[[Tensor], Tensor], str | None]:
        model = torch._inductor.aoti_load_package(str(path))
        return model, model.get_metadata().get(KEY)


FORMATS.register("onnx")(Onnx())
FORMATS.register("torch")(TorchProgram())
FORMATS.register("aoti")(AOTInductor())


def export(
    model: nn.Module,
    path: str | Path,
    *,
    input_shape: Sequence[int],
    format: str = "onnx",
    dynamic_size: bool = False,
    data: Mapping[str, Any] | None = None,
) -> Export:
    """Write a network in evaluation mode to a file, and compare the file's outputs with the network's.

    The number of samples may be any in every file. Inputs and weights are float32 and on the CPU.

    Args:
        model: the network; it is not changed.
        path: a new file with the suffix of the format.
        input_shape: [C, *S] of one sample.
        format: one of `list_formats`.
        dynamic_size: let the sizes in space be any; for networks that are convolutions up to a pooling.
        data: what the network was trained on, as `DataInfo.to_dict()`, for the description.

    Returns:
        The description, and the largest difference that was seen with one, two and three samples, and with another
        size where that is dynamic.

    Raises:
        ValueError: an unknown format, a path that is there or has another suffix, a shape that the network refuses, a
            network that cannot be traced, or outputs that differ by more than the tolerance (no file is left then).
        ImportError: a package of the extra `deploy` is missing.

    Example:
        >>> import tempfile, torch, kanvolution as kv
        >>> from kanvolution.deploy import export, load_exported
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1, channels=[4, 4, 4, 4]).eval()
        >>> file = tempfile.mkdtemp() + "/model.pt2"
        >>> export(model, file, input_shape=(1, 28, 28), format="torch").description.output_shape
        (2, 10)
        >>> x = torch.randn(5, 1, 28, 28)
        >>> torch.allclose(load_exported(file)(x), model(x), atol=1e-5)
        True
    """
    kind, path = FORMATS[format], Path(path).expanduser()
    check_new_file(path, kind.suffix, f"format {format!r}")
    kind.check()
    was_training = model.training
    model.eval()
    try:
        inputs = list(_inputs(input_shape, dynamic_size))
        expected = [_outputs(model, x) for x in inputs]
        description = Description(
            format, tuple(inputs[0].shape), dynamic_size, tuple(expected[0].shape), data, model_config(model)
        )
        with beside(path) as temporary:
            kind.write(trace(model, inputs[0], dynamic_size), temporary, description.to_json())
            run = kind.load(temporary)[0]
            with torch.no_grad():
                difference = max(_difference(run(x), y) for x, y in zip(inputs, expected, strict=True))
            if not difference <= kind.tolerance:
                raise ValueError(
                    f"the file's outputs differ from the network's by {difference:.1e} of their largest magnitude, "
                    f"more than the {kind.tolerance:.0e} of format {format!r}; nothing is kept. Take another format"
                )
            temporary.replace(path)
    finally:
        model.train(was_training)
    return Export(path, description, difference, kind.tolerance, tuple(tuple(x.shape) for x in inputs))


def load_exported(path: str | Path) -> Loaded:
    """The network in a file of `export`, of whatever format.

    Raises:
        ValueError: no such file, a file of another program, or a description of another version.
        ImportError: a package of the extra `deploy` is missing.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}; `kanvolution export RUN` writes one")
    run, description = FORMATS[_format_of(path)].load(path)
    return Loaded(run, Description.from_json(description, path))


def _format_of(path: Path) -> str:
    if path.suffix == Onnx.suffix:
        return "onnx"
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{str(path)!r} is no file of kanvolution's export ({', '.join(FORMATS)}), or is damaged")
    with zipfile.ZipFile(path) as archive:
        return "aoti" if any("/data/aotinductor/" in name for name in archive.namelist()) else "torch"


def _inputs(input_shape: Sequence[int], dynamic_size: bool) -> Iterator[Tensor]:
    """Two samples, the example; then what the file must take as well."""
    channels, *space = input_shape
    random = torch.Generator().manual_seed(0)
    for samples in (2, 1, 3):
        yield torch.randn(samples, channels, *space, generator=random)
    if dynamic_size:
        # Unequal sizes that are no multiple of the network's strides.
        yield torch.randn(2, channels, *(size + 5 + 4 * i for i, size in enumerate(space)), generator=random)


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = model(x)
    if not isinstance(y, Tensor):
        raise ValueError(f"the network returns a {type(y).__name__}; only networks that return one tensor are exported")
    return y


def trace(model: nn.Module, example: Tensor, dynamic_size: bool = False) -> ExportedProgram:
    """The program of torch.export, for any number of samples. Raises ValueError if the network cannot be traced."""
    dynamic = {d: Dim.DYNAMIC for d in range(example.ndim) if d == 0 or (dynamic_size and d > 1)}
    try:
        return torch.export.export(model, (example,), dynamic_shapes=(dynamic,))
    except Exception as error:  # whatever the network's own code does that cannot be traced
        reason = str(error).strip().partition("\n")[0]
        remedy = "export it with a fixed size" if dynamic_size else "see the documentation of torch.export"
        raise ValueError(f"the network cannot be traced: {reason}; {remedy}") from error


def _difference(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        raise ValueError(f"the file gives outputs of shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    worst = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return float(worst)  # NaN where the file gives NaN; the comparison with the tolerance fails then
