"""The report's style sheet: system fonts, one accent colour, light and dark."""

CSS = """
:root { --bg: #f7f7f5; --card: #ffffff; --text: #1d2126; --muted: #5d6570; --line: #e2e4e7; --accent: #2563a8;
  --soft: #b9d2ec; --good: #187a48; --bad: #b93226; --warn: #8a6100; --track: #eceef0; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #121518; --card: #1a1e23; --text: #e4e7ea; --muted: #98a1ab; --line: #2c3238; --accent: #6fb0f0;
    --soft: #2f4a68; --good: #4cc38a; --bad: #f2766b; --warn: #e0b04c; --track: #262b31; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 14px; margin: 22px 0 6px; color: var(--muted); font-weight: 600; }
p { margin: 6px 0 12px; max-width: 78ch; }
.sub, .muted, figcaption { color: var(--muted); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 18px 0; }
nav { margin: 14px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.pill { display: inline-block; border-radius: 99px; padding: 1px 10px; font-size: 13px; font-weight: 600;
  border: 1px solid currentColor; vertical-align: middle; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 20px 0 4px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile { overflow-wrap: anywhere; }
.tile span { display: block; color: var(--muted); font-size: 13px; line-height: 1.4; margin-top: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { overflow-wrap: anywhere; min-width: 3.5em; } td:has(> code) { min-width: 10.5em; }
.facts, .texts { table-layout: fixed; } .facts th:first-child { width: 28%; } .texts th:first-child { width: 34%; }
.texts td { vertical-align: top; } .texts td div + div { margin-top: 4px; }
th { text-align: left; color: var(--muted); font-weight: 600; border-bottom: 1px solid var(--line);
  padding: 5px 14px 5px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 5px 14px 5px 0; vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
.num { text-align: right; font-variant-numeric: tabular-nums; } td.num { white-space: nowrap; }
code, .id { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
td > svg { display: block; min-width: 60px; }
figure { margin: 8px 0 14px; } figcaption { font-size: 13px; max-width: 78ch; }
svg { display: block; width: 100%; } svg.bar { height: 10px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--muted); }
.track { fill: var(--track); } .fill { fill: var(--soft); } .chosen { fill: var(--accent); }
.mark { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; } .axis { stroke: var(--line); }
.range { stroke: var(--soft); stroke-width: 6; stroke-linecap: round; }
.tick { stroke: var(--accent); stroke-width: 2; }
.gate { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 3 3; } svg .strong { fill: var(--text); }
details summary { cursor: pointer; color: var(--accent); margin: 8px 0; }
ul { margin: 6px 0 10px; padding-left: 20px; } li { margin: 3px 0; max-width: 90ch; overflow-wrap: anywhere; }
@media (max-width: 1060px) {
  main { padding: 20px 12px 40px; } section { padding: 14px 14px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { padding: 8px 0; border-bottom: 1px solid var(--line); } tr:last-child { border-bottom: 0; }
  td, td:has(> code) { min-width: 0; display: flex; gap: 12px; justify-content: space-between; border: 0;
    padding: 2px 0; text-align: right; }
  td:empty { display: none; }
  td::before { content: attr(data-label); color: var(--muted); text-align: left; flex: 0 1 auto; min-width: 30%; }
  td:first-child, td:not([data-label]) { justify-content: flex-start; text-align: left; font-weight: 600; }
  td:first-child::before, td:not([data-label])::before { content: none; }
  td > * { min-width: 0; } td.num { white-space: normal; } td > svg { margin: 4px 0; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } nav { display: none; } }
"""
