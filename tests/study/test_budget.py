import pytest

import kanvolution as kv
from kanvolution.configs import ConfigError
from kanvolution.study import Budget, BudgetError, BudgetFitter, Point
from kanvolution.study import budget as budget_module
from kanvolution.study.budget import SIZES, Candidate, Size

BASE = ("model=simple4", "model.channels=[8,16,16,32]")


def point(*own: str, reference: tuple[str, ...] = ()) -> Point:
    return Point({"network": "own"}, (*BASE, *own), (*BASE, *reference))


def parameters(*overrides: str) -> int:
    from kanvolution.configs import compose

    config = compose([*BASE, *overrides]).values
    model = kv.create_model(
        "simple4",
        kv.ConvSpec(**config["conv"]),
        num_classes=10,
        in_chans=1,
        **{key: value for key, value in config["model"].items() if key != "name"},
    )
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("own", [("conv.degree=6",), ("conv=identity",)])
def test_the_width_gives_the_number_of_parameters_as_nearly_as_a_channel_allows(own: tuple[str, ...]) -> None:
    found = BudgetFitter(Budget(("parameters",), {}))(point(*own), "parameters")
    target = parameters()
    assert parameters(*own, f"model.width_scale={found.value:g}") / target == found.share
    assert abs(found.share - 1) < 0.06
    nearer = min((parameters(*own, f"model.width_scale={found.value * f}") / target for f in (0.97, 1.03)), key=dist)
    assert dist(found.share) <= dist(nearer)


def dist(share: float) -> float:
    return max(share, 1 / share)


def test_the_reference_itself_has_its_own_width() -> None:
    found = BudgetFitter(Budget(("parameters",), {}))(point(), "parameters")
    assert found.value == 1.0 and found.share == 1.0


def test_a_point_that_is_always_larger_or_smaller_is_named_with_its_size_and_a_remedy() -> None:
    fit = BudgetFitter(Budget(("parameters",), {}))
    narrow = ("model.width_scale=0.001", "conv=identity")
    with pytest.raises(BudgetError, match=r"network=own has .* times the parameters .* smallest, .*; leave it out"):
        fit(point("conv=spline", reference=narrow), "parameters")
    with pytest.raises(BudgetError, match=r"network=own has .* of the parameters of its reference at the largest"):
        key = Budget(("parameters",), {}, "optim.lr")  # changes no size
        BudgetFitter(key)(point("conv=identity"), "parameters")


@pytest.mark.parametrize(
    ("budget", "own", "error", "message"),
    [
        (Budget(("parameters",), {}, "model.width"), (), ConfigError, "budget.key .='model.width'. is no key"),
        (Budget(("parameters",), {}, "size"), (), ConfigError, "budget.key .='size'. is no key"),
        (Budget(("parameters",), {}), ("conv.degre=2",), ConfigError, "Did you mean 'conv.degree'"),
        (
            Budget(("parameters",), {}),
            ("model.groups=4", "conv.degree=1"),
            BudgetError,
            "with model.width_scale=.*groups",
        ),
    ],
)
def test_what_cannot_be_fitted_is_an_error(budget: Budget, own, error, message: str) -> None:
    with pytest.raises(error, match=message):
        BudgetFitter(budget)(point(*own), "parameters")


def test_the_time_of_a_step_is_measured_in_turns_with_the_settings_of_the_training(monkeypatch) -> None:
    from kanvolution.configs import compose
    from kanvolution.data import create_data

    def in_turns(candidates, repeats: int) -> dict[str, list[float]]:
        for step in candidates.values():
            step()
        return {"candidate": [3.0, 8.0, 100.0], "reference": [2.0, 4.0, 5.0]}  # the machine is busy in the last turn

    monkeypatch.setattr(budget_module, "in_turns", in_turns)
    data = create_data("digits")
    own = ("task.penalties.activation_l1=0.1", "task.mixup=0.2", "trainer.mixed_precision=bf16", "optim=lbfgs")
    reference = Candidate(compose([*BASE, "trainer.batch_size=16", "trainer.channels_last=true"]).values, data)
    share = SIZES["time"].against(reference)
    assert share(Candidate(compose([*BASE, *own, "optim.max_iter=2"]).values, data), False) == 2.0


def test_the_search_ends_where_the_size_is_reached(monkeypatch) -> None:
    asked = []

    def against(reference: Candidate):
        def share(candidate: Candidate, final: bool) -> float:
            asked.append((candidate.config["model"]["width_scale"], final))
            return (asked[-1][0] / 0.3) ** 2

        return share

    monkeypatch.setitem(SIZES, "time", Size(against, 0.02))
    found = BudgetFitter(Budget(("time",), {}))(point("conv=identity"), "time")
    assert found.value == pytest.approx(0.3, rel=0.02) and found.share == pytest.approx(1, rel=0.04)
    assert asked[-1] == (found.value, True) and len(asked) < 12 and not any(final for _, final in asked[:-1])
