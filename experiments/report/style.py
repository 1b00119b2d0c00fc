"""The report's own style and script, both inline, so that the page loads nothing."""

CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2126;--soft:#5b6670;--line:#d9dfe4;
--card:#f6f8f9;--accent:#17618f;--line0:#9db8c9;--line1:#17618f;--line2:#b3541e;--line3:#3f7d3a}
@media (prefers-color-scheme:dark){:root{--paper:#15181b;--ink:#e4e7ea;--soft:#9aa5ae;
--line:#343b41;--card:#1d2125;--accent:#7cc0ea;--line0:#4d6b7e;--line1:#7cc0ea;--line2:#f0a06c;
--line3:#8fcf88}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:.5rem 0 .25rem}
h2{font-size:1.35rem;margin:3rem 0 .5rem;padding-bottom:.3rem;border-bottom:2px solid var(--line)}
h3{font-size:1.08rem;margin:0 0 .1rem;overflow-wrap:anywhere}
h4{font-size:.95rem;margin:1.1rem 0 .3rem}
p{margin:.4rem 0}
a{color:var(--accent)}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.86em}
.soft{color:var(--soft);font-size:.9rem;overflow-wrap:anywhere}
article{margin:1.25rem 0;padding:1.1rem 1.25rem;background:var(--card);border:1px solid var(--line);
border-radius:8px;scroll-margin-top:1rem}
.box{overflow-x:auto;margin:.6rem 0;max-width:100%}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .7rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;white-space:nowrap}
caption{caption-side:top;text-align:left;color:var(--soft);padding:.2rem 0}
.num{text-align:right;white-space:nowrap}
td.long{min-width:11rem}
thead th{border-bottom:2px solid var(--line)}
.contents{width:100%}
.day{white-space:nowrap}
.beside{display:flex;flex-wrap:wrap;gap:0 2rem;align-items:flex-start}
.beside .plotted{flex:1 1 26rem;min-width:0;max-width:640px}
.beside .facts{flex:1 1 17rem;min-width:0}
.contents td:first-child{min-width:11rem}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(15.5rem,1fr));gap:.1rem 2rem;
margin:.7rem 0}
.facts div{display:flex;justify-content:space-between;gap:1rem;border-bottom:1px solid var(--line);
padding:.2rem 0;font-size:.9rem}
.facts div.wide{grid-column:1/-1}
.facts dt{color:var(--soft)}
.facts .tight dd{white-space:nowrap}
.facts dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.pictures{display:flex;flex-wrap:wrap;gap:1rem;margin:.8rem 0;align-items:flex-start}
figure{margin:0;max-width:100%}
.pictures figure.half{flex:0 1 calc(50% - .5rem);min-width:min(100%,18rem)}
figure img{display:block;max-width:100%;height:auto;background:#fff;border:1px solid var(--line);
border-radius:6px;padding:4px}
figcaption{color:var(--soft);font-size:.85rem;margin-top:.25rem}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--accent);font-size:.92rem;padding:.2rem 0}
pre{overflow-x:auto;padding:.8rem;border:1px solid var(--line);border-radius:6px;margin:.4rem 0;
background:var(--paper);line-height:1.4;max-height:32rem}
.chart{margin:.6rem 0;max-width:640px}
.chart svg{display:block;width:100%;height:auto;touch-action:pan-y}
.chart text{fill:var(--soft);font-size:12px}
.chart .grid{stroke:var(--line);stroke-width:1}
.chart polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.line0{stroke:var(--line0)}.line1{stroke:var(--line1)}
.line2{stroke:var(--line2)}.line3{stroke:var(--line3)}
.chart .cursor{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 3;visibility:hidden}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.85rem;color:var(--soft)}
.legend svg{width:1.6rem;height:.6rem;display:inline-block;margin-right:.4rem}
.readout{min-height:1.4em;font-size:.85rem;color:var(--ink);font-variant-numeric:tabular-nums}
.notes{border-left:3px solid var(--accent);padding:.1rem 0 .1rem .9rem;margin:.7rem 0;
font-size:.92rem;overflow-wrap:anywhere}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media (max-width:520px){main{padding:1rem .8rem 3rem}article{padding:.9rem .8rem}
h1{font-size:1.4rem}.chart text{font-size:17px}.facts{grid-template-columns:1fr}
.contents td:nth-child(3),.contents th:nth-child(3){display:none}
.contents td:first-child{min-width:0}}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--soft:#444;--card:#fff;--line:#bbb;
--accent:#000}article{break-inside:avoid-page;border:0;padding:0}.readout{display:none}
main{max-width:none}pre{max-height:none;white-space:pre-wrap}table{font-size:.62rem}
.box{overflow:visible}th{white-space:normal}th,td{padding:.15rem .3rem}td.long{min-width:0}}
"""

SCRIPT = """
for (const chart of document.querySelectorAll('.chart')) {
  const svg = chart.querySelector('svg.plot'), line = svg.querySelector('.cursor');
  const out = chart.querySelector('.readout');
  const xs = JSON.parse(svg.dataset.x), said = JSON.parse(svg.dataset.said);
  let at = xs.length - 1;
  const show = k => {
    at = Math.max(0, Math.min(xs.length - 1, k));
    line.setAttribute('x1', xs[at]); line.setAttribute('x2', xs[at]);
    line.style.visibility = 'visible'; out.textContent = said[at];
  };
  const nearest = event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let best = 0;
    xs.forEach((v, k) => { if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = k; });
    show(best);
  };
  svg.addEventListener('pointermove', nearest);
  svg.addEventListener('pointerdown', nearest);
  svg.addEventListener('keydown', event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) { show(at + step); event.preventDefault(); }
  });
  out.textContent = 'Point at the curve, or use the arrow keys, to read values.';
}
"""
