"""Charts as inline SVG, in the colours and font of the surrounding page."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholder colours for matplotlib, and the CSS variables of the page that replace them.
_INK, _GRID = "#010101", "#020202"
_MODEL_COLOURS = ("#030303", "#040404", "#050505")
_CSS_VARIABLES = {_INK: "ink", _GRID: "line"} | {
    c: f"model-{i}" for i, c in enumerate(_MODEL_COLOURS)
}
_MARKERS = ("s", "o", "^")
# Values of the variables on white, for a chart in a file of its own.
_ON_WHITE = {"ink": "#1d2430", "line": "#dde2e8", "model-0": "#0072b2", "model-1": "#c2500a"}
_STYLE = {
    "svg.fonttype": "none",
    # A dollar sign in a label starts no formula.
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class ChartLine:
    """One line of a chart.

    Attributes:
        model_index: Index of the model in the report, which selects colour and marker.
        points: (x, y), from left to right.
        dashed: Draw the line dashed.
        highlighted_point: A point (x, y) to mark.
    """

    model_index: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    highlighted_point: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelPoint:
    """One model in the plot of a metric against latency.

    Attributes:
        model_index: Index of the model in the report.
        latency_ms: Median latency of one text in milliseconds.
        metric_value: Value of the metric, fractions in percent.
        megabytes: Size of the weights.
        interval_low: Lower end of the metric's confidence interval.
        interval_high: Upper end of it.
    """

    model_index: int
    latency_ms: float
    metric_value: float
    megabytes: float
    interval_low: float = 0.0
    interval_high: float = 0.0


def line_chart_svg(
    plot_id: str,
    alt_text: str,
    x_label: str,
    y_label: str,
    lines: Sequence[ChartLine],
    *,
    diagonal: bool = False,
) -> Markup:
    """Draw lines in one pair of axes.

    Args:
        plot_id: A name that is unique in the page.
        alt_text: Description of the chart for screen readers.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        lines: The lines, in drawing order.
        diagonal: Draw the diagonal from (0, 0) to (100, 100).
    """

    def draw(axes: "Axes") -> None:
        if diagonal:
            axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":")
        for line in lines:
            style = _model_style(line.model_index)
            xs, ys = zip(*line.points, strict=True)
            axes.plot(
                xs, ys, **style, markersize=4, linewidth=1.5,
                linestyle="--" if line.dashed else "-",
                fillstyle="none" if line.dashed else "full",
            )  # fmt: skip
            if line.highlighted_point:
                axes.plot(*line.highlighted_point, **style, markersize=10, fillstyle="none")
        if x_label == "Epoch":
            epochs = sorted({x for line in lines for x, _ in line.points})
            if len(epochs) == 1:
                # Around a single point, the automatic ticks lie on one another.
                axes.set(xticks=epochs, xlim=(epochs[0] - 1, epochs[0] + 1))
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set(xlabel=x_label, ylabel=y_label)

    return _render_svg(plot_id, alt_text, (3.3, 2.5), draw)


def trade_off_plot_svg(
    plot_id: str, alt_text: str, y_label: str, model_points: Sequence[ModelPoint]
) -> Markup:
    """Plot a metric against latency; the area of a disc shows the size of the weights."""
    largest = max(point.megabytes for point in model_points)

    def draw(axes: "Axes") -> None:
        for point in model_points:
            style = _draw_disc(axes, point, largest)
            interval = [point.interval_low, point.interval_high]
            axes.plot([point.latency_ms] * 2, interval, color=style["color"], marker="_")
            axes.plot(point.latency_ms, point.metric_value, **style)
        axes.set(
            xlabel="Latency of one text, median (ms)",
            ylabel=y_label,
            xlim=(0, 1.25 * max(p.latency_ms for p in model_points)),
        )
        axes.margins(y=0.25)

    return _render_svg(plot_id, alt_text, (4.2, 2.9), draw)


def pareto_frontier_svg(
    alt_text: str,
    y_label: str,
    named_points: Sequence[tuple[str, ModelPoint]],
    dominated_points: Sequence[tuple[float, float]],
) -> str:
    """Plot the Pareto frontier of a sweep as an SVG file of its own.

    The area of a disc shows the size of the weights.

    Args:
        alt_text: Description of the chart for screen readers.
        y_label: Label of the y axis.
        named_points: Names and points; the teacher has index 0, students on the frontier index 1.
        dominated_points: (latency, metric) of the other students.
    """
    largest = max(point.megabytes for _, point in named_points)
    students = sorted(
        (point.latency_ms, point.metric_value) for _, point in named_points if point.model_index
    )
    # A student may be on the frontier for its size alone; the line passes it by.
    line = [
        point
        for i, point in enumerate(students)
        if point[1] >= max(p[1] for p in students[: i + 1])
    ]

    def draw(axes: "Axes") -> None:
        if dominated_points:
            xs, ys = zip(*dominated_points, strict=True)
            axes.scatter(xs, ys, s=12, color=_INK, alpha=0.35, linewidths=0)
        xs, ys = zip(*line, strict=True)
        axes.plot(xs, ys, color=_MODEL_COLOURS[1], linewidth=1, drawstyle="steps-post")
        for name, point in named_points:
            style = _draw_disc(axes, point, largest)
            axes.plot(point.latency_ms, point.metric_value, markersize=4, **style)
            axes.annotate(
                name,
                (point.latency_ms, point.metric_value),
                xytext=(6, -10),
                textcoords="offset points",
            )
        axes.set(xlabel="Latency of one text, median (ms)", ylabel=y_label)
        axes.margins(0.15)

    picture = str(_render_svg("frontier", alt_text, (6.4, 4.0), draw))
    for variable, colour in _ON_WHITE.items():
        picture = picture.replace(f"var(--{variable})", colour)
    return picture.replace("<svg ", '<svg style="background: #ffffff" ', 1)


def _draw_disc(axes: "Axes", point: ModelPoint, largest_megabytes: float) -> dict[str, Any]:
    """Draw the disc of a model, and return the style of its marker."""
    style = _model_style(point.model_index)
    area = 900 * point.megabytes / largest_megabytes
    axes.scatter(point.latency_ms, point.metric_value, s=area, color=style["color"], alpha=0.25)
    return style


def _model_style(model_index: int) -> dict[str, Any]:
    return {
        "color": _MODEL_COLOURS[model_index % len(_MODEL_COLOURS)],
        "marker": _MARKERS[model_index % len(_MARKERS)],
    }


def _render_svg(
    plot_id: str, alt_text: str, size: tuple[float, float], draw: Callable[["Axes"], None]
) -> Markup:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": plot_id}), warnings.catch_warnings():
        # The reader's font draws the letters, so matplotlib's missing glyphs don't matter.
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(size, layout="constrained")
        draw(figure.subplots())
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = text.getvalue()
    svg = svg[svg.index("<svg ") :]
    # Ids have to be unique in the page. Those that are referred to are: `plot_id` salts them.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for colour, variable in _CSS_VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt_text)}" ', 1))
