"""The backend "triton": its kernels under Triton's interpreter, what they do not do, and when it is chosen."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import kanvolution as kv
from kanvolution import ops
from kanvolution.ops import backends
from kanvolution.ops.evaluation import Call
from kanvolution.ops.joined import joined_families
from tests.ops.test_families import FAMILIES

KERNELS = [Path(__file__).with_name(f"test_triton_{name}.py") for name in ("kernels", "edge_wavelet")]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("speed", ["fast", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_agree_with_the_formulas_under_the_interpreter(speed: str) -> None:
    """In a process of its own, since Triton asks for its interpreter once, when it is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", *map(str, KERNELS), "-q", "-p", "no:cacheprovider"]
    command += ["-m", "slow" if speed == "slow" else "not slow"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_family_and_pointwise_function_has_device_functions() -> None:
    pytest.importorskip("triton")
    from kanvolution.ops.triton import DEVICE_FAMILIES, DEVICE_POINTWISE

    families = {value for value in vars(ops).values() if isinstance(value, ops.Expansion)}
    assert set(DEVICE_FAMILIES) == families
    assert set(DEVICE_POINTWISE) == set(ops.POINTWISE)


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({}, None),
        ({"x": torch.randn(2, 3, 4).double()}, "float32, bfloat16 or float16"),
        ({"dtype": torch.float64}, "float32, bfloat16 or float16"),
        ({"mix": torch.randn(3, 2, 4)}, None),
        ({"x": torch.empty(0, 3, 4)}, "at least one and fewer than 2^31 elements"),
        ({"x": torch.empty(2**16, 2**15, 1, device="meta")}, "at least one and fewer than 2^31 elements"),
        ({"base": "sine"}, "input map and base function have device functions"),
    ],
    ids=["all", "double", "dtype", "mix", "empty", "large", "base"],
)
def test_what_the_kernels_do_is_a_table(change: dict[str, object], condition: str | None) -> None:
    pytest.importorskip("triton")
    from kanvolution.ops.triton import unmet

    call = Call(torch.randn(2, 3, 4), None, None, (), (3,), "tanh", "silu", torch.float32, "triton")._replace(**change)
    assert unmet(ops.legendre.values, call) == ([] if condition is None else [condition])


def test_older_gpus_have_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from kanvolution.ops.triton import unmet

    x = mock.Mock(spec=torch.Tensor, dtype=torch.float32, device=torch.device("cuda", 0))
    x.numel.return_value = 24
    call = Call(x, None, None, (), (3,), "tanh", "silu", torch.float32, "triton")
    for capability, expected in (((7, 5), ["a GPU of compute capability 8.0 or later"]), ((8, 0), []), ((9, 0), [])):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, value=capability: value)
        assert unmet(ops.legendre.values, call) == expected


def test_a_family_of_ones_own_has_no_kernel() -> None:
    pytest.importorskip("triton")
    from kanvolution.ops.triton import unmet

    @ops.expansion
    def legendre(x: torch.Tensor, degree: int) -> ops.Planes:
        return [x**k for k in range(degree)]

    call = Call(torch.randn(2, 3), None, None, (), (3,), "tanh", "silu", torch.float32, "triton")
    assert unmet(legendre.values, call) == ["the family has device functions"]
    both = call._replace(scalars=("tanh", 3, "tanh", 3), input_map="identity")
    assert unmet(joined_families(ops.legendre, legendre).values, both) == ["the family has device functions"]


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({}, None),
        ({"input_map": "tanh"}, "joined families have no input map beside their own"),
        ({"scalars": ("tanh", 3, "sine", 2)}, "input map and base function have device functions"),
    ],
    ids=["all", "outer", "inner"],
)
def test_what_the_kernels_do_of_joined_families(
    change: dict[str, Any], condition: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One launch for each family; no implicit product, which has one."""
    pytest.importorskip("triton")
    from kanvolution.ops.triton import supports, unmet
    from kanvolution.ops.triton.implicit_gemm import THRESHOLDS, Threshold, takes

    monkeypatch.setitem(THRESHOLDS, "forward", Threshold(10**6, 0, 0))
    values = joined_families(ops.legendre, ops.fourier).values
    x = torch.randn(2, 3, 4, 4)
    scalars = ("tanh", 3, "identity", 2)
    call = Call(x, None, None, (), scalars, "identity", "silu", x.dtype, "triton")._replace(**change)
    assert unmet(values, call) == ([] if condition is None else [condition])
    assert supports(values, call) == (condition is None)
    into = ops.Contraction(ops.Convolution((1, 1), (1, 1), (1, 1)), torch.randn(64, 27, 3, 3), None)
    assert not takes("forward", values, call, into)
    assert takes("forward", ops.legendre.values, call._replace(scalars=(3,), input_map="tanh"), into)


def test_the_backend_is_chosen_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "INTERPRETS_TRITON", False)
    for installed, compiler, expected in ((True, True, "triton"), (True, False, "eager"), (False, True, "eager")):
        monkeypatch.setattr(backends, "HAS_TRITON", installed)
        monkeypatch.setattr(backends, "HAS_C_COMPILER", compiler)
        assert backends.resolve_backend("auto", torch.device("cuda")) == expected
        assert backends.resolve_backend("eager", torch.device("cuda")) == "eager"
        assert backends.resolve_backend("auto", torch.device("cpu")) == "eager"
    with pytest.raises(RuntimeError, match="needs Triton: pip install triton"):
        backends.resolve_backend("triton", torch.device("cuda"))
    monkeypatch.setattr(backends, "HAS_TRITON", True)
    layer = kv.set_backend(kv.KANConv2d(2, 3, 3, basis="gram"), "triton")
    with pytest.raises(RuntimeError, match="needs tensors on a CUDA device, and x is on cpu"):
        layer(torch.randn(1, 2, 5, 5))


class Recorder:
    """In place of a kernel: keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **constants: self.launches.append((args, constants))

    def compile(self) -> list[Any]:
        """The kernels of all launches, compiled for a GPU of compute capability 9.0; that needs no GPU."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        kinds = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
        compiled = []
        for args, constants in self.launches:
            options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
            names = self.kernel.arg_names
            signature = {
                name: kinds[value.dtype] if isinstance(value, torch.Tensor) else "i32"
                for name, value in zip(names, args, strict=False)
            }
            signature |= dict.fromkeys(constants, "constexpr")
            source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants)
            compiled.append(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options))
        return compiled


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("gram2", "wavelet_meyer", "joined_chebyshev_spline") else pytest.mark.slow
        )
        for name in FAMILIES
        if not name.endswith(("0", "1", "7"))
    ],
)
def test_the_expansion_compiles_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is more lenient than the compiler."""
    pytest.importorskip("triton")
    if backends.INTERPRETS_TRITON:
        pytest.skip("the interpreter replaces the compiler")
    from kanvolution.ops import triton as kernels
    from kanvolution.ops.triton import expand

    recorders = [Recorder(expand.expand_kernel), Recorder(expand.expand_backward_kernel)]
    monkeypatch.setattr(expand, "expand_kernel", recorders[0])
    monkeypatch.setattr(expand, "expand_backward_kernel", recorders[1])
    op, args, _ = FAMILIES[name]
    tensors = tuple(a.float() for a in args if isinstance(a, torch.Tensor))
    x = torch.randn(2, 3, 8, 8).bfloat16()
    options = ("tanh", "silu", x.dtype, "triton")
    for sample in (x, x.contiguous(memory_format=torch.channels_last)):
        call = Call(sample, None, None, tensors, args[len(tensors) :], *options)
        y = kernels.evaluate(op.values, call, op.size(*args) + 1)
        kernels.evaluate_gradients(op.values, call, y, (True,) * (1 + len(tensors)))
    combined = call._replace(mix=torch.randn(3, 2, op.size(*args) + 1))
    kernels.evaluate_gradients(
        op.values, combined, kernels.evaluate(op.values, combined, 2), (True,) * (2 + len(tensors))
    )
    for recorder in recorders:
        for kernel in recorder.compile():
            assert kernel.asm["cubin"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_implicit_product_compiles_for_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products are those of the tensor cores, and any GPU's shared memory will do."""
    pytest.importorskip("triton")
    if backends.INTERPRETS_TRITON:
        pytest.skip("the interpreter replaces the compiler")
    from kanvolution.ops.triton import implicit_gemm

    recorders = []
    for name in ("forward_kernel", "data_kernel", "weight_kernel"):
        recorders.append(Recorder(getattr(implicit_gemm, name)))
        monkeypatch.setattr(implicit_gemm, name, recorders[-1])
    x, beta = torch.randn(2, 3, 16, 16, dtype=dtype), torch.rand(4)
    call = Call(x, None, None, (beta,), (), "tanh", "silu", dtype, "triton")
    convolution = ops.Convolution((1, 1), (1, 1), (1, 1))
    into = ops.Contraction(convolution, torch.randn(64, 15, 3, 3, dtype=dtype), torch.randn(64, dtype=dtype))
    y = implicit_gemm.convolve(ops.gram.values, call, into, 5)
    implicit_gemm.gradients(ops.gram.values, call, into, 5, y, (True,) * 4)
    for recorder in recorders:
        (kernel,) = recorder.compile()
        assert kernel.asm["cubin"]
        assert re.search(r"\b(wgmma|mma)\b.*\.sync", kernel.asm["ptx"])
        assert kernel.metadata.shared <= 96 * 1024


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_batches_of_all_sizes_have_the_same_kernels(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No constant of the compilation depends on the size of a batch or image."""
    pytest.importorskip("triton")
    from kanvolution.ops.triton import edge_wavelet, expand, implicit_gemm

    recorders: list[Recorder] = []
    for module in (expand, edge_wavelet, implicit_gemm):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            recorders.append(Recorder(getattr(module, name)))
            monkeypatch.setattr(module, name, recorders[-1])
    convolution = ops.Convolution((1, 1), (1, 1), (1, 1))
    constants = []
    for shape in ((1, 16, 4, 4), (2, 16, 4, 4), (7, 16, 9, 5), (48, 16, 8, 16)):
        x = torch.empty(shape).contiguous(memory_format=layout)
        call = Call(x, None, None, (torch.rand(4),), (), "tanh", "silu", x.dtype, "triton")
        into = ops.Contraction(convolution, torch.empty(8, 16 * 5, 3, 3), None)
        for mix in (None, torch.empty(16, 2, 5)):
            combined = call._replace(mix=mix)
            y = expand.evaluate(ops.gram.values, combined, 5 if mix is None else 2)
            expand.evaluate_gradients(ops.gram.values, combined, y, (True,) * (2 + (mix is not None)))
        y = implicit_gemm.convolve(ops.gram.values, call, into, 5)
        implicit_gemm.gradients(ops.gram.values, call, into, 5, y, (True, False, True, True))
        call = call._replace(tensors=(torch.ones(8, 16), torch.ones(8, 16)), scalars=("dog",))
        into = into._replace(weight=torch.empty(8, 16, 3, 3))
        edge_wavelet.gradients(call, into, edge_wavelet.convolve(call, into), (True,) * 4)
        constants.append([[launch[1] for launch in recorder.launches] for recorder in recorders])
        for recorder in recorders:
            recorder.launches.clear()
    assert len(recorders) == 10 and all(constants[0])
    assert all(found == constants[0] for found in constants)


@pytest.mark.parametrize(
    "kind", ["meyer", *(pytest.param(k, marks=pytest.mark.slow) for k in ops.WAVELETS if k != "meyer")]
)
def test_the_edge_wavelets_compile_for_a_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the compiler refuses, and little shared memory."""
    pytest.importorskip("triton")
    if backends.INTERPRETS_TRITON:
        pytest.skip("the interpreter replaces the compiler")
    from kanvolution.ops.triton import edge_wavelet

    recorders = []
    for name in ("values_kernel", "fold_kernel", "unfold_kernel", "data_kernel", "weight_kernel"):
        recorders.append(Recorder(getattr(edge_wavelet, name)))
        monkeypatch.setattr(edge_wavelet, name, recorders[-1])
    x, scale, translation = torch.randn(2, 3, 8, 8).bfloat16(), torch.ones(4, 3), torch.zeros(4, 3)
    call = Call(x, None, None, (scale, translation), (kind,), "identity", None, x.dtype, "triton")
    convolution = ops.Convolution((1, 2), (1, 1), (1, 1))
    into = ops.Contraction(convolution, torch.randn(4, 3, 3, 3).bfloat16(), None)
    edge_wavelet.gradients(call, into, edge_wavelet.convolve(call, into), (True,) * 4)
    for recorder in recorders:
        (kernel,) = recorder.compile()
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= 64 * 1024


def test_the_implicit_product_is_for_many_positions_and_few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from kanvolution.ops.triton.implicit_gemm import MOST_Q, THRESHOLDS, Threshold, takes

    for direction in THRESHOLDS:  # those of the package take it nowhere
        monkeypatch.setitem(THRESHOLDS, direction, Threshold(channels=4, positions=2**16))

    def ask(
        direction: str,
        *shape: int,
        transposed: bool = False,
        groups: int = 1,
        mix: bool = False,
        o: int = 64,
        step: int = 1,
    ) -> bool:
        x = torch.empty((*shape[:-1], shape[-1] * step), device="meta")[..., ::step]
        combined = torch.empty(shape[1], 2, 4, device="meta") if mix else None
        call = Call(x, None, combined, (), (3,), "tanh", None, torch.float32, "triton")
        ndim = x.ndim - 2
        layout = ((1,) * ndim, (1,) * ndim, (1,) * ndim, groups, transposed)
        weight = torch.empty(o, shape[1] // groups * 4, *(3,) * ndim, device="meta")
        return takes(direction, ops.legendre.values, call, ops.Contraction(ops.Convolution(*layout), weight, None))

    monkeypatch.setitem(THRESHOLDS, "forward", Threshold(channels=100, positions=1))
    assert ask("forward", 1, MOST_Q // 9, 8, 8) and not ask("forward", 1, MOST_Q // 9 + 1, 8, 8)
    monkeypatch.setitem(THRESHOLDS, "forward", Threshold(channels=4, positions=2**16))
    for direction, limit in THRESHOLDS.items():
        side = math.isqrt(limit.positions)
        few, many = limit.channels, limit.channels + 1
        assert ask(direction, 1, few, side, side)
        assert ask(direction, 1, 2 * few, side, side, groups=2)
        assert not ask(direction, 1, many, side, side)
        assert not ask(direction, 1, few, side, side - 1)
        assert not ask(direction, 1, few, side, side, o=limit.outputs - 1)
        assert not ask(direction, 1, few, side, side, step=2**20)  # offsets within a sample have 32 bits
        assert not ask(direction, 1, few, side, side, transposed=True)
        assert not ask(direction, 1, few, side * side)
        assert not ask(direction, 1, few, side, side, mix=True)


@pytest.mark.parametrize("program", ["kernels.py", "gpu.py"])
def test_benchmarks_of_gpus_refuse_to_run_without_one(program: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    program = str(ROOT / "benchmarks" / program)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "finds no CUDA device here" in done.stderr
