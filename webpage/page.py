"""The page itself: template, style, script and BokehJS in one file, everything from outside escaped."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment
from markupsafe import Markup


def render(context: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page.

    Args:
        context: What the template shows.
        data: What the script reads, as JSON.
    """
    environment = Environment(autoescape=True)
    template = environment.from_string(_own("page.html"))
    return template.render(
        **context,
        css=Markup(_own("page.css")),
        js=Markup(_own("page.js")),
        bokeh=Markup(library()) if data["plots"]["roots"] else "",
        data=Markup(as_json(data)),
    )


def _own(name: str) -> str:
    return (files("webpage") / name).read_text(encoding="utf-8")


def library() -> str:
    """BokehJS, as it stands between script tags."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def as_json(data: Any) -> str:
    """JSON that can stand between script tags, whatever text is in it."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def ramp() -> list[str]:
    """Colours of probabilities, dark to light, in which lightness alone says enough (Cividis)."""
    from bokeh.palettes import Cividis256

    return list(Cividis256)
