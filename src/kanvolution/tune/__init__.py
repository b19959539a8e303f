"""Search for settings of training: spaces over config keys, and studies of trials."""

from kanvolution.tune.plan import BACKENDS, Plan, StudyInterruptedError
from kanvolution.tune.report import StudyResult, Trial
from kanvolution.tune.space import Space, list_spaces, read_space
from kanvolution.tune.study import backend_options, tune

__all__ = [
    "BACKENDS",
    "Plan",
    "Space",
    "StudyInterruptedError",
    "StudyResult",
    "Trial",
    "backend_options",
    "list_spaces",
    "read_space",
    "tune",
]
