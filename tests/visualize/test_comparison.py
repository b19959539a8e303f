import pytest

from kanvolution.visualize import comparison_figure


def entry(setting: dict[str, str], mean: float | None, std: float | None = None, parameters: int = 100) -> dict:
    return {
        "setting": setting,
        "parameters": parameters,
        "seconds": {"mean": 1.0, "std": None},
        "metrics": {"top1": {"mean": mean, "std": std}},
    }


def lines(axis) -> dict[str, tuple[list[float], list[float]]]:
    return {c.get_label(): tuple(map(list, c.lines[0].get_data())) for c in axis.containers}


def test_over_parameters_each_setting_with_a_score_has_a_point_with_its_name() -> None:
    found = [("gram", 0.5, 100), ("rbf", 0.7, 200), ("relu", None, 300)]
    entries = [entry({"model": "simple4", "conv": c}, mean, parameters=p) for c, mean, p in found]
    axis = comparison_figure(entries, x="parameters", colour="model", label="conv").axes[0]
    assert {text.get_text() for text in axis.texts} == {"gram", "rbf"}
    assert lines(axis) == {"simple4": ([100, 200], [50.0, 70.0])} and axis.get_xscale() == "log"


def test_numbers_run_to_the_right_in_panels_and_colours_with_other_settings_as_lines() -> None:
    entries = [
        entry({"site": site, "kind": kind, "rate": rate}, 0.5 + float(rate) + 0.1 * (kind == "b"), 0.01)
        for site in ("full", "poly")
        for kind in ("a", "b")
        for rate in ("0.1", "0.3")
    ]
    figure = comparison_figure(
        [*entries, entry({"site": "none"}, 0.4, 0.02)], "A title", x="rate", colour="kind", panel="site"
    )
    assert [axis.get_title() for axis in figure.axes] == ["site: full", "site: poly"]
    for axis in figure.axes:
        assert lines(axis)["a"] == ([0.1, 0.3], [60.0, 80.0]) and lines(axis)["b"][1] == pytest.approx([70.0, 90.0])
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.1", "0.3"]
        none = next(line for line in axis.get_lines() if line.get_label() == "none")
        assert list(none.get_ydata()) == [40.0, 40.0]
    legend = figure.legends[0]
    assert {text.get_text() for text in legend.get_texts()} == {"a", "b", "none"}
    assert legend.get_title().get_text() == "kind"


def test_names_run_down_and_axes_without_a_part_are_told_by_colour() -> None:
    entries = [
        entry({"norm": n, "conv": c, "seeded": "1"}, m)
        for n, c, m in [("batch", "gram", 0.9), ("batch", "rbf", 0.8), ("none", "gram", 0.1)]
    ]
    axis = comparison_figure(entries, x="conv", colour="norm").axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["gram", "rbf"]
    assert set(lines(axis)) == {"batch, 1", "none, 1"}
    x, y = lines(axis)["batch, 1"]
    assert x == [90.0, 80.0] and [round(v) for v in y] == [0, 1] and axis.get_ylim() == (1.5, -0.5)


def test_without_parts_the_last_axis_is_drawn_and_nothing_is_no_error() -> None:
    entries = [entry({"conv": "gram", "degree": d}, 0.01 * float(d)) for d in ("1", "2", "3e1")]
    axis = comparison_figure(entries, metric_label="share", factor=1.0).axes[0]
    assert axis.get_xlabel() == "degree" and axis.get_ylabel() == "share" and axis.get_xscale() == "log"
    assert list(lines(axis)) == ["gram"] and lines(axis)["gram"][0] == [1, 2, 30]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2", "3e1"]
    assert comparison_figure([entry({"conv": "gram"}, None)]).axes
