"""Search for settings of training: spaces over config keys, and studies of trials."""

from kanvolution.tune.space import Space, list_spaces, read_space
from kanvolution.tune.study import StudyResult, Trial, tune

__all__ = ["Space", "StudyResult", "Trial", "list_spaces", "read_space", "tune"]
