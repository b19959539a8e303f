"""Static int8: convolutions and linear layers compute with 8-bit integers, the functions of a basis stay in float.

Each layer is taken apart into expansion and convolution (`unfused`), and what goes into the convolution, the expanded
tensor, and its weights are rounded to 8 bits: the weights with a scale for each output channel, the expansion with the
range seen on calibration images. A basis is cheap and sensitive to rounding; the convolution is neither.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import torch
import torch._inductor.config as inductor_config
from torch import Tensor, nn
from torch.export import ExportedProgram

from kanvolution.deploy.export import FORMATS, load_exported, trace
from kanvolution.deploy.loaded import KEY, Description, Loaded
from kanvolution.deploy.outputs import beside, check_compiler, check_new_file, quiet
from kanvolution.deploy.unfused import unfused
from kanvolution.extras import require
from kanvolution.inference import optimize
from kanvolution.layers.layer import KANLayer
from kanvolution.models.pretrained import make_network, model_config
from kanvolution.models.weights import load_weights, read_weights, write_weights
from kanvolution.registry import Registry

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Rounded:
    """Training with rounding in the forward pass, before weights are fixed.

    Args:
        batches: of images and classes, one step for each.
        lr: learning rate (AdamW).
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    lr: float


class Backend(Protocol):
    """A way to quantise and to run what was quantised.

    Attributes:
        suffix: of its files.
        takes_apart: whether it is given the network unfused, without batch norms; as it is otherwise.
        trains: whether it can train with rounding.
    """

    suffix: str
    takes_apart: bool
    trains: bool

    def check(self, layers: Sequence[nn.Module]) -> None:
        """Raises what is missing, and ValueError for layers that it cannot quantise, before work starts."""
        ...

    def write(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        path: Path,
        description: Description,
        training: Rounded | None,
    ) -> None:
        """Quantise the network on the batches and write the file."""
        ...

    def load(self, path: Path) -> Loaded:
        """The network in the file."""
        ...


BACKENDS: Registry[Backend] = Registry("backend")


def list_quantize_backends() -> list[str]:
    """Names of the backends of `quantize`."""
    return list(BACKENDS)


class Inductor:
    """torchao's quantisation of exported programs; compiled for this kind of processor when it is loaded."""

    suffix = ".pt2"
    takes_apart, trains = True, True

    def check(self, layers: Sequence[nn.Module]) -> None:
        check_compiler("backend 'inductor'")
        with quiet():
            require("torchao", "deploy")
        if any(isinstance(layer, nn.Conv1d | nn.Conv3d) for layer in layers):
            raise ValueError(
                "backend 'inductor' quantises 2-dimensional convolutions and linear layers, and this network has "
                "convolutions in 1 or 3 dimensions; take backend 'onnxruntime'"
            )

    def write(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        path: Path,
        description: Description,
        training: Rounded | None,
    ) -> None:
        with quiet():
            from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

        model = _images_last(model)
        if training is not None:
            _make_trainable(model)
        prepare = prepare_pt2e if training is None else prepare_qat_pt2e
        traced = trace(model, _as_images_last(batches[0])).module()
        prepared = prepare(traced, _quantizer(is_qat=training is not None))
        with torch.no_grad():  # ranges first: a first step of training must not see those of nothing
            for batch in batches:
                prepared(_as_images_last(batch))
        if training is not None:
            _train(prepared, training)
        _save_converted(prepared, batches[0], path, description)

    def load(self, path: Path) -> Loaded:
        with quiet():
            # Registers the operators of the program, and what tells the compiler to compute them with integers.
            require("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", "deploy")
        check_compiler("a file of backend 'inductor'")
        found = {KEY: ""}
        with quiet():
            module = torch.export.load(path, extra_files=found).module()
        compiled = torch.compile(module, dynamic=False)
        seen: set[torch.Size] = set()

        def run(x: Tensor) -> Tensor:
            if x.shape in seen:
                return compiled(_as_images_last(x))
            # The compiler packs weights that it may take for constants.
            with quiet(), inductor_config.patch(freezing=True):
                y = compiled(_as_images_last(x))
            seen.add(x.shape)
            return y

        return Loaded(run, Description.from_json(found[KEY] or None, path))


class OnnxRuntime:
    """ONNX Runtime: 1 to 3 dimensions, any number of images, no compiler."""

    suffix = ".onnx"
    takes_apart, trains = True, False

    def check(self, layers: Sequence[nn.Module]) -> None:
        FORMATS["onnx"].check()

    def write(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        path: Path,
        description: Description,
        training: Rounded | None,
    ) -> None:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        class Reader(CalibrationDataReader):
            def __init__(self, name: str) -> None:
                self.feeds = iter([{name: batch.numpy(force=True)} for batch in batches])

            def get_next(self) -> Any:
                return next(self.feeds, None)

        full = path.with_name("full.onnx")
        FORMATS["onnx"].write(trace(model, batches[0]), full, "")
        with quiet():
            quantize_static(
                str(full),
                str(path),
                Reader(onnx.load(full).graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Single values far out would make the steps of all others coarse.
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": 99.99},
            )
        stored = onnx.load(path)
        for node in stored.graph.node:  # where each came from, in many words
            del node.metadata_props[:]
        onnx.helper.set_model_props(stored, {KEY: description.to_json()})
        onnx.save(stored, path)

    def load(self, path: Path) -> Loaded:
        return load_exported(path)


class Storage:
    """8-bit weights on disk, float32 when loaded: a small file, nothing faster. Needs a network of `create_model`."""

    suffix = ".safetensors"
    takes_apart, trains = False, False

    def check(self, layers: Sequence[nn.Module]) -> None:
        """Nothing is needed."""

    def write(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        path: Path,
        description: Description,
        training: Rounded | None,
    ) -> None:
        if description.model is None:
            raise ValueError(
                "backend 'storage' keeps weights, and this network was not made by create_model, so nothing could make "
                "it again; take another backend"
            )
        state: dict[str, Tensor] = {}
        for name, value in model.state_dict().items():
            if value.ndim < 2 or not value.is_floating_point():
                state[name] = value
                continue
            scale = value.abs().flatten(1).amax(1).clamp_min(1e-12) / 127
            state[name] = (value / scale.view(-1, *(1,) * (value.ndim - 1))).round().to(torch.int8)
            state[f"{name}{_SCALE}"] = scale
        write_weights(path, state, {KEY: description.to_json()})

    def load(self, path: Path) -> Loaded:
        state, metadata = read_weights(path)
        description = Description.from_json(metadata.get(KEY), path)
        assert description.model is not None
        for name in [name for name in state if name.endswith(_SCALE)]:
            scale, key = state.pop(name), name.removesuffix(_SCALE)
            state[key] = state[key].float() * scale.view(-1, *(1,) * (state[key].ndim - 1))
        network = make_network(description.model)
        load_weights(network, state, source=repr(str(path)))
        return Loaded(network.eval(), description)


_SCALE = "::scale"

BACKENDS.register("inductor")(Inductor())
BACKENDS.register("onnxruntime")(OnnxRuntime())
BACKENDS.register("storage")(Storage())


@dataclass(frozen=True)
class Quantized:
    """A file that was written.

    Args:
        path: of the file.
        backend: name of its backend.
        layers: convolutions and linear layers that were quantised.
    """

    path: Path
    backend: str
    layers: int


def quantize(
    model: nn.Module,
    path: str | Path,
    batches: Iterable[Tensor],
    *,
    backend: str = "inductor",
    labelled: Iterable[tuple[Tensor, Tensor]] | None = None,
    lr: float = 1e-4,
    data: Mapping[str, Any] | None = None,
) -> Quantized:
    """Quantise a trained network to int8 and write it to a file.

    Args:
        model: the network; it is not changed.
        path: a new file with the suffix of the backend: .pt2 for "inductor", .onnx for "onnxruntime", .safetensors for
            "storage".
        batches: calibration images [N, C, *S], normalised as in training; some hundreds are enough.
        backend: one of `list_quantize_backends`.
        labelled: batches of images and classes to train on with rounding in the forward pass (quantisation-aware
            training), one step for each; for "inductor" alone.
        lr: learning rate of those steps (AdamW).
        data: what the network was trained on, as `DataInfo.to_dict()`, for the file's description.

    Raises:
        ValueError: an unknown backend, a path that is there or has another suffix, no calibration images or ones of
            different shapes, a network without layers that the backend quantises, no compiler.
        ImportError: a package of the extra `deploy` is missing.

    Example:
        >>> import tempfile, torch, kanvolution as kv
        >>> from kanvolution.deploy import load_quantized, quantize
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1).eval()
        >>> file = tempfile.mkdtemp() + "/model.safetensors"
        >>> quantize(model, file, [torch.randn(8, 1, 28, 28)], backend="storage").layers
        5
        >>> load_quantized(file)(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    kind, path = BACKENDS[backend], Path(path).expanduser()
    check_new_file(path, kind.suffix, f"backend {backend!r}")
    if labelled is not None and not kind.trains:
        raise ValueError(f"labelled batches train with backend 'inductor' alone, not with {backend!r}; leave them out")
    calibration = _checked(batches)
    network = unfused(optimize(model)) if kind.takes_apart else copy.deepcopy(model).eval()
    counted = _LAYERS if kind.takes_apart else (*_LAYERS, KANLayer)
    layers = [layer for layer in network.modules() if isinstance(layer, counted)]
    if not layers:
        raise ValueError("the network has no convolution or linear layer that could be quantised")
    kind.check(layers)
    with torch.no_grad():
        shape = tuple(network(calibration[0]).shape)
    description = Description(f"int8-{backend}", tuple(calibration[0].shape), False, shape, data, model_config(model))
    with beside(path) as temporary:
        training = None if labelled is None else Rounded(labelled, lr)
        kind.write(network, calibration, temporary, description, training)
        temporary.replace(path)
    return Quantized(path, backend, len(layers))


def load_quantized(path: str | Path) -> Loaded:
    """The network in a file of `quantize`, of whatever backend.

    Raises:
        ValueError: no such file, a file of another program, a description of another version, no compiler.
        ImportError: a package of the extra `deploy` is missing.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}; `kanvolution quantize RUN` writes one")
    kinds = {BACKENDS[name].suffix: BACKENDS[name] for name in BACKENDS}
    if path.suffix not in kinds:
        raise ValueError(f"{str(path)!r} must end in one of {', '.join(kinds)}")
    try:
        return kinds[path.suffix].load(path)
    except (RuntimeError, OSError, BadZipFile) as error:  # what torch says of an archive that is none
        raise ValueError(
            f"{str(path)!r} is no quantised file, or is damaged: {str(error).partition(chr(10))[0]}"
        ) from error


def _checked(batches: Iterable[Tensor]) -> list[Tensor]:
    found = list(batches)
    if not found or not len(found[0]):
        raise ValueError("there are no calibration images; give some batches of them")
    for batch in found:
        if batch.shape[1:] != found[0].shape[1:]:
            raise ValueError(
                f"calibration images have shapes {tuple(found[0].shape[1:])} and {tuple(batch.shape[1:])}; they must "
                "be of one shape"
            )
    # Two samples at least, so that the traced program takes any number.
    first = found[0] if len(found[0]) > 1 else torch.cat([found[0], found[0]])
    return [first, *found[1:]]


def _images_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _as_images_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _quantizer(is_qat: bool) -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer

    config = x86_inductor_quantizer.get_default_x86_inductor_quantization_config(is_qat=is_qat)
    quantizer = x86_inductor_quantizer.X86InductorQuantizer()
    # By kinds of module: a setting for all would quantise the arithmetic of the bases as well.
    quantizer.set_module_type_qconfig(nn.Conv2d, config)
    quantizer.set_module_type_qconfig(nn.Linear, config)
    return quantizer


def _make_trainable(model: nn.Module) -> None:
    """Weights that `optimize` made constant become parameters again."""
    for layer in model.modules():
        if isinstance(layer, _LAYERS):
            for name, parameter in layer.named_parameters(recurse=False):
                setattr(layer, name, nn.Parameter(parameter.detach().clone()))


def _train(prepared: Any, training: Rounded) -> None:
    optimizer = torch.optim.AdamW((p for p in prepared.parameters() if p.requires_grad), training.lr, weight_decay=0.0)
    for images, classes in training.batches:
        loss = nn.functional.cross_entropy(prepared(_as_images_last(images)), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _save_converted(prepared: Any, example: Tensor, path: Path, description: Description) -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    with quiet():
        converted = convert_pt2e(prepared)
        _drop_unused(converted)
        program: ExportedProgram = trace(converted, _as_images_last(example))
        # An example of the inputs would be stored as well, and where each operator came from.
        program._example_inputs = None
        for node in program.graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
        torch.export.save(program, path, extra_files={KEY: description.to_json()})
    _compress_program(path)


def _compress_program(path: Path) -> None:
    """Deflate the text of the program, which can be as large as the weights of a small network."""
    whole = path.with_suffix(".whole")
    path.replace(whole)
    with ZipFile(whole) as source, ZipFile(path, "w", ZIP_STORED) as target:
        for entry in source.infolist():
            target.writestr(entry, source.read(entry), ZIP_DEFLATED if entry.filename.endswith(".json") else ZIP_STORED)
    whole.unlink()


def _drop_unused(module: torch.fx.GraphModule) -> None:
    """Remove the float weights that the graph no longer reads."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
