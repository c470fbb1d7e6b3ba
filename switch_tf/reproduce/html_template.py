"""The frame of the page with all results: style, and the script that draws its plots."""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Switch Transformers: results</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }
nav a { margin-right: .6em; } section { border-top: 1px solid #ccc; margin-top: 2em; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .2em .6em; text-align: left;
border-bottom: 1px solid #ddd; } .yes, .no, .open { padding: 0 .4em; border-radius: .3em; }
.yes { background: #cfe8cf; } .no { background: #f3c9c9; } .open { background: #e6e6e6; }
small { color: #555; } svg { background: #fafafa; } svg path { fill: none; stroke-width: 1.5; }
#tip { position: absolute; background: #222; color: #fff; font-size: 12px; padding: .2em .5em;
border-radius: .3em; pointer-events: none; display: none; }
</style></head><body>
<h1>Switch Transformers: results</h1>
<p>Each claim with its verdict, by a rule that was written down before the runs. A claim is
supported or contradicted if the whole 95% bootstrap interval over seeds is on its side or on the
other. Move the mouse over a plot for the figures of a run; click on it to change between steps and
seconds.</p>
<nav>%LINKS%</nav>
%SECTIONS%
<div id="tip"></div>
<script id="data" type="application/json">%DATA%</script>
<script>
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#777", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b",
  "#e377c2", "#bcbd22", "#17becf"];
const WIDTH = 900, HEIGHT = 360, LEFT = 60, BOTTOM = 40, RIGHT = 10, TOP = 10;
const tip = document.getElementById("tip");

function element(name, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function scale(values, low, high) {
  const least = Math.min(...values), most = Math.max(...values);
  const at = value => low + (value - least) / (most - least || 1) * (high - low);
  return [at, least, most];
}

function draw(place, axis) {
  const runs = DATA[place.dataset.name];
  place.replaceChildren();
  const svg = element("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: "100%"}, place);
  // The first steps, in which all models learn the same, would hide the rest.
  const first = run => run.steps.findIndex(s => s >= 0.15 * run.steps[run.steps.length - 1]);
  const shown = runs.map(run => ({...run, x: run[axis].slice(first(run)),
    y: run.nlp.slice(first(run))}));
  const [x, left, right] = scale(shown.flatMap(run => run.x), LEFT, WIDTH - RIGHT);
  const [y, low, high] = scale(shown.flatMap(run => run.y), HEIGHT - BOTTOM, TOP);
  for (let i = 0; i <= 4; i++) {
    const v = low + (high - low) * i / 4, h = left + (right - left) * i / 4;
    element("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v), stroke: "#ddd"}, svg);
    element("text", {x: 5, y: y(v) + 4, "font-size": 11}, svg, v.toFixed(2));
    element("text", {x: x(h) - 12, y: HEIGHT - 22, "font-size": 11}, svg, Math.round(h));
  }
  element("text", {x: WIDTH / 2, y: HEIGHT - 5, "font-size": 12}, svg,
    axis === "steps" ? "steps" : "seconds of training steps");
  const models = [...new Set(runs.map(run => run.model))];
  for (const run of shown) {
    const colour = COLOURS[models.indexOf(run.model) % COLOURS.length];
    const points = run.x.map((value, i) => `${x(value)},${y(run.y[i])}`);
    element("path", {d: "M" + points.join("L"), stroke: colour}, svg);
    run.x.forEach((value, i) => {
      const dot = element("circle", {cx: x(value), cy: y(run.y[i]), r: 4, fill: colour,
        "fill-opacity": 0.6}, svg);
      dot.addEventListener("mousemove", event => {
        tip.textContent = `${run.model}, seed ${run.seed}: NLP ${run.y[i].toFixed(3)} after ` +
          `${Math.round(value).toLocaleString("en")} ${axis}`;
        tip.style.left = `${event.pageX + 12}px`;
        tip.style.top = `${event.pageY + 12}px`;
        tip.style.display = "block";
      });
      dot.addEventListener("mouseleave", () => { tip.style.display = "none"; });
    });
  }
  models.forEach((model, i) => element("text", {x: WIDTH - 300, y: HEIGHT - BOTTOM - 8 -
    14 * (models.length - 1 - i), "font-size": 12, fill: COLOURS[i % COLOURS.length]}, svg, model));
  svg.addEventListener("click", () => draw(place, axis === "steps" ? "seconds" : "steps"));
}
document.querySelectorAll(".plot").forEach(place => draw(place, "steps"));
</script></body></html>
"""
