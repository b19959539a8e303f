import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.bases import joined
from tests.tolerances import assert_close

TWO = [{"basis": "gram", "degree": 2}, {"basis": "wavelet", "num_wavelets": 2}]


def make(**options: object) -> kv.Basis:
    return kv.create_basis("joined", in_channels=4, out_channels=6, groups=2, parts=TWO, **options).double()


def test_its_functions_are_those_of_the_parts_beside_the_base_of_the_first() -> None:
    basis, x = make(), torch.randn(2, 4, 7, dtype=torch.float64)
    gram = kv.create_basis("gram", degree=2).double()
    wavelet = kv.create_basis("wavelet", in_channels=4, num_wavelets=2, base=None).double()
    assert basis.size == 6 and basis.base == "silu"
    assert_close(basis(x), torch.cat([gram(x), wavelet(x)], dim=2))
    assert_close(make(base=None)(x), torch.cat([gram(x)[:, :, 1:], wavelet(x)], dim=2))
    assert_close(make(base="identity")(x)[:, :, 0], x)


def test_a_layer_is_the_sum_of_one_layer_for_each_part() -> None:
    layer = kv.KANConv1d(4, 6, 3, padding=1, groups=2, basis="joined", parts=TWO).double()
    x = torch.randn(2, 4, 7, dtype=torch.float64)
    weight = layer.weight.detach().unflatten(1, (2, 6))
    first = kv.KANConv1d(4, 6, 3, padding=1, groups=2, basis="gram", degree=2).double()
    second = kv.KANConv1d(4, 6, 3, padding=1, groups=2, bias=False, basis="wavelet", num_wavelets=2, base=None).double()
    first.weight.data = weight[:, :, :4].flatten(1, 2)
    second.weight.data = weight[:, :, 4:].flatten(1, 2)
    assert_close(layer(x), first(x) + second(x))


def test_a_layer_is_one_operator_with_one_convolution() -> None:
    layer = kv.KANConv2d(4, 6, 3, groups=2, basis="joined", parts=[*TWO, {"basis": "joined"}])
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for batch in (2, 3, 5):  # made once for all of them, after the first
        torch.compile(layer, fullgraph=True, backend=keep)(torch.randn(batch, 4, 5, 5)).sum().backward()
    assert len(graphs) <= 2
    for graph in graphs:
        called = [str(node.target) for node in graph.graph.nodes if "kanvolution" in str(node.target)]
        assert called == ["kanvolution.joined_gram_wavelet_chebyshev_spline_convolution.default"]


@pytest.mark.compiler
@pytest.mark.skipif(not kv.ops.backends.HAS_CPP_COMPILER, reason="no C++ compiler")
def test_a_compiled_layer_under_autocast() -> None:
    layer = kv.KANConv2d(4, 6, 3, groups=2, basis="joined", parts=TWO)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    results = []
    for module in (layer, torch.compile(layer, fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        results.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, 3e-2)


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["deep", "shallow", "pickle"],
)
def test_copies_and_pickles_have_the_same_operator(again: Callable[[nn.Module], Any]) -> None:
    layer = kv.KANConv2d(4, 6, 3, basis="joined", parts=TWO)
    x = torch.randn(2, 4, 5, 5)
    other = again(layer)
    assert torch.equal(other(x), layer(x)) and other.basis.family is layer.basis.family


def test_a_pickle_is_compiled_in_another_process(tmp_path: Path) -> None:
    """The operator is there when the layer is, before a compiler follows it."""
    layer = kv.KANConv2d(4, 6, 3, basis="joined", parts=TWO)
    x = torch.randn(2, 4, 5, 5)
    torch.save((layer, x, layer(x)), tmp_path / "layer.pt")
    code = (
        "import sys, torch; layer, x, y = torch.load(sys.argv[1], weights_only=False); "
        "found = torch.compile(layer, fullgraph=True, backend='aot_eager')(x); "
        "found.sum().backward(); assert torch.allclose(found, y, atol=1e-6)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "layer.pt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_input_maps_and_families_of_parts_may_change() -> None:
    class Choice(kv.Basis):
        def __init__(self) -> None:
            super().__init__(3, input_map="tanh")
            self.family = kv.ops.legendre

        def functions(self, x: Tensor, **options: Any) -> Tensor:
            return self.family(x, 2, **options)

    x = torch.randn(2, 1, 7)
    kv.register_basis("choice")(Choice)
    try:
        basis = kv.create_basis("joined", parts=[{"basis": "choice"}, {"basis": "gram"}], base=None)
    finally:
        kv.bases.BASES.unregister("choice")
    basis.members[0].family, basis.members[0].input_map = kv.ops.chebyshev, "sigmoid"
    assert_close(basis(x)[:, :, :3], kv.ops.chebyshev(x, 2, input_map="sigmoid"))


def test_a_basis_of_ones_own_is_a_part() -> None:
    """One without a derivative makes the joined functions be composed of ordinary operators."""
    basis = kv.create_basis("joined", parts=[{"basis": "own_powers"}, {"basis": "gram"}]).double()
    x = torch.randn(2, 1, 7, dtype=torch.float64, requires_grad=True)
    powers, gram = (kv.create_basis(name).double() for name in ("own_powers", "gram"))
    expected = torch.cat([powers(x), gram(x)[:, :, 1:]], dim=2)
    assert_close(basis(x), expected)
    assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (basis(x), expected)))


BROKEN: dict[str, Callable[..., Tensor]] = {
    "changes its input": lambda x, **options: kv.ops.legendre(2 * x, 2, **options),
    "changes the result": lambda x, **options: 2 * kv.ops.legendre(x, 2, **options),
    "has two families": lambda x, **options: torch.cat(
        [kv.ops.legendre(x, 0, **options), kv.ops.chebyshev(x, 1, **{**options, "base": None})], dim=2
    ),
    "leaves functions out": lambda x, **options: kv.ops.legendre(x, 3, **{**options, "keep": (0, 1, 2)}),
    "knows no other options": lambda x, input_map="tanh", base=None, dtype=None: kv.ops.legendre(
        x, 2, input_map=input_map, base=base, dtype=dtype
    ),
    "drops options": lambda x, input_map, base, **_: kv.ops.legendre(x, 2, input_map=input_map, base=base),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_basis_that_does_more_than_call_an_expansion_is_refused(broken: str) -> None:
    class Own(kv.Basis):
        def __init__(self) -> None:
            super().__init__(3, input_map="tanh")

        def functions(self, x: Tensor, **options: Any) -> Tensor:
            return BROKEN[broken](x, **options)

    kv.register_basis("broken")(Own)
    try:
        with pytest.raises(ValueError, match=r"basis 'broken' cannot be joined .* one call of an expansion"):
            kv.create_basis("joined", parts=[{"basis": "gram"}, {"basis": "broken"}])
    finally:
        kv.bases.BASES.unregister("broken")


def test_a_basis_that_begins_to_do_more_is_refused_then() -> None:
    class Later(kv.Basis):
        def __init__(self) -> None:
            super().__init__(3, input_map="tanh")

        def functions(self, x: Tensor, **options: Any) -> Tensor:
            return kv.ops.legendre(x if self.training else x.clamp(-1, 1), 2, **options)

    kv.register_basis("later")(Later)
    try:
        basis = kv.create_basis("joined", parts=[{"basis": "gram"}, {"basis": "later"}])
        x = torch.randn(2, 1, 5)
        assert basis(x).shape[2] == basis.size
        with pytest.raises(ValueError, match="basis 'later' cannot be joined"):
            basis.eval()(x)
    finally:
        kv.bases.BASES.unregister("later")


def test_some_of_the_functions_and_combinations() -> None:
    basis, x = make(), torch.randn(2, 4, 7, dtype=torch.float64)
    all_of_them, options = basis(x), {"input_map": basis.input_map, "base": basis.base}
    for keep in ((0, 2, 5), (4,), (1, 2)):
        assert_close(basis.functions(x, keep=keep, **options), all_of_them[:, :, list(keep)])
    mix = torch.randn(4, 3, 6, dtype=torch.float64)
    assert_close(basis.functions(x, mix=mix, **options), torch.einsum("nckx,crk->ncrx", all_of_them, mix))


def test_a_norm_at_the_functions_is_computed_once_and_spares_the_base() -> None:
    layer = kv.ConvSpec("joined", ndim=1, norm="batch", norm_site="functions", act=None, parts=TWO)(4, 6, 3)
    x = torch.randn(2, 4, 7)
    layer(x)
    norm = layer.conv.basis.norm
    assert int(norm.num_batches_tracked) == 1
    basis = layer.conv.basis.eval()
    assert_close(basis(x)[:, :, 0], torch.nn.functional.silu(x))
    assert_close(basis(x)[:, :, 1:], basis.functions(norm(x)))


def test_a_basis_is_joined_with_another_and_shares_what_it_has_learned() -> None:
    gram = kv.create_basis("gram", degree=2)
    norm = torch.nn.BatchNorm1d(4)
    gram.attach(norm=norm)
    larger = joined(gram, (4, 6, 2), "wavelet", {"num_wavelets": 2})
    assert larger.members[0] is gram and larger.norm is norm
    again = joined(larger, (4, 6, 2), "legendre", {})
    assert [part["basis"] for part in again.parts] == ["gram", "wavelet", "legendre"]
    made = kv.create_basis("joined", in_channels=4, out_channels=6, groups=2, **again.options())
    assert made.size == again.size == 10


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"basis": "gram"}], "must be two dictionaries or more"),
        ("gram", "must be two dictionaries or more"),
        (["gram", "spline"], "must be a dictionary with the name of a basis"),
        ([{"basis": "grm"}, {"basis": "spline"}], "unknown basis 'grm'. Did you mean 'gram'"),
        ([{"basis": "gram", "degre": 2}, {"basis": "spline"}], "Did you mean 'degree'"),
        ([{"basis": "gram"}, {"basis": "identity"}], "has no function beside a base function"),
        ([{"basis": "gram"}, {"basis": "wavelet_edge"}], "functions of its own for each output"),
    ],
)
def test_bad_parts_are_refused(parts: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.create_basis("joined", parts=parts)
