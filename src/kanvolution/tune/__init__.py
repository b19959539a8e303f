"""Search for settings of training: spaces over config keys, and studies of trials."""

from kanvolution.tune.report import StudyResult, Trial
from kanvolution.tune.space import Space, list_spaces, read_space
from kanvolution.tune.study import BACKENDS, tune

__all__ = ["BACKENDS", "Space", "StudyResult", "Trial", "list_spaces", "read_space", "tune"]
