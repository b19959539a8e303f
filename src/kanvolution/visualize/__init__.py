"""Pictures of runs and of learned functions. Drawn with Matplotlib's figures, without its global state."""

from kanvolution.visualize.attribution import grad_cam, integrated_gradients, plot_attribution
from kanvolution.visualize.comparison import comparison_figure
from kanvolution.visualize.examples import mistakes_figure, overlays_figure
from kanvolution.visualize.figures import save_figure
from kanvolution.visualize.functions import (
    animate_functions,
    compare_functions,
    out_of_range,
    plot_functions,
    plot_importance,
    plot_kernel,
)
from kanvolution.visualize.importance import Importance, importance
from kanvolution.visualize.layers import Curves, Edge, LayerView, layer_inputs, layer_maps, layer_view, layer_views
from kanvolution.visualize.run import ShownLayer, show_functions
from kanvolution.visualize.symbolic import (
    NAMED_FUNCTIONS,
    SymbolicFit,
    SymbolicLayer,
    SymbolicTable,
    fit_function,
    output_change,
    replace_functions,
    symbolic,
)
from kanvolution.visualize.training import confusion_figure, curves_figure, draw_run, reliability_figure

__all__ = [
    "NAMED_FUNCTIONS",
    "Curves",
    "Edge",
    "Importance",
    "LayerView",
    "ShownLayer",
    "SymbolicFit",
    "SymbolicLayer",
    "SymbolicTable",
    "animate_functions",
    "compare_functions",
    "comparison_figure",
    "confusion_figure",
    "curves_figure",
    "draw_run",
    "fit_function",
    "grad_cam",
    "importance",
    "integrated_gradients",
    "layer_inputs",
    "layer_maps",
    "layer_view",
    "layer_views",
    "mistakes_figure",
    "out_of_range",
    "output_change",
    "overlays_figure",
    "plot_attribution",
    "plot_functions",
    "plot_importance",
    "plot_kernel",
    "reliability_figure",
    "replace_functions",
    "save_figure",
    "show_functions",
    "symbolic",
]
