"""The report's style sheet: one column, light and dark, readable on a telephone."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --rule: #dfe4ea; --paper: #ffffff; --card: #f5f7f9;
  --right: #16803c; --s0: #2563eb; --s1: #d97706; --s2: #0d9488; --s3: #9333ea; --s4: #dc2626; --s5: #64748b;
  --bar: #9dbcf5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a3adba; --rule: #343c47; --paper: #14181d;
  --card: #1d232a; --right: #4ade80; --s0: #6ea0ff; --s1: #f0a04b; --s2: #2dd4bf; --s3: #c084fc; --s4: #f87171;
  --s5: #94a3b8; --bar: #35558f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 18px; }
h2 { font-size: 1.25rem; margin: 44px 0 6px; }
h3 { font-size: 1rem; margin: 26px 0 8px; }
h4 { font-size: .95rem; margin: 20px 0 6px; }
p, li { max-width: 74ch; }
h1, h2, h3, h4, p, li, figcaption, .legend { overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .9rem; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 10px; margin: 0; }
dl.facts div { background: var(--card); border-radius: 8px; padding: 10px 14px; min-width: 0; }
dl.facts dt { color: var(--soft); font-size: .78rem; }
dl.facts dd { margin: 0; font-weight: 600; font-size: .95rem; line-height: 1.35; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; font-size: .8rem; text-align: right; vertical-align: bottom; }
td { text-align: right; white-space: nowrap; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.score { font-weight: 650; }
td.score small { color: var(--soft); font-weight: 400; }
td.bar, th.bar { width: 34%; min-width: 150px; text-align: left; }
svg.scorebar { display: block; width: 100%; height: 20px; overflow: visible; }
.scorebar .track { fill: var(--card); }
.scorebar .fill { fill: var(--bar); }
.scorebar .span { stroke: var(--ink); stroke-width: 1.5; }
.scorebar .mark { stroke-width: 3; }
.mark.chance, .key.chance { stroke: var(--s5); --c: var(--s5); }
.mark.floor, .key.floor { stroke: var(--s1); --c: var(--s1); }
.mark.oracle, .key.oracle { stroke: var(--s4); --c: var(--s4); }
.mark.majority, .key.majority { stroke: var(--s3); --c: var(--s3); }
.mark.ceiling, .key.ceiling { stroke: var(--s2); --c: var(--s2); }
table.tasks { width: auto; min-width: min(100%, 560px); }
.tasks td, .tasks th { padding-left: 8px; }
.tasks td:first-child, .tasks th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1;
  padding-left: 0; white-space: normal; min-width: 130px; }
.tasks td.bar { width: 130px; min-width: 130px; }
.tasks .what { text-align: left; color: var(--soft); }
.tasks th.other { min-width: 74px; max-width: 130px; overflow-wrap: anywhere; }
.tasks tr.mean td { font-weight: 650; }
.tasks tr.mean td.what { font-weight: 400; }
.tasks sup { color: var(--s0); line-height: 0; }
table.small { width: auto; min-width: min(100%, 420px); }
table.small th, table.small td { padding-left: 14px; }
table.small th:first-child, table.small td:first-child { padding-left: 0; overflow-wrap: anywhere;
  white-space: normal; }
details { border-bottom: 1px solid var(--rule); padding: 6px 0; max-width: none; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--card); border-radius: 8px; padding: 10px 12px; font-size: .8rem;
  line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; }
.link { color: var(--s0); cursor: pointer; text-decoration: underline; }
.charts.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 24px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: 4px; }
figcaption .soft { font-weight: 400; }
svg.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font-size: 12.5px; }
.chart .grid { stroke: var(--rule); fill: none; }
.chart .axis { stroke: var(--soft); fill: none; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; color: var(--soft); font-size: .85rem; margin: 6px 0; }
.key::before { content: ""; display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle; background: var(--c); }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); gap: 14px; }
.example { background: var(--card); border-radius: 10px; padding: 12px 14px; min-width: 0; }
.query { font-weight: 600; margin: 0 0 10px; overflow-wrap: anywhere; }
.found { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 8px; margin: 0; padding: 0;
  list-style: none; }
.found li { position: relative; max-width: none; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #ffffff; border-radius: 8px;
  border: 3px solid var(--rule); }
.right img { border-color: var(--right); }
.tick { position: absolute; top: -6px; right: -6px; width: 22px; height: 22px; border-radius: 50%; text-align: center;
  background: var(--right); color: var(--paper); font-size: 13px; line-height: 22px; font-weight: 700; }
.pair { display: grid; grid-template-columns: 92px minmax(0, 1fr); gap: 14px; }
.pair ol { margin: 0; padding-left: 1.3em; font-size: .9rem; }
.pair li { overflow-wrap: anywhere; color: var(--soft); }
.pair li.right { color: var(--right); font-weight: 600; }
@media (max-width: 640px) { main { padding: 20px 14px 48px; } td.bar, th.bar { display: none; }
  table { font-size: .84rem; } th, td { padding: 5px 4px; } .pair { grid-template-columns: 64px minmax(0, 1fr); }
  .tasks td:first-child, .tasks th:first-child { min-width: 92px; max-width: 104px; overflow-wrap: anywhere; }
  .tasks td, .tasks th { padding-left: 6px; } .tasks td.score small { display: block; }
  .tasks td.what { white-space: normal; overflow-wrap: anywhere; min-width: 74px; font-size: .78rem; } }
footer { margin-top: 48px; border-top: 1px solid var(--rule); padding-top: 12px; }
"""
