import copy
import json

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.data import DataInfo
from kanvolution.deploy import (
    ADAPTERS,
    AdapterKind,
    adapt,
    fingerprint,
    list_adapters,
    load_adapted,
    load_adapter,
    load_base,
    register_adapter,
)
from tests.bases.test_extended import CANNOT
from tests.tolerances import assert_close
from tests.train.toy import toy_model

LAYERS = {
    "1d": (lambda basis: kv.KANConv1d(4, 6, 3, padding=1, groups=2, basis=basis), (2, 4, 9)),
    "2d": (lambda basis: kv.KANConv2d(4, 6, 3, padding="same", padding_mode="reflect", basis=basis), (2, 4, 5, 6)),
    "3d": (lambda basis: kv.KANConv3d(4, 4, 2, stride=2, groups=4, basis=basis), (2, 4, 4, 4, 4)),
    "transposed": (lambda basis: kv.KANConvTranspose2d(4, 6, 3, stride=2, groups=2, basis=basis), (2, 4, 3, 4)),
    "linear": (lambda basis: kv.KANLinear(4, 6, basis=basis), (5, 4)),
}
KINDS = {
    "lora": {"rank": 2, "alpha": 3.0},
    "functions": {"functions": [0, -1]},
    "new_functions": {"count": 2},
    "functions of another basis": {"basis": "rbf", "basis_options": {"grid_size": 3}},
}
ALONE = {"identity", "wavelet_edge"}  # cannot be joined


def kind_of(name: str) -> str:
    return "new_functions" if name.startswith("functions of") else name


def test_functions_of_another_basis_keep_the_activations_of_the_network(tmp_path) -> None:
    model, x = toy_model("spline").eval(), torch.randn(2, 1, 8, 8)  # whose blocks have a PReLU
    before = model(x)
    adapter = adapt(model, "new_functions", basis="fourier", basis_options={"degree": 1})
    assert_close(model(x), before)
    assert model.stages[0].conv.basis.name == "joined" and isinstance(model.stages[0].act, nn.PReLU)
    disturb(model)
    kv.save_pretrained(adapter.merge(), tmp_path / "merged")
    assert torch.equal(kv.from_pretrained(tmp_path / "merged")(x), model(x))
    second = adapt(model, "new_functions", basis="legendre")
    assert [part["basis"] for part in model.stages[0].conv.basis.parts] == ["spline", "fourier", "legendre"]
    second.remove()
    assert torch.equal(adapter.remove()(x), before)


def disturb(model: nn.Module) -> None:
    """What training does: other values of all that is trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("basis", kv.list_bases())
def test_an_adapter_changes_nothing_at_first_merges_exactly_and_comes_off(basis: str, shape: str, kind: str) -> None:
    if basis in {"new_functions": CANNOT, "functions of another basis": ALONE}.get(kind, ()):
        pytest.skip("has no larger basis")
    make, size = LAYERS[shape]
    layer, x = make(basis), 2 * torch.randn(size)
    before, weights = layer(x), fingerprint(layer)
    adapter = adapt(layer, kind_of(kind), **KINDS[kind])
    assert_close(layer(x), before)
    disturb(layer)
    adapted = layer(x)
    assert (adapted - before).abs().max() > 1e-3 * before.abs().max()
    assert_close(adapter.merge()(x), adapted, 1e-6)
    assert type(layer) is type(make(basis)) and all(p.requires_grad for p in layer.parameters() if p.ndim > 1)
    assert_close(adapter.unmerge()(x), adapted, 1e-6)
    assert torch.equal(adapter.remove()(x), before) and fingerprint(layer) == weights


def test_low_rank_is_the_product_of_two_matrices() -> None:
    layer = kv.KANConv2d(4, 6, 3, groups=2, basis="spline")
    base = layer.weight.detach().clone()
    adapter = adapt(layer, "lora", rank=2, alpha=3.0)
    disturb(layer)
    factors = dict(adapter.deltas[""].named_parameters())
    expected = base.flatten(1) + 1.5 * factors["up"] @ factors["down"].flatten(1)
    assert_close(adapter.merge().weight.flatten(1), expected)
    assert torch.linalg.matrix_rank((layer.weight - base).flatten(1)) == 2


def test_chosen_functions_move_and_the_others_stay() -> None:
    layer = kv.KANConv2d(4, 6, 3, basis="gram", degree=3)
    base = layer.weight.detach().clone().unflatten(1, (4, 5))
    adapter = adapt(layer, "functions", functions=[1, -1])
    assert adapter.trainable() == 2 * layer.weight.numel() // 5
    layer(torch.randn(2, 4, 8, 8)).square().mean().backward()
    torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], 0.1).step()
    moved = (adapter.merge().weight.unflatten(1, (4, 5)) - base).abs().amax((0, 1, 3, 4))
    assert (moved > 0).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize(
    "structure",
    [None, kv.Bottleneck(2, 2), kv.LowRank(2), kv.Separable(), kv.Experts(3, k=1), kv.Bottleneck(2, 2, kv.Experts(2))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_structures_are_adapted_as_plain_layers(structure, kind: str) -> None:
    if kind_of(kind) == "new_functions" and isinstance(structure, kv.LowRank):
        pytest.skip("its functions are learned combinations")
    model = toy_model(kv.ConvSpec("gram", structure=structure)).eval()
    x = torch.randn(2, 1, 8, 8)
    before = model(x)
    adapter = adapt(model, kind_of(kind), **{**KINDS[kind], **({"rank": 1} if kind == "lora" else {})})
    assert_close(model(x), before)
    disturb(model)
    adapted = model(x)
    assert not torch.allclose(adapted, before, atol=1e-3)
    assert_close(adapter.merge()(x), adapted, 1e-6)
    assert torch.equal(adapter.remove()(x), before)


@pytest.mark.parametrize("kind", list_adapters())
def test_a_merged_network_and_its_adapter_are_saved_and_loaded(tmp_path, kind: str) -> None:
    base = toy_model("spline").eval()
    kv.save_pretrained(base, tmp_path / "base")
    model, _ = load_base(tmp_path / "base")
    adapter = adapt(
        model, kind, source=str(tmp_path / "base"), num_classes=3, **({"rank": 2} if kind == "lora" else {})
    )
    train_step(model)
    adapter.save(tmp_path / "adapter")
    model.eval()
    x = torch.randn(2, 1, 8, 8)
    adapted = model(x)
    assert adapted.shape == (2, 3)
    state = adapter.merged_state_dict()
    adapter.merge()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    kv.save_pretrained(model, tmp_path / "merged")
    assert torch.equal(kv.from_pretrained(tmp_path / "merged")(x), adapted)
    assert torch.equal(load_adapted(tmp_path / "adapter")(x), adapted)
    again = load_adapter(tmp_path / "adapter", base)
    assert torch.equal(base(x), adapted)
    assert base.config["num_classes"] == 3
    assert again.remove().config["num_classes"] == 4 and base(x).shape == (2, 4)


def train_step(model: nn.Module) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(3 + torch.randn(8, 1, 8, 8)).square().mean().backward()
    optimizer.step()


def test_an_adapter_is_small_and_holds_what_changed_alone(tmp_path) -> None:
    model = toy_model("gram")
    adapter = adapt(model, "functions", norms=False, head=False)
    before = {name: value.clone() for name, value in adapter.merged_state_dict().items()}
    train_step(model)
    after = adapter.merged_state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"{name}.weight" for name in adapter.deltas} and len(changed) == 4
    adapter.save(tmp_path / "adapter", data=DataInfo("toy", 1, (8, 8), ("a", "b"), (0.5,), (0.5,)))
    assert sum(p.stat().st_size for p in (tmp_path / "adapter").iterdir()) < 10_000
    assert json.loads((tmp_path / "adapter" / "adapter.json").read_text())["data"]["class_names"] == ["a", "b"]


def test_norms_and_bases_are_trained_on_request() -> None:
    model = toy_model("gram")
    few = adapt(model, "lora", rank=1, head=False, norms=False)
    count = few.trainable()
    few.remove()
    more = adapt(model, "lora", rank=1, head=True, norms=True, bases=True)
    extra = sum(p.numel() for n, p in model.named_parameters() if "norm" in n or "beta" in n or n.startswith("head"))
    assert more.trainable() == count + extra == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_frozen_norms_use_their_running_statistics_in_training() -> None:
    model = toy_model("gram")
    adapter = adapt(model, "head")
    x = 5 + torch.randn(4, 1, 8, 8)
    assert torch.equal(model.train()(x), model.eval()(x))
    adapter.remove()
    assert not torch.equal(model.train()(x), model.eval()(x))


def test_adapters_follow_one_another(tmp_path) -> None:
    model, x = toy_model("chebyshev").eval(), torch.randn(2, 1, 8, 8)
    outputs, adapters = [model(x)], []
    for number, (kind, options) in enumerate({"new_functions": {"count": 1}, "lora": {"rank": 2}, "head": {}}.items()):
        adapters.append(adapt(model, kind, **options))
        disturb(model)
        adapters[-1].save(tmp_path / str(number))
        outputs.append(adapters[-1].merge()(x))
    with pytest.raises(ValueError, match="a later adapter is on the network"):
        adapters[0].remove()
    while adapters:
        assert torch.equal(model(x), outputs.pop())
        adapters.pop().remove()
    assert torch.equal(model(x), outputs.pop())
    for number in range(3):
        load_adapter(tmp_path / str(number), model).merge()
    again = toy_model("chebyshev").eval()
    with pytest.raises(ValueError, match="was made for the network"):
        load_adapter(tmp_path / "1", again)


def test_another_base_is_refused_and_both_are_named(tmp_path) -> None:
    model = toy_model("gram")
    name = fingerprint(model)
    adapt(model, "lora", rank=2, source="runs/a").save(tmp_path / "adapter")
    other = copy.deepcopy(toy_model("gram"))
    with torch.no_grad():
        other.get_parameter("head.bias")[0] += 1e-3
    with pytest.raises(ValueError) as error:
        load_adapter(tmp_path / "adapter", other, source="runs/b")
    text = str(error.value)
    assert "'runs/a'" in text and name[:19] in text and "'runs/b'" in text and fingerprint(other)[:19] in text
    load_adapter(tmp_path / "adapter", toy_model("gram"))


def test_a_fingerprint_tells_values_names_and_types() -> None:
    linear = nn.Linear(2, 2)
    names = {fingerprint(linear), fingerprint(copy.deepcopy(linear))}
    assert len(names) == 1 and next(iter(names)).startswith("sha256:")
    assert fingerprint(copy.deepcopy(linear).double()) not in names
    assert fingerprint(copy.deepcopy(linear).bfloat16()) not in names
    assert fingerprint(nn.Sequential(linear)) not in names


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lroa", {}, "unknown adapter 'lroa'. Did you mean 'lora'"),
        ("lora", {"rnk": 2}, "unknown option of adapter 'lora' 'rnk'. Did you mean 'rank'"),
        ("lora", {"rank": 0}, r"adapter.rank \(=0\) must be >= 1"),
        ("lora", {"rank": 5}, r"adapter.rank \(=5\) must be <= 4, the largest rank .* layer 'stages.0.conv'"),
        ("lora", {"alpha": -1.0}, r"adapter.alpha \(=-1.0\)"),
        (
            "lora",
            {"layers": ["stages.0.cnv"], "rank": 2},
            "unknown pattern of adapter.layers 'stages.0.cnv'. Did you mean 'stages.0.conv'",
        ),
        ("functions", {"functions": [7]}, r"7 must be between -5 and 4, since layer 'stages.0.conv' has 5 functions"),
        ("functions", {"functions": []}, "must name at least one function"),
        ("new_functions", {"count": 2, "basis": "spline"}, r"adapter.count \(=2\) is for the network's own basis"),
        ("new_functions", {"basis": "splne"}, "unknown basis 'splne'. Did you mean 'spline'"),
        ("new_functions", {"basis": "wavelet_edge"}, "functions of its own for each output"),
        ("new_functions", {"basis_options": {"degree": 2}}, "need adapter.basis"),
        ("new_functions", {"count": 0}, r"adapter.count \(=0\) must be >= 1"),
        ("lora", {"head": False, "rank": 2, "num_classes": 7}, "set adapter.head=true"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_network_alone(kind: str, options: dict, message: str) -> None:
    model = toy_model("gram")
    before = fingerprint(model)
    with pytest.raises(ValueError, match=message):
        adapt(model, kind, **options)
    assert fingerprint(model) == before and all(p.requires_grad for p in model.parameters())
    adapt(model, "lora", rank=2)


def test_kinds_that_match_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="finds no Kolmogorov-Arnold layer"):
        adapt(nn.Sequential(nn.Linear(2, 2)), "lora")
    with pytest.raises(ValueError, match="has no Kolmogorov-Arnold layer that functions can be added to"):
        adapt(toy_model("identity"), "new_functions")
    with pytest.raises(ValueError, match="it has no head"):
        adapt(nn.Linear(2, 2), "head")
    with pytest.raises(ValueError, match="has no head that can be replaced"):
        adapt(kv.KAN([4, 3]), "head", num_classes=5)
    with pytest.raises(TypeError, match="must be a name"):
        adapt(nn.Linear(2, 2), 3)  # pyright: ignore[reportArgumentType]


def test_an_attached_adapter_is_not_adapted_again() -> None:
    model = toy_model("gram")
    adapter = adapt(model, "lora", rank=2)
    with pytest.raises(ValueError, match=r"has an adapter .* already"):
        adapt(model, "head")
    adapter.remove()
    with pytest.raises(ValueError, match="was removed from its network"):
        adapter.merge()


def test_layers_of_several_kinds_grow_and_are_saved(tmp_path) -> None:
    model, x = toy_model("gram").eval(), torch.randn(2, 1, 8, 8)
    model.stages[0].conv = kv.KANConv2d(1, 4, 3, padding=1, bias=False, basis="legendre", degree=2)
    before = model(x)
    adapter = adapt(model, "new_functions")
    assert_close(model(x), before)
    disturb(model)
    adapted = adapter.merge()(x)
    kv.save_pretrained(model, tmp_path / "several")
    assert_close(kv.from_pretrained(tmp_path / "several")(x), adapted)


def test_a_damaged_adapter_is_refused(tmp_path) -> None:
    model = toy_model("gram")
    adapter = adapt(model, "lora", rank=2)
    adapter.save(tmp_path)
    adapter.remove()
    config = json.loads((tmp_path / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({**config, "adapter": {"name": "lora", "rank": 1}}))
    with pytest.raises(ValueError, match=r"is damaged: .* do not fit the adapter"):
        load_adapter(tmp_path, model)
    for text in ("{", "{}", json.dumps({**config, "format": 99})):
        (tmp_path / "adapter.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged, or of another version"):
            load_adapter(tmp_path, model)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds other things"):
        adapter.save(tmp_path)


def test_a_kan_of_linear_layers_grows_and_is_saved(tmp_path) -> None:
    model, x = kv.KAN([5, 6, 3], basis="fourier", degree=2).eval(), torch.randn(4, 5)
    adapter = adapt(model, "new_functions", count=1)
    assert set(adapter.deltas) == {"layers.0"} and model.layers[0].basis.degree == 3
    disturb(model)
    adapted = adapter.merge()(x)
    kv.save_pretrained(model, tmp_path / "kan")
    assert torch.equal(kv.from_pretrained(tmp_path / "kan")(x), adapted)


def test_a_kind_of_ones_own_is_registered() -> None:
    @register_adapter("biases")
    class Biases(AdapterKind):
        head = False

        def deltas(self, layers, growth):
            return {name: Shifted(layer) for name, layer in layers.items()}

    class Shifted(nn.Module):
        def __init__(self, layer) -> None:
            super().__init__()
            self.shift = nn.Parameter(layer.weight.new_zeros(()))

        def forward(self, weight):
            return weight + self.shift

    try:
        layer = kv.KANConv1d(2, 3, 3)
        weight = layer.weight.detach().clone()
        adapter = adapt(layer, "biases")
        disturb(layer)
        assert adapter.trainable() == 1
        assert torch.allclose(adapter.merge().weight - weight, adapter.deltas[""].shift)
    finally:
        ADAPTERS.unregister("biases")


def test_a_compiled_network_is_adapted_through_its_module() -> None:
    model = toy_model("gram").eval()
    adapter = adapt(model, "lora", rank=2)
    disturb(model)
    x = torch.randn(2, 1, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(x), model(x))
    adapter.merge()
