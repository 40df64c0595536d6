// The history of this page: the readings of the last minutes, the points to draw, and the concerns
// that an operator should look at, each with its runbook in ops/runbooks/.

const POLL_MS = 2000;
const SPAN_MS = 5 * 60000; // the time that charts show, and that "last 5 min" means
const WINDOW_MS = 10000; // a point's rates and quantiles cover this time before it
const LATE_S = "0.1"; // the objective's bound, a bucket of the histogram of query age
const SHARES = [["p50", 0.5], ["p99", 0.99], ["p99.9", 0.999]];

class History {
  constructor() {
    this.samples = []; // oldest first
    this.points = [];
  }

  get now() {
    return this.samples[this.samples.length - 1];
  }

  add(sample) {
    const started = (one) => one.sum("process_start_time_seconds");
    if (this.now && started(this.now) !== started(sample)) this.samples = []; // counters began anew
    this.samples.push(sample);
    while (this.samples.length > 2 && sample.at - this.samples[1].at > SPAN_MS) this.samples.shift();
    this.points.push(this.point());
    while (sample.at - this.points[0].at > SPAN_MS + POLL_MS) this.points.shift();
  }

  // The reading this long ago, or the oldest there is; null where there is no second one.
  before(ms) {
    if (this.samples.length < 2) return null;
    const old = this.samples.filter((one) => this.now.at - one.at >= ms - POLL_MS / 2);
    return old.length ? old[old.length - 1] : this.samples[0];
  }

  // How much a counter grew; null if that is not known.
  grew(name, labels, ms = SPAN_MS) {
    const before = this.before(ms), value = this.now.sum(name, labels);
    return before && value !== null ? Math.max(0, value - (before.sum(name, labels) || 0)) : null;
  }

  rate(name, labels, ms = WINDOW_MS) {
    const grown = this.grew(name, labels, ms);
    return grown === null ? null : grown * 1000 / (this.now.at - this.before(ms).at);
  }

  quantile(share, name, ms) {
    const before = this.before(ms);
    return before ? quantile(share, added(this.now.buckets(name), before.buckets(name))) : null;
  }

  // How many of a histogram's values in the last minutes were over one of its bounds.
  over(bound, name) {
    const all = this.grew(`${name}_count`);
    return all === null ? null : all - (this.grew(`${name}_bucket`, { le: bound }) || 0);
  }

  lag(kind, partition) {
    const found = this.now.select("read_states_processing_lag_records").filter((one) =>
      one.labels.topic.endsWith(`.${kind}`) && (partition === undefined || one.labels.partition === partition));
    return found.length ? found.reduce((total, one) => total + one.value, 0) : null;
  }

  point() {
    const made = {
      at: this.now.at,
      updates: this.rate("read_states_updates_applied_total"),
      queries: this.rate("read_states_queries_total"),
      evictions: this.rate("read_states_evictions_total"),
      pauses: this.rate("read_states_gc_pause_seconds_sum"),
      cpu: this.rate("process_cpu_seconds_total"),
      lagUpdates: this.lag("updates"),
      lagQueries: this.lag("queries"),
      dirty: this.now.max("read_states_durability_lag_seconds"),
    };
    for (const name of ["read_states_query_age_seconds", "read_states_query_service_seconds"]) {
      for (const [word, share] of SHARES) made[name + word] = this.quantile(share, name, WINDOW_MS);
    }
    return made;
  }

  setting(name) {
    return this.now.sum("read_states_setting", { name });
  }

  // The concerns of the last minutes, [[text, runbook], …]; empty if all is well.
  concerns() {
    const found = [];
    const say = (when, text, runbook) => when && found.push([text, runbook]);
    const dirty = this.now.max("read_states_durability_lag_seconds"), delay = this.setting("flush_delay_s");
    say(dirty > delay + 30, `A change has waited for Cassandra for ${seconds(dirty)}; FLUSH_DELAY_S is ${seconds(delay)}.`, "ReadStatesDurabilityLag");
    const failed = (name, labels) => this.grew(name, labels, 60000);
    const writes = failed("read_states_cassandra_write_failures_total");
    say(writes > 0, `Writes to Cassandra fail: ${integer(writes)} batches in the last minute. They are tried again.`, "ReadStatesCassandraWritesFail");
    const loads = failed("read_states_cassandra_loads_total", { outcome: "failed" });
    say(loads > 0, `Loads from Cassandra fail: ${integer(loads)} users in the last minute.`, "ReadStatesCassandraLoadsFail");
    const load = this.quantile(0.99, "read_states_cassandra_load_seconds", SPAN_MS);
    say(load > 0.2, `A load from Cassandra takes long: p99 ${seconds(load)}.`, "ReadStatesMissesSlow");
    const replies = failed("read_states_reply_failures_total");
    say(replies > 0, `The broker did not take ${integer(replies)} replies in the last minute.`, "ReadStatesRepliesFail");
    const letters = failed("read_states_dead_letter_failures_total");
    say(letters > 0, `The broker refused dead letters ${integer(letters)} times in the last minute. They are sent again.`, "ReadStatesDeadLettersFail");
    const untold = this.now.max("read_states_changes_lag_seconds");
    say(untold > 60, `A change has waited for the change feed for ${seconds(untold)}.`, "ReadStatesChangesHeld");
    const clock = Math.max(0, ...this.now.select("read_states_clock_offset_seconds").map((one) => Math.abs(one.value)));
    say(clock > 1, `This worker's clock and a broker's differ by ${seconds(clock)}. Queries are judged by the broker's.`, "ReadStatesClockOffset");
    const commits = failed("read_states_commit_failures_total");
    say(commits > 0, `Commits of offsets fail: ${integer(commits)} in the last minute.`, "ReadStatesCommitHeld");
    this.#queries(say);
    this.#updates(say);
    const pauses = this.over("0.1", "read_states_gc_pause_seconds");
    say(pauses > 1, `The collector stopped this worker for over 100 ms ${integer(pauses)} times in 5 min.`, "ReadStatesCollectorPauses");
    return found;
  }

  #queries(say) {
    const all = this.grew("read_states_queries_total") - (this.grew("read_states_queries_total", { outcome: "no_reply_address" }) || 0);
    const bad = this.over(LATE_S, "read_states_query_age_seconds")
      + this.grew("read_states_queries_total", { outcome: "error" })
      + this.grew("read_states_queries_total", { outcome: "expired" });
    say(all > 20 && bad / all > 0.06, `${percent(bad, all)} of the queries in the last 5 min were answered after 100 ms or not at all.`,
      bad / all > 0.144 ? "ReadStatesQueryBudgetFastBurn" : "ReadStatesQueryBudgetSlowBurn");
  }

  #updates(say) {
    const dead = this.grew("read_states_dead_letters_total");
    const all = dead + this.grew("read_states_updates_applied_total") + this.grew("read_states_updates_skipped_total");
    say(dead / all > 0.01, `${percent(dead, all)} of the updates became dead letters in the last 5 min.`,
      dead / all > 0.1 ? "ReadStatesDeadLettersMany" : "ReadStatesDeadLetters");
    const paces = this.now.values("read_states_resident_states", "partition")
      .map((partition) => [partition, this.rate("read_states_updates_applied_total", { partition }, SPAN_MS)])
      .sort((one, other) => one[1] - other[1]);
    const [hottest, pace] = paces.length > 2 ? paces[paces.length - 1] : [null, 0];
    say(pace > 1000 && pace > 10 * paces[paces.length >> 1][1],
      `Partition ${hottest} takes ${integer(pace)} updates per second, over ten times as many as the median partition here.`, "ReadStatesPartitionHot");
    const slow = this.now.values("read_states_resident_states", "partition").filter((partition) => {
      const pace = this.rate("read_states_updates_applied_total", { partition }, 60000);
      return pace !== null && this.lag("updates", partition) / Math.max(1, pace) > 30;
    });
    say(slow.length, `Over 30 s of work waits in partition ${slow.join(", ")}.`, "ReadStatesFallingBehind");
  }
}
