"""The style of the panels of one task; its colours are the report's."""

CSS = """
section h4 { font-size: .92rem; margin: 20px 0 2px; }
section small { color: var(--soft); font-weight: 400; font-size: .8rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 12px; margin: 8px 0;
  padding: 0; list-style: none; }
.cards li { background: var(--card); border-radius: 10px; padding: 10px; min-width: 0; font-size: .85rem;
  overflow-wrap: anywhere; }
.cards p { margin: 5px 0 0; line-height: 1.3; }
.cards .soft { font-size: .8rem; }
.mistakes .examples, .grids .examples { margin-top: 8px; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 5fr); gap: 16px; }
.beside .own { border-right: 1px solid var(--rule); padding-right: 14px; }
.beside small, .found small { display: block; text-align: center; font-variant-numeric: tabular-nums; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 8px 36px;
  align-items: start; }
table.words td { white-space: normal; overflow-wrap: anywhere; }
.words th:nth-child(2), .two > :first-child .words td:nth-child(2) { text-align: right; }
.two > :first-child .words th:nth-child(2), .two > :first-child .words td:nth-child(2) { text-align: left; }
table.heat { width: auto; font-size: .78rem; border-collapse: separate; border-spacing: 1px; }
.heat th, .heat td { border: 0; padding: 3px 4px; }
.heat td { min-width: 30px; text-align: center; border-radius: 3px;
  background: color-mix(in srgb, var(--s0) var(--share, 0%), var(--card)); }
.heat td:first-child { padding-left: 4px; text-align: center; }
.heat td.own { outline: 1.5px solid var(--soft); outline-offset: -1.5px; }
.heat th span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.heat tbody th { text-align: right; position: sticky; left: 0; background: var(--paper); }
.heat tbody th span { max-width: 150px; }
.heat thead th { vertical-align: bottom; }
.heat thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 120px; margin: 0 auto; }
svg.points { display: block; width: 100%; height: auto; background: var(--card); border-radius: 10px; }
.points path { fill: none; }
.points .pictures { stroke: var(--s0); stroke-width: 4.4; stroke-linecap: round; opacity: .4; }
.points .texts { stroke: var(--s1); stroke-width: 4; stroke-linecap: square; opacity: .6; }
.points .pair { stroke: var(--soft); stroke-width: 1; opacity: .75; }
.points .picture { fill: var(--s0); }
.points .text { fill: var(--s1); }
.points .centre { stroke: var(--paper); stroke-width: 2; }
.points .gap { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 5 3; }
.points text { fill: var(--ink); font-size: 15px; font-weight: 650; text-anchor: middle; paint-order: stroke;
  stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.map .legend span { width: 11px; height: 11px; align-self: center; margin-right: -11px; }
.map .dot { background: var(--s0); border-radius: 50%; }
.map .square { background: var(--s1); }
.map .legend .join { height: 0; width: 16px; border-top: 2px solid var(--soft); }
@media (max-width: 640px) { .cards { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 8px; }
  .beside { grid-template-columns: minmax(0, 1fr); gap: 10px; }
  .beside .own { width: 22%; border-right: 0; padding-right: 0; }
  .heat tbody th span { max-width: 84px; } }
"""
