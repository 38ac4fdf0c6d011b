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
.tile span { color: var(--muted); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--muted); font-weight: 600; border-bottom: 1px solid var(--line);
  padding: 5px 14px 5px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 5px 14px 5px 0; vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, .id { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.id { white-space: nowrap; }
td > svg { display: block; min-width: 90px; }
figure { margin: 8px 0 14px; } figcaption { font-size: 13px; max-width: 78ch; }
svg { width: 100%; height: auto; } svg.bar { height: 10px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--muted); }
.track { fill: var(--track); } .fill { fill: var(--soft); } .chosen { fill: var(--accent); }
.mark { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; } .axis { stroke: var(--line); }
.range { stroke: var(--soft); stroke-width: 6; stroke-linecap: round; }
.tick { stroke: var(--accent); stroke-width: 2; }
.gate { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 3 3; } svg .strong { fill: var(--text); }
details summary { cursor: pointer; color: var(--accent); margin: 8px 0; }
ul { margin: 6px 0 10px; padding-left: 20px; } li { margin: 3px 0; max-width: 90ch; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section { break-inside: avoid; } nav { display: none; } }
"""
