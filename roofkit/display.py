"""How a map looks where it is opened: colours, names of bands, and the statistics by which programs stretch it."""

import math
from dataclasses import dataclass

ROOF, GROUND = (213, 94, 0), (235, 235, 235)
ROOF_COLOUR, GROUND_COLOUR = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (ROOF, GROUND))
MASK_COLOURS = {
    value: tuple(round(g + (r - g) * value / 255) for g, r in zip(GROUND, ROOF)) for value in range(256)
}  # 0 ground, 255 roof; what programs average lies between
MASK_BAND, PROBABILITY_BAND = "metal roof", "roof probability"


@dataclass(frozen=True)
class Statistics:
    """What GDAL keeps of a band: lowest, highest and mean value, standard deviation, share of pixels that are valid."""

    low: float
    high: float
    mean: float
    deviation: float
    valid: float

    def tags(self) -> dict[str, str]:
        """Metadata of a band, as GDAL writes them; they save programs a look at every pixel, and a file beside it."""
        names = ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")
        values = (self.low, self.high, self.mean, self.deviation)
        found = {f"STATISTICS_{name}": f"{value:.14g}" for name, value in zip(names, values)}
        return found | {"STATISTICS_VALID_PERCENT": f"{100 * self.valid:.4g}"}


def mask_statistics(roof: int, valid: int, pixels: int) -> dict[str, str]:
    """Tags of a mask with so many roof pixels and valid ones; none where nothing is valid."""
    if not valid:
        return {}
    share = roof / valid
    low, high = 255 * (roof == valid), 255 * (roof > 0)
    return Statistics(low, high, 255 * share, 255 * math.sqrt(share * (1 - share)), valid / pixels).tags()


def value_statistics(span: tuple[float, float], sums: tuple[float, float], valid: int, pixels: int) -> dict[str, str]:
    """Tags of a band of numbers; none where nothing is valid.

    Args:
        span: The lowest and the highest valid value.
        sums: The sum of valid values, and that of their squares.
        valid: How many there are.
        pixels: Of the raster.
    """
    if not valid:
        return {}
    mean = sums[0] / valid
    deviation = math.sqrt(max(0.0, sums[1] / valid - mean**2))
    return Statistics(*span, mean, deviation, valid / pixels).tags()


MASK_QML = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
<pipe>
<rasterrenderer type="paletted" band="1" alphaBand="{alpha}" opacity="1">
<colorPalette>
<paletteEntry value="0" label="ground" color="{ground}" alpha="255"/>
<paletteEntry value="255" label="metal roof" color="{roof}" alpha="255"/>
</colorPalette>
</rasterrenderer>
</pipe>
</qgis>
"""


def mask_style(*, has_mask: bool) -> str:
    """How QGIS (from 3.22 on) draws a mask beside which this lies: in two colours, and nothing where it is invalid.

    By itself, QGIS takes a mask inside the file for a second band, and draws the two in green and yellow. Told of one
    where there is none, it draws nothing.
    """
    return MASK_QML.format(alpha=2 if has_mask else -1, ground=GROUND_COLOUR, roof=ROOF_COLOUR)


SHADES = {0.0: (253, 208, 162), 0.5: (253, 174, 107), 0.7: (241, 137, 60), 0.8: (217, 102, 20), 0.9: (166, 62, 3)}
"""From which mean probability on a footprint has which colour: about ColorBrewer's oranges."""
LINES = {
    "style": "solid", "outline_color": "90,40,0,255", "outline_style": "solid", "outline_width": "0.3",
    "outline_width_unit": "MM", "joinstyle": "miter",
}  # fmt: skip
QML = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
<renderer-v2 type="graduatedSymbol" attr="mean_probability" graduatedMethod="GraduatedColor" forceraster="0">
<ranges>
{ranges}
</ranges>
<symbols>
{symbols}
</symbols>
</renderer-v2>
</qgis>
"""
RANGE = '<range symbol="{number}" lower="{low}" upper="{high}" label="{low:.0%} to {high:.0%}" render="true"/>'
SYMBOL = """<symbol name="{number}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">
<layer class="SimpleFill" enabled="1" locked="0" pass="0">
<Option type="Map">{options}</Option>
</layer>
</symbol>"""
OPTION = '<Option name="{}" type="QString" value="{}"/>'


def footprint_style() -> str:
    """How QGIS (from 3.22 on) draws footprints: the surer, the darker."""
    ends = zip(SHADES, [*list(SHADES)[1:], 1.0])
    ranges = [RANGE.format(number=number, low=low, high=high) for number, (low, high) in enumerate(ends)]
    symbols = []
    for number, colour in enumerate(SHADES.values()):
        options = LINES | {"color": ",".join(map(str, (*colour, 160)))}
        symbols.append(SYMBOL.format(number=number, options="".join(OPTION.format(*pair) for pair in options.items())))
    return QML.format(ranges="\n".join(ranges), symbols="\n".join(symbols))
