"""Pictures as SVG that stands in a page: its colours and its font are those of the page."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib takes for colours, and the page's variables that replace them.
_INK, _GRID = "#010101", "#020202"
_MODEL_COLOURS = ("#030303", "#040404", "#050505")
_CSS_VARIABLES = {_INK: "ink", _GRID: "line"} | {
    c: f"model-{i}" for i, c in enumerate(_MODEL_COLOURS)
}
_MARKERS = ("s", "o", "^")
# What the variables are on white, for a picture that stands alone.
_ON_WHITE = {"ink": "#1d2430", "line": "#dde2e8", "model-0": "#0072b2", "model-1": "#c2500a"}
_STYLE = {
    "svg.fonttype": "none",
    # A dollar sign in a label is no mathematics.
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
    """A line of a chart.

    Attributes:
        model_index: Whose it is, as a place in the page's order of models: its colour and marker.
        points: (x, y), from left to right.
        dashed: Drawn so.
        highlighted_point: A point to point out.
    """

    model_index: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    highlighted_point: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelPoint:
    """A model in the picture of what it gets right and what it takes.

    Attributes:
        model_index: Its place in the page's order of models.
        latency_ms: Milliseconds.
        metric_value: Percent.
        megabytes: Megabytes.
        interval_low: Lower end of y's interval.
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
    """Lines over one pair of axes.

    Args:
        plot_id: The picture's name, another for each of a page.
        alt_text: What it shows, for whoever doesn't see it.
        x_label: What the axis is of.
        y_label: The same.
        lines: Drawn in this order.
        diagonal: Whether to draw where both axes are equal, from 0 to 100.
    """

    def draw(axes: "Axes") -> None:
        if diagonal:
            axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":")
        for line in lines:
            colour = _MODEL_COLOURS[line.model_index % len(_MODEL_COLOURS)]
            marker = _MARKERS[line.model_index % len(_MARKERS)]
            xs, ys = zip(*line.points, strict=True)
            axes.plot(
                xs, ys, color=colour, marker=marker, markersize=4, linewidth=1.5,
                linestyle="--" if line.dashed else "-",
                fillstyle="none" if line.dashed else "full",
            )  # fmt: skip
            if line.highlighted_point:
                axes.plot(
                    *line.highlighted_point,
                    marker=marker,
                    markersize=10,
                    color=colour,
                    fillstyle="none",
                )
        if x_label == "Epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=x_label, ylabel=y_label)

    return _render_svg(plot_id, alt_text, (3.3, 2.5), draw)


def trade_off_plot_svg(
    plot_id: str, alt_text: str, y_label: str, model_points: Sequence[ModelPoint]
) -> Markup:
    """What models get right over what a text takes; a disc's area is the size of the weights."""
    largest = max(dot.megabytes for dot in model_points)

    def draw(axes: "Axes") -> None:
        for dot in model_points:
            colour = _MODEL_COLOURS[dot.model_index % len(_MODEL_COLOURS)]
            axes.scatter(
                dot.latency_ms,
                dot.metric_value,
                s=900 * dot.megabytes / largest,
                color=colour,
                alpha=0.25,
            )
            axes.plot(
                [dot.latency_ms] * 2,
                [dot.interval_low, dot.interval_high],
                color=colour,
                marker="_",
            )
            axes.plot(
                dot.latency_ms,
                dot.metric_value,
                color=colour,
                marker=_MARKERS[dot.model_index % len(_MARKERS)],
            )
        axes.set(
            xlabel="One text, median (ms)",
            ylabel=y_label,
            xlim=(0, 1.25 * max(d.latency_ms for d in model_points)),
        )
        axes.margins(y=0.25)

    return _render_svg(plot_id, alt_text, (4.2, 2.9), draw)


def pareto_frontier_svg(
    alt_text: str,
    y_label: str,
    named_points: Sequence[tuple[str, ModelPoint]],
    dominated_points: Sequence[tuple[float, float]],
) -> str:
    """A sweep's frontier as a file of its own: a disc's area is the size of the weights.

    Args:
        alt_text: What it shows, for whoever doesn't see it.
        y_label: What the upright axis is of.
        named_points: By name; the teacher has the first place in the order of models, and the students
            on the frontier the second.
        dominated_points: (x, y) of students that these beat.
    """
    largest = max(dot.megabytes for _, dot in named_points)
    students = sorted(
        (dot.latency_ms, dot.metric_value) for _, dot in named_points if dot.model_index
    )
    # A student may be on the frontier for its size alone.
    line = [dot for i, dot in enumerate(students) if dot[1] >= max(p[1] for p in students[: i + 1])]

    def draw(axes: "Axes") -> None:
        if dominated_points:
            xs, ys = zip(*dominated_points, strict=True)
            axes.scatter(xs, ys, s=12, color=_INK, alpha=0.35, linewidths=0)
        xs, ys = zip(*line, strict=True)
        axes.plot(xs, ys, color=_MODEL_COLOURS[1], linewidth=1, drawstyle="steps-post")
        for name, dot in named_points:
            colour, marker = _MODEL_COLOURS[dot.model_index], _MARKERS[dot.model_index]
            axes.scatter(
                dot.latency_ms,
                dot.metric_value,
                s=900 * dot.megabytes / largest,
                color=colour,
                alpha=0.25,
            )
            axes.plot(dot.latency_ms, dot.metric_value, color=colour, marker=marker, markersize=4)
            axes.annotate(
                name,
                (dot.latency_ms, dot.metric_value),
                xytext=(6, -10),
                textcoords="offset points",
            )
        axes.set(xlabel="One text, median (ms)", ylabel=y_label)
        axes.margins(0.15)

    picture = str(_render_svg("frontier", alt_text, (6.4, 4.0), draw))
    for variable, colour in _ON_WHITE.items():
        picture = picture.replace(f"var(--{variable})", colour)
    return picture.replace("<svg ", '<svg style="background: #ffffff" ', 1)


def _render_svg(
    plot_id: str, alt_text: str, size: tuple[float, float], draw: Callable[["Axes"], None]
) -> Markup:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": plot_id}), warnings.catch_warnings():
        # The letters are the reader's font's, not matplotlib's.
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(size, layout="constrained")
        draw(figure.subplots())
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    found = text.getvalue()
    found = found[found.index("<svg ") :]
    # A page holds many pictures, and no two things of one id. What is referred to keeps its own,
    # which the key has salted.
    found = re.sub(r'<g id="[^"]*">', "<g>", found)
    for colour, variable in _CSS_VARIABLES.items():
        found = found.replace(colour, f"var(--{variable})")
    return Markup(found.replace("<svg ", f'<svg role="img" aria-label="{escape(alt_text)}" ', 1))
