"""The look of the report page, for light and dark screens, narrow and wide ones, and paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f4f5f7; --ink: #1a1d21; --soft: #59616b; --line: #d9dde2; --faint: #eceef1;
  --blue: #1d5fc4; --ochre: #a85a00; --red: #b3261e; --green: #176b3a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --raised: #1d2126; --ink: #e7e9ec; --soft: #a3abb5; --line: #363c44; --faint: #262b31;
    --blue: #82b1ff; --ochre: #f2b063; --red: #ff8f85; --green: #7fd6a0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; margin: 0; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.8vw, 2.3rem); letter-spacing: -.015em; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 3.25rem 0 .5rem; }
h3 { font-size: 1rem; margin: 2rem 0 .25rem; }
p { margin: .5rem 0; max-width: 44rem; text-wrap: pretty; }
.kind, .soft, figcaption, caption { color: var(--soft); }
.kind { margin: 0 0 .3rem; }
.verdict { margin: 1.4rem 0 0; padding: .85rem 1.1rem; border-left: .3rem solid; background: var(--raised);
  max-width: none; }
.verdict strong { font-size: 1.1rem; }
.passed { border-color: var(--green); } .passed strong { color: var(--green); }
.failed { border-color: var(--red); } .failed strong { color: var(--red); }
.note { border-left: .3rem solid var(--ochre); padding-left: 1.1rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { text-align: left; padding: .36rem 1.1rem .36rem 0; border-bottom: 1px solid var(--faint);
  vertical-align: baseline; white-space: nowrap; }
thead th { border-bottom-color: var(--line); color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 600; }
tbody + tbody { border-top: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; }
.excess { color: var(--red); font-weight: 700; }
.excess::after { content: " ▲"; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.5rem; margin: .75rem 0;
  font-size: .95rem; }
dt { color: var(--soft); } dd { margin: 0; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
figure { margin: 1rem 0 0; }
figcaption { font-size: .92rem; }
.plot svg { display: block; min-width: 34rem; width: 100%; height: auto; font-size: 12px; }
.plot text { fill: var(--soft); } .plot .axis { fill: var(--ink); }
.plot .grid { stroke: var(--faint); } .plot .tick { stroke: var(--line); }
.plot .limit { stroke: var(--red); stroke-width: 1.5; stroke-dasharray: 2 3;
  } .plot .limit-label { fill: var(--red); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.accumulated { stroke: var(--blue); } circle.accumulated { fill: var(--blue); }
polyline.single { stroke: var(--ochre); stroke-dasharray: 6 4; }
circle.single { fill: var(--paper); stroke: var(--ochre); stroke-width: 1.4; }
.plot .hit { fill: transparent; } .plot .hit:hover { fill: var(--ink); fill-opacity: .07; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .4rem 0 .6rem; padding: 0; list-style: none;
  font-size: .92rem; }
.key svg { width: 2.2rem; height: .8rem; vertical-align: -.05rem; margin-right: .5rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 2rem 2.5rem; margin-top: 1rem; }
.pictures.large { grid-template-columns: 1fr; }
.pictures figure { margin: 0; }
.trio { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .4rem; }
.trio img { display: block; width: 100%; height: auto; background: #000; }
.trio img.small { image-rendering: pixelated; }
.trio span { display: block; font-size: .8rem; color: var(--soft); line-height: 1.3; padding-top: .3rem; }
.pictures figcaption { padding-top: .45rem; line-height: 1.4; }
.pictures b { color: var(--ink); font-weight: 600; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; } }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""
