"""What notebooks show of our objects: small HTML that takes its colours from the page, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Image:
    """A picture in a cell or by itself, as a data URI; `width` in pixels of the page."""

    uri: str
    name: str
    width: int


@dataclass(frozen=True)
class Table:
    """Rows whose keys are the columns, with what they are above and a line below; all rows have the same keys.

    Cells are texts, numbers or an `Image`; None is empty.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    more: str = ""

    @property
    def numbers(self) -> set[str]:
        """The columns that hold a number."""
        return {name for row in self.rows for name, value in row.items() if _number(value) is not None}


def html(title: str, subtitle: str, parts: Sequence[Table | Image | str]) -> str:
    """A block of HTML: a title, and below it tables, pictures and lines of text.

    Whatever is in it is text and no markup, whoever wrote it: names come from files that anyone may have written.
    Nothing is loaded and nothing is run.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    shown = [(type(part).__name__, part) for part in parts]
    return environment.from_string(_SOURCE).render(title=title, subtitle=subtitle, parts=shown, number=_number)


def _number(value: Any) -> str | None:
    """A number as it is shown; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


_SOURCE = """\
<div class="mmrns-shown">
<style>
.mmrns-shown { color: inherit; line-height: 1.4; }
.mmrns-shown table { border-collapse: collapse; margin: 0.4em 0 0.8em; background: transparent; color: inherit; }
.mmrns-shown caption { text-align: left; font-weight: 600; padding: 0.2em 0; color: inherit; caption-side: top; }
.mmrns-shown th, .mmrns-shown td { padding: 0.2em 0.9em 0.2em 0; text-align: left; vertical-align: middle;
  border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.35); background: transparent; color: inherit; }
.mmrns-shown .number { text-align: right; font-variant-numeric: tabular-nums; }
.mmrns-shown .soft { opacity: 0.7; }
.mmrns-shown img { background: #fff; border-radius: 3px; vertical-align: middle; max-width: 100%; }
.mmrns-shown td img { max-width: none; }
</style>
<div><b>{{ title }}</b>{% if subtitle %} <span class="soft">{{ subtitle }}</span>{% endif %}</div>
{% for kind, part in parts %}
{% if kind == "Table" and part.rows %}
<table>
{% if part.title %}<caption>{{ part.title }}</caption>{% endif %}
<thead><tr>{% for name in part.rows[0] %}
<th{% if name in part.numbers %} class="number"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.rows %}
<tr>{% for value in row.values() %}
{% if value is none %}<td></td>
{% elif value.uri is defined %}<td><img src="{{ value.uri }}" width="{{ value.width }}" alt="{{ value.name }}"></td>
{% elif number(value) is not none %}<td class="number">{{ number(value) }}</td>
{% else %}<td>{{ value }}</td>
{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% if part.more %}<div class="soft">{{ part.more }}</div>{% endif %}
{% elif kind == "Image" %}
<img src="{{ part.uri }}" width="{{ part.width }}" alt="{{ part.name }}">
{% elif kind == "str" %}
<div class="soft">{{ part }}</div>
{% endif %}
{% endfor %}
</div>
"""
