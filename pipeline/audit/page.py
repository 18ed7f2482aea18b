"""The audit as one HTML page: no other file, no script, no network; light and dark as the reader's system is."""

from __future__ import annotations

from pathlib import Path

from ...cache.writer import write_file
from .report import Audit

__all__ = ["write_page"]

_MOST_ROWS = 100

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Audit of {{ audit.dataset }}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #57606a; --line: #d0d7de; --card: #f6f8fa;
  --serious: #b42318; --look: #8a5a00; --fine: #1a7f37; --out: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --soft: #9198a1; --line: #30363d;
  --card: #161b22; --serious: #ff7b72; --look: #e3b341; --fine: #56d364; --out: #9198a1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 0; display: inline; }
p { margin: .25rem 0; } .soft { color: var(--soft); }
ul.checks { list-style: none; padding: 0; margin: 1.5rem 0; border-top: 1px solid var(--line); }
ul.checks > li { display: grid; grid-template-columns: 6rem 16rem 1fr; gap: .25rem 1rem; padding: .6rem 0;
  border-bottom: 1px solid var(--line); }
@media (max-width: 48rem) { ul.checks > li { grid-template-columns: 6rem 1fr; } ul.checks > li > :last-child {
  grid-column: 1 / -1; } }
.mark { font-weight: 600; white-space: nowrap; }
.serious { color: var(--serious); } .look { color: var(--look); }
.fine { color: var(--fine); } .out { color: var(--out); }
details { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: .75rem 0;
  padding: .6rem .9rem; }
summary { cursor: pointer; }
.wide { overflow-x: auto; margin-top: .75rem; }
table { border-collapse: collapse; width: 100%; min-width: 44rem; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number { font-variant-numeric: tabular-nums; }
code { font-size: .85em; }
</style>
</head>
<body>
<h1>Audit of {{ audit.dataset }}</h1>
<p class="soft">{% for split, count in audit.rows.items() %}
{{ split }} {{ "{:,}".format(count) }}{{ ", " if not loop.last }}
{% endfor %} rows. Nothing was changed. This page names images: share it as you would share them.</p>
<p>{% if audit.serious %}<span class="mark serious">{{ audit.serious }} serious.</span> Figures from this dataset
mislead until that is mended.{% else %}<span class="mark fine">Nothing serious.</span>{% endif %}</p>
{% for told in audit.notes %}<p class="soft">{{ told }}.</p>{% endfor %}
<ul class="checks">
{% for check, one in audit.checks.items() %}<li>
<span class="mark {{ one.severity.split()[-1] }}">{{ one.severity }}</span>
<span>{{ check }}</span><span>{{ one.sentence }}</span></li>
{% endfor %}</ul>
{% for check, listed in rows.items() %}
<details{{ " open" if loop.first }}><summary><h2>{{ check }}</h2>
<span class="soft">{{ "{:,}".format(listed | length) }} {{ "row" if listed | length == 1 else "rows" }} to look at
{{ "(the first " ~ most ~ " here)" if listed | length > most }}</span></summary>
<div class="wide"><table><thead><tr>
<th>image</th><th>split</th><th>label</th><th>advice</th><th>score</th><th>beside</th></tr>
</thead><tbody>
{% for row in listed[:most] %}<tr>
<td>{{ row.image }}<br><code class="soft">{{ row.key[:12] }}</code></td>
<td>{{ row.split }}</td>
<td>{{ row.label }}</td><td>{{ row.advice }}</td><td class="number">{{ row.score }}</td><td>{{ row.related }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endfor %}
<p class="soft">Made by <code>medal audit</code>. Research software, not a medical device.</p>
</body>
</html>
"""


def write_page(path: Path, found: Audit) -> None:
    """Write an audit as a page of HTML; of each check, the first hundred rows."""
    from jinja2 import Environment, StrictUndefined

    rows: dict[str, list[dict[str, str]]] = {}
    for row in found.rows():
        rows.setdefault(row["check"], []).append(row)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    write_file(path, page.render(audit=found.to_dict(), rows=rows, most=_MOST_ROWS).encode())
