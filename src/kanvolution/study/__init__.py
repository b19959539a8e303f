"""Studies: many settings side by side, described as data, some of them brought to equal size."""

from kanvolution.study.budget import BudgetError, BudgetFitter, Fitted
from kanvolution.study.definition import BUDGET, SEED, Budget, Picture, Point, Study, list_studies, read_study
from kanvolution.study.picture import study_figure

__all__ = [
    "BUDGET",
    "SEED",
    "Budget",
    "BudgetError",
    "BudgetFitter",
    "Fitted",
    "Picture",
    "Point",
    "Study",
    "list_studies",
    "read_study",
    "study_figure",
]
