// Draws a chart of the last minutes as SVG. Lines differ by dashes and width, not only by colour. There
// is no line for times at which nothing was read or there was nothing to count.

const SVG = "http://www.w3.org/2000/svg";
const TICK_PX = { left: 46, right: 6, top: 8, bottom: 16 };

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// A scale: the ticks of the axis, up to four steps of 1, 2 or 5 or whole decades, and the place of a value.
function linearScale(top, least) {
  const wanted = Math.max(top, least) / 3;
  const decade = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].map((n) => n * decade).find((size) => size >= wanted);
  const end = Math.max(1, Math.ceil(Math.max(top, least) / step)) * step;
  const ticks = [];
  for (let tick = 0; tick <= end + step / 2; tick += step) ticks.push(tick);
  return { ticks, at: (value) => Math.min(1, value / end) };
}

function decadeScale(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.max(first + 2, Math.ceil(Math.log10(high)));
  const ticks = [];
  for (let power = first; power <= last; power += 1) ticks.push(10 ** power);
  return {
    ticks,
    at: (value) => Math.max(0, Math.min(1, (Math.log10(Math.max(value, 1e-9)) - first) / (last - first))),
  };
}

// holder: the element to fill. points: [{at, …}], oldest first. lines: [{key, look}], look a class.
// how: {write, decades, least, limit, span_ms, gap_ms, now, label}. `limit` is a line across.
function draw(holder, points, lines, how) {
  const width = holder.clientWidth, height = holder.clientHeight;
  if (width < 50) return;
  const chart = svg("svg", { width, height, role: "img", "aria-label": how.label });
  const values = points.flatMap((point) => lines.map((line) => point[line.key]))
    .filter((value) => value !== null && value !== undefined);
  if (how.limit) values.push(how.limit);
  const scale = how.decades
    ? decadeScale(Math.max(1e-5, Math.min(...values, 0.001)), Math.max(...values, 0.01))
    : linearScale(Math.max(...values, 0), how.least || 3);
  const inner = { width: width - TICK_PX.left - TICK_PX.right, height: height - TICK_PX.top - TICK_PX.bottom };
  const x = (at) => TICK_PX.left + inner.width * (1 - (how.now - at) / how.span_ms);
  const y = (value) => TICK_PX.top + inner.height * (1 - scale.at(value));

  for (const tick of scale.ticks) {
    chart.append(svg("line", { class: "grid", x1: TICK_PX.left, x2: width - TICK_PX.right, y1: y(tick), y2: y(tick) }));
    chart.append(svg("text", { class: "tick", x: TICK_PX.left - 5, y: y(tick) + 4, "text-anchor": "end" }, how.write(tick)));
  }
  const minutes = Math.round(how.span_ms / 60000);
  chart.append(svg("text", { class: "tick", x: TICK_PX.left, y: height - 2 }, `${minutes} min ago`));
  chart.append(svg("text", { class: "tick", x: width - TICK_PX.right, y: height - 2, "text-anchor": "end" }, "now"));
  if (how.limit) {
    chart.append(svg("line", { class: "limit", x1: TICK_PX.left, x2: width - TICK_PX.right, y1: y(how.limit), y2: y(how.limit) }));
  }
  for (const line of lines) chart.append(...runs(points, line, how, x, y));
  holder.replaceChildren(chart);
}

// Makes one path for each run of points without a gap, and a dot for a single point.
function runs(points, line, how, x, y) {
  const made = [];
  let path = "", length = 0, last = null;
  const finish = () => {
    if (length === 1) made.push(svg("circle", { class: `dot ${line.look}`, cx: x(last.at), cy: y(last[line.key]), r: 2 }));
    if (length > 1) made.push(svg("path", { class: `line ${line.look}`, d: path }));
    path = "";
    length = 0;
  };
  for (const point of points) {
    const value = point[line.key];
    if (how.now - point.at > how.span_ms) continue;
    if (value === null || value === undefined || (last && point.at - last.at > how.gap_ms)) finish();
    if (value === null || value === undefined) continue;
    path += `${length ? "L" : "M"}${x(point.at).toFixed(1)} ${y(value).toFixed(1)}`;
    length += 1;
    last = point;
  }
  finish();
  return made;
}
