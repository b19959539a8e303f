"""Schedules against torch's own, and their warm-up."""

import itertools

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedules

from kanvolution.train import create_schedule, list_schedules

STEPS, EPOCHS = 60, 12


def factors(choice, steps: int = STEPS, epochs: int = EPOCHS) -> list[float]:
    schedule = create_schedule(choice, steps, epochs)
    return [schedule(step) for step in range(steps)]


def of_torch(make, steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("choice", "make"),
    [
        (
            {"name": "cosine", "warmup_epochs": 0, "final": 0.1},
            lambda o: torch_schedules.CosineAnnealingLR(o, STEPS - 1, eta_min=0.1),
        ),
        (
            {"name": "polynomial", "warmup_epochs": 0, "power": 2.5, "final": 0.0},
            lambda o: torch_schedules.PolynomialLR(o, STEPS - 1, power=2.5),
        ),
        (
            {"name": "exponential", "warmup_epochs": 0, "gamma": 0.7},
            lambda o: torch_schedules.ExponentialLR(o, 0.7 ** (EPOCHS / STEPS)),
        ),
        (
            {"name": "step", "step_epochs": 3, "gamma": 0.2},
            lambda o: torch_schedules.StepLR(o, 3 * STEPS // EPOCHS, gamma=0.2),
        ),
        (
            {"name": "onecycle", "warmup_share": 0.25, "start": 0.1, "final": 0.1 / 50},
            lambda o: torch_schedules.OneCycleLR(
                o, 1.0, STEPS, pct_start=0.25, div_factor=10, final_div_factor=50, cycle_momentum=False
            ),
        ),
        ("constant", lambda o: torch_schedules.ConstantLR(o, factor=1.0)),
    ],
    ids=lambda value: (value if isinstance(value, str) else value["name"]) if not callable(value) else "",
)
def test_schedules_equal_torchs(choice, make) -> None:
    # Near the end, at 0, the recurrence of torch's cosine is the less exact of the two.
    assert factors(choice) == pytest.approx(of_torch(make), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [n for n in list_schedules() if n != "onecycle"])
def test_a_warm_up_goes_in_front_of_the_schedule_of_the_steps_left(name: str) -> None:
    warm, per_epoch = 2, STEPS // EPOCHS
    whole = factors({"name": name, "warmup_epochs": warm})
    length = warm * per_epoch
    linear = torch_schedules.LinearLR
    expected = of_torch(lambda o: linear(o, start_factor=1 / length, total_iters=length - 1), length)
    assert whole[:length] == pytest.approx(expected)
    rest = factors({"name": name, "warmup_epochs": 0}, STEPS - length, EPOCHS - warm)
    assert whole[length:] == pytest.approx(rest)


@pytest.mark.parametrize("name", list_schedules())
@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (2, 1), (7, 3), (100, 10)])
def test_every_schedule_stays_within_0_and_1_and_reaches_the_top(name: str, steps: int, epochs: int) -> None:
    schedule = create_schedule(name, steps, epochs)
    values = [schedule(step) for step in range(steps + 1)]
    assert all(0 < f <= 1 for f in values)
    assert steps < 100 or max(values) > 0.99


def test_a_warm_up_takes_half_of_the_run_at_most() -> None:
    values = factors({"name": "cosine", "warmup_epochs": 100})
    assert values[STEPS // 2 - 1] == values[STEPS // 2] == 1.0
    assert all(a < b for a, b in itertools.pairwise(values[: STEPS // 2]))


def test_cosine_and_polynomial_end_at_their_last_factor() -> None:
    for name in ("cosine", "polynomial"):
        assert factors({"name": name, "final": 0.25})[-1] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("cosin", "unknown schedule 'cosin'. Did you mean 'cosine'"),
        ({"name": "cosine", "finale": 0.1}, "Did you mean 'final'"),
        ({"name": "cosine", "final": 2}, r"schedule.final \(=2\) must be between 0 and 1"),
        ({"name": "cosine", "warmup_epochs": -1}, r"schedule.warmup_epochs \(=-1\)"),
        ({"name": "polynomial", "power": 0}, r"schedule.power \(=0\) must be positive"),
        ({"name": "exponential", "gamma": 0.0}, r"schedule.gamma \(=0.0\) must be above 0"),
        ({"name": "step", "step_epochs": 0}, r"schedule.step_epochs \(=0\) must be positive"),
        ({"name": "onecycle", "warmup_share": 1.5}, r"schedule.warmup_share \(=1.5\)"),
    ],
)
def test_mistakes_name_the_nearest_or_the_limit(choice, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_schedule(choice, 10, 1)
