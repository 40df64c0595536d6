// Reads Prometheus' text format and computes values from it. A Sample is one reading of /metrics.

const UNESCAPED = { n: "\n", "\\": "\\", '"': '"' };

class Sample {
  // text: the body of /metrics; at: the time of the request in ms.
  constructor(text, at) {
    this.at = at;
    this.series = new Map(); // name -> [{labels, value}]
    for (const line of text.split("\n")) {
      const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (!found) continue; // the line is a comment or empty
      const labels = {};
      for (const [, name, value] of (found[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[name] = value.replace(/\\(.)/g, (_, c) => UNESCAPED[c] || c);
      }
      const value = found[3] === "+Inf" ? Infinity : Number(found[3]);
      if (!this.series.has(found[1])) this.series.set(found[1], []);
      this.series.get(found[1]).push({ labels, value });
    }
  }

  // The series of a name whose labels include these.
  select(name, labels = {}) {
    return (this.series.get(name) || []).filter((one) =>
      Object.entries(labels).every(([key, value]) => one.labels[key] === value));
  }

  // Their sum, or their largest; null where there is none.
  sum(name, labels) {
    const found = this.select(name, labels);
    return found.length ? found.reduce((total, one) => total + one.value, 0) : null;
  }

  max(name, labels) {
    const found = this.select(name, labels);
    return found.length ? Math.max(...found.map((one) => one.value)) : null;
  }

  // The values that a label has, in order; numbers by their size.
  values(name, label) {
    const found = new Set(this.select(name).map((one) => one.labels[label]));
    return [...found].sort((a, b) => a - b || (a < b ? -1 : 1));
  }

  // A histogram, its label sets together: [[upper bound, number at or below it], …].
  buckets(name) {
    const found = new Map();
    for (const one of this.select(`${name}_bucket`)) {
      const bound = one.labels.le === "+Inf" ? Infinity : Number(one.labels.le);
      found.set(bound, (found.get(bound) || 0) + one.value);
    }
    return [...found].sort((a, b) => a[0] - b[0]);
  }
}

// The values that a histogram counted between two readings; since the start if `before` is null.
function added(now, before) {
  if (!before) return now;
  const old = new Map(before);
  return now.map(([bound, count]) => [bound, count - (old.get(bound) || 0)]);
}

function count(buckets) {
  return buckets.length ? buckets[buckets.length - 1][1] : 0;
}

// Computes a quantile as Prometheus' histogram_quantile does: it assumes that values are spread evenly
// within a bucket. A quantile above the last bound is that bound. null if nothing was counted.
function quantile(share, buckets) {
  const total = count(buckets);
  if (!total) return null;
  const rank = share * total;
  let lower = 0, below = 0;
  for (const [bound, upTo] of buckets) {
    if (upTo >= rank && upTo > 0) {
      if (bound === Infinity) return lower;
      return lower + (bound - lower) * ((rank - below) / (upTo - below));
    }
    lower = bound;
    below = upTo;
  }
  return lower;
}

// -- how values are written ----------------------------------------------------------------

const NOTHING = "–";

function integer(value) {
  return value === null ? NOTHING : Math.round(value).toLocaleString("en-US");
}

function rate(value) {
  if (value === null) return NOTHING;
  return value > 0 && value < 10 ? value.toFixed(1) : integer(value);
}

function seconds(value) {
  if (value === null) return NOTHING;
  if (value === 0) return "0 s";
  if (value < 0.001) return `${Number((value * 1e6).toPrecision(2))} µs`;
  if (value < 1) return `${Number((value * 1e3).toPrecision(value < 0.01 ? 2 : 3))} ms`;
  if (value < 120) return `${Number(value.toPrecision(3))} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Number((value / 3600).toFixed(1))} h`;
}

function bytes(value) {
  return value === null ? NOTHING : `${integer(value / 2 ** 20)} MiB`;
}

function percent(part, whole) {
  return whole ? `${Number((100 * part / whole).toFixed(part / whole > 0.99 ? 2 : 1))} %` : NOTHING;
}
