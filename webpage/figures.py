"""The plots of the page: two linked maps without pixels (the page fills them in), and curves (Bokeh).

Colours are those of Okabe and Ito, which people with any colour vision tell apart; curves differ in their dashes too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.models import (
    AdaptiveTicker,
    ColumnDataSource,
    HoverTool,
    Metric,
    NumeralTickFormatter,
    PanTool,
    Range1d,
    ScaleBar,
    Span,
    WheelZoomTool,
)
from bokeh.plotting import figure

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#555555",
)  # fmt: skip
INK, FAINT, GRID = "#1f2933", "#5a6672", "#e3e8ee"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY)
DASHES = ("solid", "dashed", "dotted")
STYLES = tuple(zip((BLUE, ORANGE, GREEN), DASHES))
FONT = "system-ui, sans-serif"
BANDS = {"red": "#c8321f", "green": "#1f8a4c", "blue": "#1f63b4", "nir": "#7b2d8e"}
HEIGHT = 300
NARROW, WIDE = 0.8, 1.9  # width of a map in heights
OVERLAYS = {"left": ("labels",), "right": ("probability", "mask", "errors")}
Figures = dict[str, Any]


def maps(height: int, width: int) -> Figures:
    """The two maps, for an area of that shape; panning or zooming one moves the other."""
    aspect = min(max(width / height, NARROW), WIDE)
    x_range, y_range = Range1d(0, width, name="map-x"), Range1d(-height, 0, name="map-y")
    return {f"map-{side}": _map(side, aspect, x_range, y_range) for side in OVERLAYS}


def _map(side: str, aspect: float, x_range: Range1d, y_range: Range1d) -> Any:
    """One map: imagery, overlays and the lines of the split, all of them empty."""
    tools = [PanTool(), WheelZoomTool(modifiers={"ctrl": True})]
    plot = figure(
        x_range=x_range, y_range=y_range, aspect_ratio=aspect, sizing_mode="stretch_width", tools=tools,
        toolbar_location=None, min_border=0, outline_line_color=None, background_fill_color="#eef1f4",
        border_fill_color=None, output_backend="canvas", name=f"map-{side}",
    )  # fmt: skip
    plot.toolbar.active_scroll = tools[1]
    plot.axis.visible = plot.grid.visible = False
    empty: dict[str, list[Any]] = {"url": [], "image": [], "x": [], "y": [], "w": [], "h": []}
    box = {"x": "x", "y": "y", "anchor": "top_left"}
    plot.image_url("url", w="w", h="h", name=f"imagery-{side}", source=ColumnDataSource(dict(empty)), **box)
    for name in OVERLAYS[side]:
        source = ColumnDataSource(dict(empty))
        plot.image_rgba("image", dw="w", dh="h", name=name, source=source, origin="top_left", **box)
    for name, colour, dash in (("training", "#ffffff", "dotted"), ("validation", "#ffffff", "solid")):
        lines = ColumnDataSource({"xs": [], "ys": []}, name=f"split-{name}-{side}")
        for line in (
            {"line_color": "#000000", "line_width": 4.5, "line_alpha": 0.75},
            {"line_color": colour, "line_width": 2, "line_dash": dash},
        ):
            plot.multi_line("xs", "ys", source=lines, name=f"split-{side}", **line)
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    units = Metric(base_unit="m", include=["cm", "m", "km"], ticks=ticks)
    bar = ScaleBar(
        range=x_range, unit="m", dimensional=units, location="bottom_right", name=f"scale-{side}",
        background_fill_alpha=0.8, border_line_color=None, label_text_font=FONT, label_text_font_size="11px",
        bar_length=0.2, margin=8, padding=6,
    )  # fmt: skip
    plot.add_layout(bar)
    return plot


def history(rows: Sequence[Mapping[str, float]], best: float) -> Figures:
    """Loss and IoU after each epoch; a line marks the epoch that was kept."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    loss = _plot("epoch", "loss")
    iou = _plot("epoch", "IoU", y_range=Range1d(0, 1))
    for plot, names in ((loss, ("loss", "val_loss")), (iou, ("iou", "val_iou"))):
        source = ColumnDataSource(columns)
        for name, (colour, dash) in zip(names, (STYLES[1], STYLES[0])):
            plot.line("epoch", name, source=source, line_width=2.2, color=colour, line_dash=dash)
        dots = plot.scatter("epoch", names[1], source=source, size=5, color=BLUE)
        plot.add_layout(Span(location=best, dimension="height", line_color=FAINT, line_dash="dotted", line_width=1.5))
        tips = [("epoch", "@epoch"), ("training", f"@{names[0]}{{0.000}}"), ("validation", f"@{names[1]}{{0.000}}")]
        plot.add_tools(HoverTool(renderers=[dots], tooltips=tips, mode="vline"))
        plot.xaxis.ticker = AdaptiveTicker(min_interval=1)
    return {"history-loss": loss, "history-iou": iou}


def precision_recall(curves: Mapping[str, Mapping[str, list[float]]]) -> Any:
    """Precision over recall for each model; a ring marks the page's threshold."""
    plot = _plot("recall", "precision", x_range=Range1d(0, 1.01), y_range=Range1d(0, 1.01))
    for points, (colour, dash) in zip(curves.values(), STYLES):
        plot.line(points["recall"], points["precision"], line_width=2.2, color=colour, line_dash=dash)
    here = ColumnDataSource({"recall": [], "precision": []}, name="pr-here")
    plot.scatter("recall", "precision", source=here, size=11, fill_color="#ffffff", line_color=BLUE, line_width=3)
    return plot


def calibration(curves: Mapping[str, Mapping[str, list[float]]]) -> Any:
    """The share of roof over the probability of roof for each model; the diagonal is perfect."""
    plot = _plot("probability of roof", "share that is roof", x_range=Range1d(0, 1.01), y_range=Range1d(0, 1.01))
    plot.line([0, 1], [0, 1], color=FAINT, line_width=1)
    for points, (colour, dash) in zip(curves.values(), STYLES):
        source = ColumnDataSource(dict(points))
        plot.line("expected", "found", source=source, line_width=2.2, color=colour, line_dash=dash)
        dots = plot.scatter("expected", "found", source=source, size=7, color=colour)
        tips = [("probability", "@expected{0.00}"), ("is roof", "@found{0.00}"), ("pixels", "@share{0.0 %}")]
        plot.add_tools(HoverTool(renderers=[dots], tooltips=tips))
    return plot


def histograms(bands: Sequence[Mapping[str, Any]], units: str) -> Any:
    """The distribution of each band, as steps; axes end where nearly all pixels lie."""
    plot = _plot(units, "share of pixels, per unit")
    for band, (colour, dash) in zip(bands, band_styles([band["name"] for band in bands])):
        shares, count = band["shares"], len(band["shares"])
        width = (band["to"] - band["from"]) / count
        middles = [band["from"] + width * (k + 0.5) for k in range(count)]
        density = [share / width for share in shares]
        plot.step(middles, density, mode="center", color=colour, line_width=1.8, line_dash=dash)
    plot.yaxis.formatter = NumeralTickFormatter(format="0.00e+0" if _tiny(bands) else "0.0[00] %")
    plot.y_range.start = 0
    return plot


def band_styles(names: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and dash of each band."""
    return [
        (BANDS.get(name.lower(), PALETTE[i % len(PALETTE)]), DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(names)
    ]


def keys(names: Sequence[str], styles: Sequence[tuple[str, str]] = ()) -> list[dict[str, str]]:
    """What stands above a plot: the name, colour and dash of each curve."""
    return [{"name": name, "colour": colour, "dash": dash} for name, (colour, dash) in zip(names, styles or STYLES)]


def _tiny(bands: Sequence[Mapping[str, Any]]) -> bool:
    """Whether shares per unit are too small to be read as percent."""
    tops = [max(band["shares"]) / ((band["to"] - band["from"]) / len(band["shares"])) for band in bands]
    return bool(max(tops) < 1e-4 or max(tops) > 1)


def _plot(x: str, y: str, **options: Any) -> Any:
    """An empty plot in the page's style."""
    plot = figure(
        height=HEIGHT, sizing_mode="stretch_width", toolbar_location=None, tools="", outline_line_color=None,
        background_fill_color=None, border_fill_color=None, min_border_right=12, **options,
    )  # fmt: skip
    plot.xaxis.axis_label, plot.yaxis.axis_label = x, y
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color, axis.minor_tick_line_color = FAINT, None
        axis.major_tick_line_color = FAINT
    plot.grid.grid_line_color = GRID
    return plot


def document(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What BokehJS draws: one document, and the element of the page that each plot goes to.

    Names of objects are numbered by their first appearance, so that a page of the same contents has the same bytes.
    """
    made = Document()
    for plot in figures.values():
        made.add_root(plot)
    text = serialize_json(
        {"doc": made.to_json(deferred=False), "roots": {plot.id: name for name, plot in figures.items()}}
    )
    numbers: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        return f'"m{numbers.setdefault(match[1], str(len(numbers) + 1))}"'

    found: dict[str, Any] = json.loads(re.sub(r'"p(\d{4,})"', renamed, text))
    return found
