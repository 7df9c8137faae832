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
_MODELS = ("#030303", "#040404", "#050505")
_VARIABLES = {_INK: "ink", _GRID: "line"} | {c: f"model-{i}" for i, c in enumerate(_MODELS)}
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
class Line:
    """A line of a chart.

    Attributes:
        model: Whose it is, as a place in the page's order of models: its colour and marker.
        points: (x, y), from left to right.
        dashed: Drawn so.
        mark: A point to point out.
    """

    model: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """A model in the picture of what it gets right and what it takes.

    Attributes:
        model: Its place in the page's order of models.
        x: Milliseconds.
        y: Percent.
        size: Megabytes.
        low: Lower end of y's interval.
        high: Upper end of it.
    """

    model: int
    x: float
    y: float
    size: float
    low: float = 0.0
    high: float = 0.0


def chart(
    key: str, alt: str, x: str, y: str, lines: Sequence[Line], *, diagonal: bool = False
) -> Markup:
    """Lines over one pair of axes.

    Args:
        key: The picture's name, another for each of a page.
        alt: What it shows, for whoever doesn't see it.
        x: What the axis is of.
        y: The same.
        lines: Drawn in this order.
        diagonal: Whether to draw where both axes are equal, from 0 to 100.
    """

    def draw(axes: "Axes") -> None:
        if diagonal:
            axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":")
        for line in lines:
            colour = _MODELS[line.model % len(_MODELS)]
            marker = _MARKERS[line.model % len(_MARKERS)]
            xs, ys = zip(*line.points, strict=True)
            axes.plot(
                xs, ys, color=colour, marker=marker, markersize=4, linewidth=1.5,
                linestyle="--" if line.dashed else "-",
                fillstyle="none" if line.dashed else "full",
            )  # fmt: skip
            if line.mark:
                axes.plot(*line.mark, marker=marker, markersize=10, color=colour, fillstyle="none")
        if x == "Epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=x, ylabel=y)

    return _svg(key, alt, (3.3, 2.5), draw)


def trade_off(key: str, alt: str, y: str, dots: Sequence[Dot]) -> Markup:
    """What models get right over what a text takes; a disc's area is the size of the weights."""
    largest = max(dot.size for dot in dots)

    def draw(axes: "Axes") -> None:
        for dot in dots:
            colour = _MODELS[dot.model % len(_MODELS)]
            axes.scatter(dot.x, dot.y, s=900 * dot.size / largest, color=colour, alpha=0.25)
            axes.plot([dot.x] * 2, [dot.low, dot.high], color=colour, marker="_")
            axes.plot(dot.x, dot.y, color=colour, marker=_MARKERS[dot.model % len(_MARKERS)])
        axes.set(xlabel="One text, median (ms)", ylabel=y, xlim=(0, 1.25 * max(d.x for d in dots)))
        axes.margins(y=0.25)

    return _svg(key, alt, (4.2, 2.9), draw)


def frontier(
    alt: str, y: str, models: Sequence[tuple[str, Dot]], others: Sequence[tuple[float, float]]
) -> str:
    """A sweep's frontier as a file of its own: a disc's area is the size of the weights.

    Args:
        alt: What it shows, for whoever doesn't see it.
        y: What the upright axis is of.
        models: By name; the teacher has the first place in the order of models, and the students
            on the frontier the second.
        others: (x, y) of students that these beat.
    """
    largest = max(dot.size for _, dot in models)
    students = sorted((dot.x, dot.y) for _, dot in models if dot.model)
    # A student may be on the frontier for its size alone.
    line = [dot for i, dot in enumerate(students) if dot[1] >= max(p[1] for p in students[: i + 1])]

    def draw(axes: "Axes") -> None:
        if others:
            xs, ys = zip(*others, strict=True)
            axes.scatter(xs, ys, s=12, color=_INK, alpha=0.35, linewidths=0)
        xs, ys = zip(*line, strict=True)
        axes.plot(xs, ys, color=_MODELS[1], linewidth=1, drawstyle="steps-post")
        for name, dot in models:
            colour, marker = _MODELS[dot.model], _MARKERS[dot.model]
            axes.scatter(dot.x, dot.y, s=900 * dot.size / largest, color=colour, alpha=0.25)
            axes.plot(dot.x, dot.y, color=colour, marker=marker, markersize=4)
            axes.annotate(name, (dot.x, dot.y), xytext=(6, -10), textcoords="offset points")
        axes.set(xlabel="One text, median (ms)", ylabel=y)
        axes.margins(0.15)

    picture = str(_svg("frontier", alt, (6.4, 4.0), draw))
    for variable, colour in _ON_WHITE.items():
        picture = picture.replace(f"var(--{variable})", colour)
    return picture.replace("<svg ", '<svg style="background: #ffffff" ', 1)


def _svg(key: str, alt: str, size: tuple[float, float], draw: Callable[["Axes"], None]) -> Markup:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
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
    for colour, variable in _VARIABLES.items():
        found = found.replace(colour, f"var(--{variable})")
    return Markup(found.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))
