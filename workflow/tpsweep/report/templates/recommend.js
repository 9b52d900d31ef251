// `tpsweep recommend` from the numbers in the page: the same capacities, the same order
// (analysis/recommend/evidence.py, expected.py, offers.py, unmeasured.py). No DOM.
// A test asks both the same questions: tests/browser/test_choice.py.

const SLACK = 1e-9;
const BETTER = 0.95;  // a score below this share of the best one's would be another answer
const ENOUGH_STARTS = 2;
const MOST_WANTED = 4;

// What the table `choices` says of all models; `limits` are [name, ms] in the order of `names`.
class Choices {
  constructor(data) {
    this.data = data;
    this.index = new Map(data.names.slice(0, data.percentiles).map((name, at) => [name, at]));
  }

  model(name) {
    return this.data.models.find((model) => model.name === name);
  }

  ms(point, name) {
    return point.ms[this.index.get(name)] ?? null;
  }

  failed(point, limits) {
    return limits.filter(([name, limit]) => (this.ms(point, name) ?? 0) > limit);
  }

  // Whether a measured rate kept the limits; null: too few requests to know.
  keeps(point, limits) {
    if (point.saturated) return false;
    if (this.failed(point, limits).length) return false;
    const known = ([name]) => this.index.has(name) && !point.unknown.includes(name);
    return limits.every(known) ? true : null;
  }

  failsAt(engine, limits) {
    return engine.rates.find((point) => this.keeps(point, limits) === false)?.rate ?? null;
  }

  measured(engine, limits) {
    const search = engine.searches.find((one) => isEqual(one.limits, limits));
    const byRates = this.byRates(engine, limits);
    if (!search) return this.atLeast(engine, limits, byRates);
    const { capacity, fails_at, starts, remarks, rates } = search;
    const fails = byRates?.fails ?? null;
    if (fails === null || fails > capacity) {
      return { basis: "searched", rate: capacity, fails: fails_at, starts, remarks, points: rates };
    }
    // Another start failed where the search's start held: the lowest counts.
    return { ...byRates, remarks: [...byRates.remarks, `a search confirmed ${capacity} requests/s`] };
  }

  // Whether what keeps limits keeps others, too: each of the others is there, as strict or stricter.
  implies(limits, others) {
    const own = new Map(limits);
    const isIn = ([name, limit]) => (name === this.data.share ? own.get(name) >= limit : own.get(name) <= limit);
    return others.every((pair) => own.has(pair[0]) && isIn(pair));
  }

  // `byRates`, or more if a search for stricter limits confirmed more.
  atLeast(engine, limits, byRates) {
    const [search] = engine.searches
      .filter((one) => one.capacity && this.implies(one.limits, limits))
      .sort((one, other) => other.capacity - one.capacity);
    if (!search) return byRates;
    const { capacity, starts, rates } = search;
    const fails = this.failsAt(engine, limits);
    const under = `under ${search.slo}, which is stricter`;
    if (fails !== null && fails <= capacity) {
      const said = `a search confirmed ${capacity} requests/s ${under}`;
      return byRates && { ...byRates, remarks: [...byRates.remarks, said] };
    }
    if (byRates && byRates.rate >= capacity) return byRates;
    const remarks = [...search.remarks, `confirmed ${under}`];
    return { basis: "stricter", rate: capacity, fails, starts, remarks, points: rates };
  }

  byRates(engine, limits) {
    const failed = engine.rates.find((point) => this.keeps(point, limits) === false);
    const first = failed?.rate ?? Infinity;
    const kept = engine.rates.filter((point) => point.rate < first && this.keeps(point, limits));
    const base = { basis: "rates", fails: failed?.rate ?? null, points: engine.rates };
    if (!kept.length) {
      const isLowest = failed && failed === engine.rates[0];
      return isLowest ? { ...base, rate: 0, starts: failed.starts, remarks: [] } : null;
    }
    const best = kept.at(-1);
    const remarks = [];
    if (best.unsure) remarks.push(`at ${best.rate} requests/s the run was too short to exclude saturation`);
    if (engine.rates.some((point) => point.rate > first && this.keeps(point, limits))) {
      remarks.push(`it held at higher rates than ${first} requests/s, where it failed`);
    }
    return { ...base, rate: best.rate, starts: best.starts, remarks };
  }

  expected(engine, limits) {
    const loads = engine.expected;
    if (!loads.length || !limits.every(([name]) => this.index.has(name))) return null;
    const rates = limits.map(([name, limit]) => this.highest(loads, name, limit / this.times(engine, name)));
    const rate = Math.min(...rates, loads.at(-1).rate);
    const failed = this.failsAt(engine, limits);
    const base = { basis: "expected", starts: 0, remarks: [], points: engine.rates };
    if (failed === null) return { ...base, rate, fails: null };
    // No rate that is known to fail is expected to hold.
    return { ...base, rate: Math.min(rate, failed * (1 - SLACK)), fails: failed };
  }

  // How many times what is expected rows have of a percentile, at most; 1 and more.
  times(engine, name) {
    const found = engine.rates.filter((point) => !point.saturated && this.ms(point, name) !== null).map((point) => {
      const expected = this.at(engine.expected, point.rate);
      return expected ? this.ms(point, name) / this.ms(expected, name) : 1;
    });
    return Math.max(1, ...found);
  }

  // Whether the limit of TTFT p99 is within the known error of what is expected.
  mayFail(engine, point, load, limits) {
    const limit = limits.find(([name]) => name === "ttft_p99_ms")?.[1];
    if (limit === undefined || !point) return false;
    const [half, most] = this.data.ttft_shares;
    const share = load <= this.data.half * engine.expected.at(-1).rate ? half : most;
    return this.ms(point, "ttft_p99_ms") / share > limit;
  }

  highest(loads, name, limit) {
    if (this.ms(loads[0], name) > limit) return 0;
    for (let at = 1; at < loads.length; at += 1) {
      const [low, high] = [loads[at - 1], loads[at]];
      const [left, right] = [this.ms(low, name), this.ms(high, name)];
      if (right > limit) return low.rate + (high.rate - low.rate) * (limit - left) / (right - left);
    }
    return loads.at(-1).rate;
  }

  // Percentiles that are expected at a rate, as a point.
  at(loads, rate) {
    if (!loads.length || rate > loads.at(-1).rate) return null;
    if (rate <= loads[0].rate) return loads[0];
    const at = loads.findIndex((load) => load.rate >= rate);
    const [low, high] = [loads[at - 1], loads[at]];
    const part = (rate - low.rate) / (high.rate - low.rate);
    return { rate, ms: low.ms.map((left, item) => left + (high.ms[item] - left) * part) };
  }

  // The answer to {model, rate, limits}: offers (the best first), refused, and what to measure.
  answer(question) {
    const model = this.model(question.model);
    const [offers, refused, places] = [[], [], new Set()];
    const add = (engine, capacity) => {
      const found = this.offer(model, engine, capacity, question);
      (found.reason === undefined ? offers : refused).push(found);
    };
    for (const engine of model.engines) {
      const capacity = this.measured(engine, question.limits);
      if (capacity === null) continue;
      places.add(engine.place);
      add(engine, capacity);
      const expected = this.expected(engine, question.limits);
      const isLower = isLeast(capacity) && capacity.rate > 0 && expected?.rate;
      const fewer = isLower && engines(question.rate, expected) < engines(question.rate, capacity);
      if (fewer) offers.push(this.offer(model, engine, expected, question));
    }
    for (const engine of model.engines) {
      if (places.has(engine.place)) continue;
      places.add(engine.place);
      const expected = this.expected(engine, question.limits);
      const nothing = "not measured; of a share of requests nothing is expected";
      if (expected) add(engine, expected);
      else refused.push({ engine, reason: engine.problem ?? nothing });
    }
    offers.sort((one, other) => order(one.key, other.key));
    const [best] = offers;
    return { model, question, best, offers, refused, wanted: best ? wanted(offers) : [] };
  }

  offer(model, engine, capacity, { rate, limits }) {
    if (capacity.rate <= 0) return { engine, reason: this.tooSlow(engine, capacity, limits) };
    const count = engines(rate, capacity);
    const gpus = count * engine.gpus;
    if (engine.nodes === 1 && engine.per_node !== null && engine.gpus > engine.per_node) {
      return { engine, reason: `${engine.gpus} GPUs > ${engine.per_node} on a node` };
    }
    const nodes = engine.nodes > 1 ? count * engine.nodes : engine.per_node && Math.ceil(count / Math.floor(engine.per_node / engine.gpus));
    const load = rate / count;
    const [point, isSeen] = this.latency(engine, capacity, load);
    const price = engine.gpu_hour_usd;
    const usd = price === null ? null : gpus * price / 3600 / (rate * model.output) * 1e6;
    if (this.data.objective === "cost" && usd === null) {
      return { engine, reason: `no price of ${engine.gpu}` };
    }
    const isMeasured = capacity.basis !== "expected";
    const headroom = 1 - rate / (count * capacity.rate);
    const score = this.data.objective === "cost" ? usd ?? Infinity : gpus / rate;
    const latency = (point && this.ms(point, "e2e_p50_ms")) ?? Infinity;
    const isBusy = !isMeasured && load > engine.busy_from;
    const mayFail = !isMeasured && !isSeen && this.mayFail(engine, point, load, limits);
    const key = [isMeasured ? 0 : 1, score, gpus, -headroom, latency, engine.layout];
    const known = { engine, capacity, isMeasured, count, gpus, nodes, load, point, isSeen };
    return { ...known, usd, headroom, score, latency, isBusy, mayFail, key };
  }

  // Percentiles at the load of one engine: of the next rate that was measured and does not fail,
  // else what is expected.
  latency(engine, capacity, load) {
    const point = capacity.points.find((one) => one.rate >= load);
    const isKept = point && (capacity.fails === null || point.rate < capacity.fails);
    return isKept ? [point, true] : [this.at(engine.expected, load), false];
  }

  tooSlow(engine, capacity, limits) {
    if (!limits.length) {
      return `saturated at ${capacity.fails} requests/s, the lowest rate measured`;
    }
    const isMeasured = capacity.basis !== "expected";
    if (isMeasured && !engine.rates.length) return "the search: nothing passes";
    const point = isMeasured ? engine.rates[0] : engine.expected[0];
    const words = this.failed(point, limits).map(([name, limit]) => {
      return `${title(name)} ${short(this.ms(point, name))} ms, limit ${short(limit)}`;
    });
    if (!isMeasured && !words.length) return "rows are slower than expected: not even one request would keep the limits";
    const where = isMeasured ? `at ${point.rate} requests/s, measured` : "for a single request, expected";
    return `${words.join(", ") || "saturated"} ${where}`;
  }
}

function engines(rate, capacity) {
  return Math.max(1, Math.ceil(rate / capacity.rate - SLACK));
}

// Whether it is a lower bound.
function isLeast(capacity) {
  return capacity.basis === "rates" || capacity.basis === "stricter";
}

function isEqual(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

function order(one, other) {
  const at = one.findIndex((value, item) => value !== other[item]);
  return at < 0 ? 0 : one[at] < other[at] ? -1 : 1;
}

// What was not measured and would change the answer: engines with the rates to measure, and why.
function wanted(offers) {
  const [best, ...others] = offers;
  const found = new Map();
  const add = (offer, rate, why) => {
    const known = found.get(offer.engine) ?? { engine: offer.engine, rates: [], why: [] };
    known.rates = [...new Set([...known.rates, rate])].sort((one, other) => one - other);
    known.why.push(why);
    found.set(offer.engine, known);
  };
  if (!best.isMeasured) add(best, best.load, "it is recommended, and only expected");
  else if (best.capacity.starts < ENOUGH_STARTS) {
    add(best, best.capacity.rate, "a second engine start, to confirm it");
  }
  const rivals = others.filter((one) => !one.isMeasured).sort((a, b) => order([a.score], [b.score]));
  for (const rival of rivals) {
    if (best.isMeasured && rival.score < BETTER * best.score) {
      add(rival, rival.load, `it is expected to do better: ${gain(rival, best)}`);
    }
  }
  return [...found.values()].slice(0, MOST_WANTED);
}

function gain(rival, best) {
  if (rival.gpus !== best.gpus) return `${count(rival.gpus, "GPU")}, not ${short(best.gpus)}`;
  return `${short(rival.latency)} ms per request, not ${short(best.latency)}`;
}

// Three digits, without zeros at the end and never in exponents.
function short(value) {
  if (value === null) return "n/a";
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// "TTFT p99" of ttft_p99_ms.
function title(name) {
  const [metric, ...rest] = name.replace(/_ms$/, "").split("_");
  return [metric.toUpperCase(), ...rest].join(" ");
}
