// Asks the worker and fills in the page. It writes text only, never markup, because labels come from
// outside.

const history_ = new History();
const LOOKS = ["a", "b", "c"];
let answered = null; // when /metrics last answered, ms

function $(id) {
  return document.getElementById(id);
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// The name and labels of `name{label=value}`, the form of the attribute data-metric.
function named(text) {
  const [, name, label, value] = /^(\w+)(?:\{(\w+)=(.*)\})?$/.exec(text);
  return [name, label ? { [label]: value } : {}];
}

// Fills the card of each histogram: its quantiles over the last minutes, its chart, and its quantiles
// since the start.
function setUp() {
  for (const card of document.querySelectorAll("[data-histogram]")) {
    const keys = make("p", { class: "keys" });
    const since = make("dl");
    SHARES.forEach(([word, share], number) => {
      const key = make("span", { class: `key ${LOOKS[number]}` }, `${word} `);
      key.append(make("b", { "data-recent": share }));
      keys.append(key);
      since.append(make("dt", {}, `${word} since the start`), make("dd", { "data-since": share }));
    });
    since.append(make("dt", {}, "counted"), make("dd", { "data-metric": `${card.dataset.histogram}_count` }));
    card.append(keys, make("div", { class: "chart", "data-chart": card.dataset.histogram }), since);
  }
  put($("where"), location.host);
}

function fill() {
  const now = history_.now;
  for (const one of document.querySelectorAll("[data-metric]")) put(one, integer(now.sum(...named(one.dataset.metric))));
  for (const one of document.querySelectorAll("[data-rate]")) put(one, rate(history_.rate(one.dataset.rate)));
  for (const one of document.querySelectorAll("[data-quantile]")) put(one, seconds(history_.quantile(0.99, one.dataset.quantile, SPAN_MS)));
  for (const card of document.querySelectorAll("[data-histogram]")) {
    const name = card.dataset.histogram;
    for (const one of card.querySelectorAll("[data-recent]")) put(one, seconds(history_.quantile(Number(one.dataset.recent), name, SPAN_MS)));
    for (const one of card.querySelectorAll("[data-since]")) put(one, seconds(quantile(Number(one.dataset.since), now.buckets(name))));
  }
  const hits = history_.grew("read_states_queries_total", { outcome: "hit" });
  const misses = history_.grew("read_states_queries_total", { outcome: "miss" });
  put($("hit-share"), percent(hits, hits + misses));
  put($("lag-updates"), integer(history_.lag("updates")));
  put($("lag-queries"), integer(history_.lag("queries")));
  put($("dirty-age"), seconds(now.max("read_states_durability_lag_seconds")));
  put($("flush-delay"), `· FLUSH_DELAY_S is ${seconds(history_.setting("flush_delay_s"))}`);
  const last = history_.points[history_.points.length - 1];
  put($("pauses"), seconds(last.pauses));
  put($("cpu"), percent(last.cpu, 1));
  put($("long-pauses"), integer(history_.over("0.1", "read_states_gc_pause_seconds")));
  put($("longest-pause"), seconds(now.sum("read_states_gc_pause_longest_seconds")));
  put($("longest-cpu"), seconds(now.sum("read_states_gc_cpu_longest_seconds")));
  put($("memory"), bytes(now.sum("process_resident_memory_bytes")));
  put($("uptime"), seconds(now.at / 1000 - now.sum("process_start_time_seconds")));
  const times = now.sum("read_states_rebalance_seconds_count");
  put($("rebalance-time"), seconds(times ? now.sum("read_states_rebalance_seconds_sum") / times : null));
  fillDead();
  fillPartitions();
  fillConcerns();
}

function fillDead() {
  const rows = history_.now.values("read_states_dead_letters_total", "reason").map((reason) => {
    const all = history_.now.sum("read_states_dead_letters_total", { reason });
    const row = make("tr", { class: all ? "some" : "" });
    row.append(make("td", {}, reason), make("td", {}, integer(history_.grew("read_states_dead_letters_total", { reason }))),
      make("td", { "data-metric": `read_states_dead_letters_total{reason=${reason}}` }, integer(all)));
    return row;
  });
  $("dead").tBodies[0].replaceChildren(...rows);
}

function fillPartitions() {
  const now = history_.now;
  const names = [...document.querySelectorAll("#partitions th")].map((one) => one.textContent);
  const owned = now.values("read_states_resident_states", "partition");
  const rows = owned.map((partition) => {
    const gauge = (name) => integer(now.sum(`read_states_${name}`, { partition }));
    const cells = [
      partition,
      integer(history_.lag("updates", partition)),
      integer(history_.lag("queries", partition)),
      rate(history_.rate("read_states_updates_applied_total", { partition })),
      gauge("durability_lag_records"),
      seconds(now.max("read_states_durability_lag_seconds", { partition })),
      gauge("dirty_states"), gauge("resident_states"), gauge("resident_users"), gauge("parked_updates"),
    ];
    const row = make("tr");
    row.append(...cells.map((text, at) => make("td", { "data-name": names[at] }, text)));
    return row;
  });
  put($("owned"), `${owned.length} of ${integer(now.sum("read_states_topic_partitions"))} are this worker's`);
  const room = owned.length * history_.setting("cache_states");
  put($("room"), percent(now.sum("read_states_resident_states"), room));
  $("partitions").tBodies[0].replaceChildren(...rows);
}

function fillConcerns() {
  const items = history_.concerns().map(([text, runbook]) => {
    const item = make("li", {}, `${text} `);
    item.append(make("code", {}, runbook));
    return item;
  });
  document.title = `${items.length ? "▲ " : ""}Read states`;
  $("attention").hidden = items.length === 0;
  $("attention").querySelector("ul").replaceChildren(...items);
}

function drawAll() {
  if (!history_.now) return;
  const whole = { span_ms: SPAN_MS, gap_ms: 3 * POLL_MS, now: history_.now.at };
  const charts = {
    updates: [["updates"], { write: rate, label: "updates per second" }],
    queries: [["queries"], { write: rate, label: "queries per second" }],
    lag: [["lagUpdates", "lagQueries"], { write: integer, label: "records not applied" }],
    dirty: [["dirty"], { write: seconds, limit: history_.setting("flush_delay_s"), label: "age of the oldest change not in Cassandra" }],
    evictions: [["evictions"], { write: rate, label: "read states evicted per second" }],
    pauses: [["pauses"], { write: seconds, least: 0.01, label: "collector pauses, in seconds per second" }],
    cpu: [["cpu"], { least: 1, write: (value) => percent(value, 1), label: "share of a core" }],
  };
  for (const holder of document.querySelectorAll("[data-chart]")) {
    const name = holder.dataset.chart;
    const [keys, how] = charts[name] || [SHARES.map(([word]) => name + word), { write: seconds, decades: true, label: `${name}: p50, p99, p99.9` }];
    draw(holder, history_.points, keys.map((key, number) => ({ key, look: LOOKS[number] })), { ...whole, ...how });
  }
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  return [answer.ok, await answer.text()];
}

function state(look, word, why) {
  $("state").className = look;
  put($("state"), word);
  put($("why"), why);
}

async function turn() {
  let said;
  try {
    said = await Promise.all(["/healthz", "/readyz", "/metrics"].map(ask));
  } catch (error) {
    state("bad", "✕ No answer", answered ? "The worker does not answer. Its last values are below." : "The worker does not answer.");
    fresh();
    return;
  }
  const [[lives, health], [ready, why], [, text]] = said;
  answered = Date.now();
  history_.add(new Sample(text, answered));
  const plain = (line) => line.trim().replace(/^\w+: /, "");
  if (!lives) state("bad", "✕ Stuck", plain(health));
  else if (!ready) state("bad", "▲ Not ready", plain(why));
  else state("ready", "● Ready", plain(why));
  fresh();
  fill();
  drawAll();
}

function fresh() {
  const ago_s = answered ? Math.round((Date.now() - answered) / 1000) : null;
  document.body.classList.toggle("stale", ago_s === null || ago_s > 3 * POLL_MS / 1000);
  put($("fresh"), ago_s === null ? "" : `as of ${new Date(answered).toLocaleTimeString("en-GB")}`);
}

async function watch() {
  for (;;) {
    if (!document.hidden) await turn().catch(reportError); // a hidden page asks for nothing
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

setUp();
addEventListener("resize", drawAll);
watch();
