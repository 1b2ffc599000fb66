"""Documents as one HTML file that needs no other: style and pictures are inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

from retable.tables.document import MARKS, Block, Cells, Heading, Paragraph, Picture
from retable.text import printable

MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}

_STYLE = """
:root { color-scheme: light dark; --line: #d8d8d8; --soft: #6b6b6b; --match: #00724f;
  --miss: #b3400a; --inconclusive: #946200; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #a0a0a0; --match: #3ecf9b;
  --miss: #ff8a50; --inconclusive: #f0b840; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
table.sentences th, table.sentences td { white-space: normal; text-align: left; }
table.values td:last-child, table.values td:nth-last-child(2) { white-space: normal; }
@media (max-width: 40rem) { body { margin: 1rem auto; padding: 0 .6rem; }
  th, td { padding: .2rem .35rem; } table { font-size: .8rem; } }
@media print { table { font-size: .7rem; } }
.scale { border-left: 4px solid var(--line); padding-left: .8rem; }
.subtitle, .source, .caption { color: var(--soft); font-size: .88rem; }
.summary { font-weight: 600; }
.match, .supported { color: var(--match); } .miss { color: var(--miss); font-weight: 700; }
.contradicted { color: var(--miss); } .inconclusive, .unresolved { color: var(--inconclusive); }
img { max-width: 100%; background: white; border-radius: 4px; margin: .5rem 0; }
"""


def write_html(blocks: Iterable[Block], title: str) -> str:
    """Return blocks as one HTML page."""
    body = "\n".join(map(_block, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading():
            anchor = f' id="{html.escape(block.anchor)}"' if block.anchor else ""
            return f"<h{block.level}{anchor}>{_text(block.text)}</h{block.level}>"
        case Paragraph(role="list"):
            return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in block.lines)}</ul>"
        case Paragraph():
            return f'<p class="{block.role}">{"<br>".join(map(_text, block.lines))}</p>'
        case Picture():
            data = base64.b64encode(block.path.read_bytes()).decode()
            source = f"data:{MEDIA_TYPES[block.path.suffix]};base64,{data}"
            return f'<p><img alt="{html.escape(block.text)}" src="{source}"></p>'
        case Cells():
            head = "".join(f"<th>{_text(text)}</th>" for text in block.heads)
            rows = "".join(
                f"<tr>{_label(line[0], block.links)}{''.join(map(_cell, line[1:]))}</tr>"
                for line in block.lines
            )
            kind = "sentences" if block.sentences else "values"
            return f'<div class="wide"><table class="{kind}"><tr>{head}</tr>{rows}</table></div>'


def _label(text: str, links: frozenset[str]) -> str:
    if text in links:
        return f'<td><a href="#{html.escape(text)}">{_text(text)}</a></td>'
    return f"<td>{_text(text)}</td>"


def _cell(text: str) -> str:
    mark = f' class="{MARKS[text]}"' if text in MARKS else ""
    return f"<td{mark}>{_text(text)}</td>"


def _text(text: str) -> str:
    return html.escape(printable(text, kept="\n"), quote=False)
