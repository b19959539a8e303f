"""Pictures of runs. Drawn with Matplotlib's figures, without its global state."""

from kanvolution.visualize.training import confusion_figure, curves_figure, draw_run

__all__ = ["confusion_figure", "curves_figure", "draw_run"]
