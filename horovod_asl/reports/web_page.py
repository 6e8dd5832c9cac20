"""An HTML page in one file: for a phone and a desk, in the light and in the dark, its pictures inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from string import Template

import numpy as np

_LIGHT = {"paper": "#ffffff", "ink": "#1d2126", "quiet": "#59616a", "line": "#dfe3e8", "accent": "#2f6db3"}
_DARK = {"paper": "#14171b", "ink": "#e8eaed", "quiet": "#a6aeb7", "line": "#363c44", "accent": "#7db4f0"}
SHADES = 11
"""Of the classes s1, s2 … of a cell: its colour goes from the paper's to the accent's."""

_STYLE = Template("""\
 :root { color-scheme: light dark; $light }
 @media (prefers-color-scheme: dark) { :root { $dark } }
 * { box-sizing: border-box; }
 html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
 body { margin: 0 auto; max-width: 74rem; padding: 1rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--paper);
        color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
 h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 0; }
 h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
 h3 { font-size: 1rem; margin: 0 0 .4rem; }
 p { max-width: 44rem; }
 .quiet, figcaption, caption { color: var(--quiet); }
 .lead { font-size: 1.15rem; } .lead b { font-size: 2.4rem; line-height: 1.1; margin-right: .4rem; }
 .scroll { overflow-x: auto; max-width: 100%; background:
  linear-gradient(to right, var(--paper) 40%, transparent) 0 / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) 100% / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--line), transparent) 0 / .8rem 100% no-repeat scroll,
  linear-gradient(to left, var(--line), transparent) 100% / .8rem 100% no-repeat scroll; }
 table { border-collapse: collapse; overflow-wrap: normal; }
 td, th { padding: .35rem 1.1rem .35rem 0; text-align: left; vertical-align: baseline; }
 th { font-weight: 600; } tr + tr > * { border-top: 1px solid var(--line); }
 .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
 figure { margin: 0; } img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
 figcaption { font-size: .9rem; margin-top: .3rem; }
 .grid { display: grid; gap: 1.6rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
 .bar { width: 40%; min-width: 4rem; } .bar i { display: block; height: .7rem; background: var(--accent);
        border-radius: 2px; min-width: 1px; }
 .bars { width: 100%; max-width: 44rem; }
 .matrix { overflow: auto; max-width: 100%; }
 @media (max-width: 64rem) { .matrix { max-height: 85vh; } td, th { padding-right: .7rem; } }
 .matrix table { border-collapse: separate; border-spacing: 1px; font-size: .75rem; line-height: 1; }
 .matrix td, .matrix th { border: 0; padding: 0; min-width: 1.85rem; height: 1.85rem; text-align: center;
        vertical-align: middle; font-variant-numeric: tabular-nums; }
 .matrix th { position: sticky; background: var(--paper); } .matrix thead th { top: 0; z-index: 1; }
 .matrix tbody th { left: 0; padding: 0 .4rem; } .matrix thead th:first-child { left: 0; z-index: 2; }
 .matrix th.long { writing-mode: vertical-rl; padding: .4rem 0; height: auto; min-width: 0; }
$shades""")

_PAGE = Template("""\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style
</style>
<h1>$title</h1>
<p class="quiet">$subtitle</p>
$body
</html>
""")


def page(title: str, subtitle: str, body: str) -> str:
    """A whole page. `title` and `subtitle` are plain text, `body` is HTML, such as the functions below make."""
    return _PAGE.substitute(
        title=html.escape(title), subtitle=html.escape(subtitle), body=body, style=_style()
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text, which scrolls where it is too wide; under a head, cells that begin with a
    digit stand on the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [
            ' class="n"' if any(head) and (cell[:1].isdigit() or (tag == "th" and i > 0)) else ""
            for i, cell in enumerate(cells)
        ]
        return "".join(
            f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
        )

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    top = f"<tr>{line(head, 'th')}</tr>\n" if any(head) else ""
    return f'<div class="scroll" tabindex="0"><table>\n{top}{body}\n</table></div>'


def picture(data: bytes, kind: str, alt: str, *, dark: bytes | None = None, caption: str = "") -> str:
    """A picture inside the page: `kind` is its media type; `dark` is shown instead where the page is dark."""
    image = f'<img src="{_inline(data, kind)}" alt="{html.escape(alt)}">'
    if dark is not None:
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{_inline(dark, kind)}">'
        image = f"<picture>{source}{image}</picture>"
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{below}</figure>"


def grid(items: Sequence[str]) -> str:
    """Pieces of HTML side by side, as many as there is room for."""
    return f'<div class="grid">{"".join(items)}</div>'


def _inline(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _style() -> str:
    light, dark = ("; ".join(f"--{name}: {value}" for name, value in one.items()) for one in (_LIGHT, _DARK))
    shades = _shades(_LIGHT) + "\n @media (prefers-color-scheme: dark) {\n" + _shades(_DARK) + " }"
    return _STYLE.substitute(light=light, dark=dark, shades=shades)


def _shades(colours: Mapping[str, str]) -> str:
    """A rule for each shade, with the text that stands out more from it: black or white."""
    low, high = (np.array(_channels(colours[name])) for name in ("paper", "accent"))
    rules = []
    for step in range(1, SHADES):
        shade = "#" + "".join(f"{round(c):02x}" for c in low + (high - low) * step / (SHADES - 1))
        ink = max("#000000", "#ffffff", key=lambda text, shade=shade: contrast(text, shade))  # type: ignore[misc]
        rules.append(f" .s{step} {{ background: {shade}; color: {ink}; }}")
    return "\n".join(rules)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours `#rrggbb`, 1 to 21 (WCAG 2.2, relative luminance)."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(_channels(colour), 255)
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
