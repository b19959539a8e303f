from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import kanvolution as kv


@kv.ops.expansion
def own_powers(x: Tensor, degree: int) -> kv.ops.Planes:
    return [x**k / k for k in range(1, degree + 1)]


# A user's basis: it goes through every property test without those tests knowing of it.
@kv.register_basis("own_powers")
class OwnPowers(kv.Basis):
    def __init__(self, degree: int = 3) -> None:
        super().__init__(degree, input_map="tanh", base="silu")
        self.degree = degree

    def functions(self, x: Tensor, **options: object) -> Tensor:
        return own_powers(x, self.degree, **options)


@pytest.fixture(autouse=True)
def _seed_and_no_threads_left(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    if "compiler" not in request.keywords:  # compiling each operator's loop takes seconds; tests that want it say so
        monkeypatch.setattr("kanvolution.ops.backends.HAS_CPP_COMPILER", False)
    yield
    torch._dynamo.reset()
