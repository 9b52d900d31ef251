// The page's choice: what is asked, the answer in words, and its picture.

const OWN = "own limits", NONE = "no limit";
const MOST_RATE = 1e6;
const TYPED = ["ttft_p99_ms", "tpot_p99_ms"];
const MEDIANS = ["ttft_p50_ms", "tpot_p50_ms"];
const MOST_REASONS = 5;
const PAUSE_MS = 150;  // of typing, before the answer changes and is read aloud

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

class Mistake extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

function positive(field, text, what, most = Infinity) {
  const value = /^\s*(\d+\.?\d*|\.\d+)\s*$/.test(text) ? Number(text) : NaN;
  if (value > 0 && value <= most) return value;
  const end = most === Infinity ? "" : ` and at most ${most.toLocaleString("en")}`;
  const given = text.trim() ? `: “${text.trim()}” is not` : " is missing: type";
  throw new Mistake(field, `${what}${given} a number above 0${end}.`);
}

// What the form asks; throws Mistake.
function read(form, choices) {
  const model = choices.model(form.model.value);
  const rate = positive(form.rate, form.rate.value, "Requests/s", MOST_RATE);
  const named = model.slos[form.slo.selectedIndex];
  if (named) return { model: model.name, rate, slo: named.name, limits: named.limits };
  if (form.slo.value === NONE) return { model: model.name, rate, slo: null, limits: [] };
  const typed = TYPED.filter((name) => form[name].value.trim());
  const limits = typed.map((name) => [name, positive(form[name], form[name].value, title(name))]);
  if (!limits.length) throw new Mistake(form[TYPED[0]], "Type a limit in ms, or choose “no limit”.");
  return { model: model.name, rate, slo: limits.map((pair) => pair.join("=")).join(","), limits };
}

// Short: a phone cuts the text of a select.
function optionOf(slo) {
  return `${slo.name}: ${slo.words.replaceAll("<=", "≤").replaceAll(" ms,", ",")}`;
}

function fillSlos(form, model) {
  const chosen = form.slo.value;
  const named = model.slos.map((slo) => new Option(optionOf(slo), slo.name));
  form.slo.replaceChildren(...named, new Option(OWN, OWN), new Option(NONE, NONE));
  if ([...form.slo.options].some((option) => option.value === chosen)) form.slo.value = chosen;
}

// A link's question into the form; throws Mistake for what the page cannot answer.
function fill(form, choices, asked) {
  const name = asked.get("model") ?? form.model.value;
  const model = choices.model(name);
  if (!model) throw new Mistake(form.model, `This page has no rows of the model “${name}”.`);
  form.model.value = name;
  fillSlos(form, model);
  if (asked.has("rate")) form.rate.value = asked.get("rate");
  const slo = asked.get("slo");
  if (slo === null) return;
  if (slo === "") form.slo.value = NONE;
  else if (model.slos.some((one) => one.name === slo)) form.slo.value = slo;
  else {
    form.slo.value = OWN;
    for (const field of TYPED) form[field].value = "";
    for (const pair of slo.split(",")) {
      const [limit, value] = pair.split("=");
      if (!TYPED.includes(limit)) {
        throw new Mistake(form.slo, `The SLO “${slo}” is neither named here nor limits of ${TYPED.join(" and ")}.`);
      }
      form[limit].value = value ?? "";
    }
  }
}

function layoutOf(offer) {
  const gpus = count(offer.gpus, "GPU");
  if (offer.count === 1) return `1 server on ${gpus}`;
  const nodes = offer.nodes === null ? "" : ` on ${count(offer.nodes, "node")}`;
  return `${count(offer.count, "server")} behind a load balancer, ${gpus}${nodes}`;
}

// [heading, lines] of an answer.
function reasons(choices, answer) {
  const { best } = answer;
  if (!best) return [["Why", answer.refused.map(({ engine, reason }) => `${engine.layout}: ${reason}.`)]];
  const missing = answer.wanted.map(({ engine, rates, why }) => {
    return `${engine.layout} at ${rates.map(short).join(" and ")} requests/s per server: ${why.join("; ")}.`;
  });
  return [
    ["Why", why(choices, answer)],
    ["How sure", sure(choices.data, answer)],
    ["Not measured, and could change the answer", [...missing, ...ofSweep(answer.model, missing)]],
  ];
}

// What the cells of the sweep that are missing mean for an answer.
function ofSweep({ missing, is_incomplete }, wanted) {
  const lines = wanted.length ? [] : ["No other layout is expected to do better, and the answer has several engine starts."];
  const are = missing === 1 ? "is" : "are";
  if (missing) lines.push(`${count(missing, "cell")} of this sweep that would show served load ${are} missing, and may change the answer.`);
  else if (is_incomplete) lines.push("No cell of this sweep that is missing would change the answer: none shows served load of this model.");
  return lines;
}

function why(choices, { question, best, offers, refused }) {
  const known = best.point ? question.limits.filter(([name]) => choices.ms(best.point, name) !== null) : [];
  const isNext = best.isSeen && best.point.rate > best.load;
  const rate = `${short(best.isSeen ? best.point.rate : best.load)} requests/s per server`;
  const next = isNext ? `, the next measured rate above ${short(best.load)}` : "";
  const at = `${best.isSeen ? "measured" : "expected"} at ${rate}${next}`;
  const kept = known.map(([name, limit]) => {
    return `${title(name)} is ${short(choices.ms(best.point, name))} ms, limit ${short(limit)} ms`;
  });
  const lines = kept.length ? [`${kept.join("; ")} (${at}).`] : [];
  if (best.capacity.basis === "searched" && known.length < question.limits.length) {
    lines.push(`Keeps the limits up to ${short(best.capacity.rate)} requests/s per server, by a search.`);
  }
  lines.push(first(choices, best, offers));
  const seen = new Set([best.engine]);
  for (const other of offers) {
    if (seen.has(other.engine)) continue;
    seen.add(other.engine);
    lines.push(against(best, other));
  }
  lines.push(...refused.map(({ engine, reason }) => `${engine.layout}: ${reason}.`));
  return lines.slice(0, MOST_REASONS);
}

// Why it comes before other layouts.
function first(choices, best, offers) {
  const others = offers.filter((one) => one.engine !== best.engine && one.isMeasured === best.isMeasured);
  const least = choices.data.objective === "cost" ? "costs least" : "takes the fewest GPUs";
  if (best.isMeasured) {
    return others.length ? `Of the measured layouts it ${least}.` : "It is the only measured layout known to carry this load.";
  }
  const known = "No layout is known from measurements to carry this load";
  return others.length ? `${known}; by expectation, this one ${least}.` : `${known}; this one is expected to.`;
}

function against(best, other) {
  const needs = `${other.engine.layout} takes ${count(other.gpus, "GPU")} for the same load`;
  const money = other.usd !== null && best.usd !== null && other.usd !== best.usd;
  const cost = money ? `, ${short(other.usd)} instead of ${short(best.usd)} USD per million output tokens` : "";
  const isBetter = other.score < best.score && best.isMeasured && !other.isMeasured;
  if (isBetter) return `${needs}${cost}, but that is expected: measured layouts come first.`;
  const basis = other.isMeasured ? "measured" : "expected";
  if (other.gpus !== best.gpus || cost) return `${needs}${cost} (${basis}).`;
  if (best.isMeasured && !other.isMeasured) return `${needs}, too, but is not measured.`;
  const left = `${headroom(other)} instead of ${headroom(best).replace("headroom ", "")}`;
  return `${needs}, too: ${left} (${basis}).`;
}

// Of a lower bound at least that; "at least 0 %" would say nothing.
function headroom({ headroom: left, capacity }) {
  const least = isLeast(capacity) ? "at least " : "";
  if (left > 0.995) return "headroom over 99 %";
  return left < 0.005 ? `no headroom${least && " known"}` : `headroom ${least}${Math.round(100 * left)} %`;
}

// What takes fewest GPUs by expectation, and fewer than a measured answer.
function hope({ best, offers }) {
  const [fewest] = offers.filter((one) => !one.isMeasured).sort((one, other) => one.gpus - other.gpus);
  return best.isMeasured && fewest && fewest.gpus < best.gpus ? fewest : null;
}

function sure(data, answer) {
  const { model, best, question } = answer;
  const { capacity } = best;
  const least = isLeast(capacity) ? "at least " : "";
  const who = best.count > 1 ? "Each server" : "It";
  const fails = capacity.fails === null ? "" : ` and fails at ${short(capacity.fails)}`;
  const basis = best.isMeasured ? `Measured, ${count(capacity.starts, "engine start")}` : "Expected, not measured";
  const lines = [`${basis}. ${who} holds ${least}${short(capacity.rate)} requests/s${fails}: ${headroom(best)}.`];
  lines.push(...capacity.remarks.map((remark) => `Note: ${remark}.`));
  const rests = best.isMeasured ? hope(answer) : best;
  const isOfTtft = question.limits.some(([name]) => name.startsWith("ttft") || name.startsWith("e2e"));
  if (rests?.mayFail) lines.push(`${count(rests.gpus, "GPU")} may not be enough: TTFT p99 may not hold.`);
  if (rests) lines.push(model.errors);
  if (rests && isOfTtft) lines.push(data.ttft_is_low);
  if (rests?.isBusy) lines.push("Many steps would be too long for CUDA graphs, where measured TPOT was up to 1.5 times the expectation.");
  if (best.isMeasured && best.count > 1) lines.push(data.uneven);
  if (best.isMeasured) lines.push(...model.warnings);
  return lines;
}

function sentence(answer) {
  const { best, model, question } = answer;
  const load = `${short(question.rate)} requests/s`;
  if (!best) return `No layout of ${model.label} is known to carry ${load}${question.limits.length ? " within these limits" : ""}.`;
  const fewer = best.isMeasured ? hope(answer) : null;
  const doubt = (offer) => (offer.mayFail ? ", may not hold" : "");
  const more = fewer ? `; ${count(fewer.gpus, "GPU")} if the expectation holds${fewer.mayFail ? ", which it may not" : ""}` : "";
  return `Use ${best.engine.layout}: ${layoutOf(best)} (${best.isMeasured ? "measured" : `expected${doubt(best)}`})${more}.`;
}

function command(data, { model, rate, slo }) {
  const quoted = (word) => (/^[\w.,=/+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  const words = ["tpsweep recommend", quoted(data.folder), "--model", quoted(model), "--rate", rate];
  return [...words, ...(slo === null ? [] : ["--slo", quoted(slo)])].join(" ");
}

// Every layout with what it would take, as lines of a table.
function comparison(choices, { offers, refused, best }) {
  const ms = (offer, name) => (offer.point ? short(choices.ms(offer.point, name)) : "n/a");
  const headings = ["Layout", "Known", "Servers", "GPUs", "Holds (requests/s per server)", ...TYPED.map((name) => `${title(name)} (ms)`)];
  const lines = offers.map((offer) => {
    const holds = `${isLeast(offer.capacity) ? "≥ " : ""}${short(offer.capacity.rate)}`;
    const known = offer.isMeasured ? "measured" : "expected";
    const cells = [offer.engine.layout, known, short(offer.count), short(offer.gpus), holds, ...TYPED.map((name) => ms(offer, name))];
    return element("tr", offer === best ? { class: "best" } : {}, ...cells.map((cell) => element("td", {}, String(cell))));
  });
  const no = refused.map(({ engine, reason }) => {
    return element("tr", {}, element("td", {}, engine.layout), element("td", { colspan: headings.length - 1 }, reason));
  });
  const head = element("tr", {}, ...headings.map((heading) => element("th", { scope: "col" }, heading)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines, ...no));
}

const SIZE = { width: 300, height: 220, left: 40, right: 10, top: 26, bottom: 36 };

function ticks(most) {
  const rough = most / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * unit >= rough) * unit;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, at) => at * step);
}

// Where a percentile is known: at the load, else at the next measured rate that does not fail.
function pointOf(choices, { point, capacity, load, isMeasured }, name) {
  const isKnown = (one) => one && choices.ms(one, name) !== null;
  if (isKnown(point) || !isMeasured) return isKnown(point) ? point : null;
  const isKept = (one) => one.rate >= load && one.rate < (capacity.fails ?? Infinity);
  return capacity.points.find((one) => isKept(one) && isKnown(one)) ?? null;
}

// Whether a layout has a point: its percentile is known, or a search confirmed the limit.
function isPlaced(choices, offer, name, limit) {
  const { capacity } = offer;
  return pointOf(choices, offer, name) !== null || (["searched", "stricter"].includes(capacity.basis) && limit !== null);
}

// A percentile against requests/s per GPU: a curve per engine, a point per layout that answers.
function panel(choices, answer, name) {
  const limit = answer.question.limits.find(([one]) => one === name)?.[1] ?? null;
  const place = (engine, point) => ({ x: choices.ms(point, name), y: point.rate / engine.gpus });
  const isKnown = (point) => choices.ms(point, name) !== null;
  const curve = (engine, points) => points.filter(isKnown).map((point) => place(engine, point));
  const seen = new Set();
  const points = answer.offers.filter((offer) => {
    const isNew = isPlaced(choices, offer, name, limit) && !seen.has(offer.engine);
    if (isNew) seen.add(offer.engine);
    return isNew;
  }).map((offer) => {
    const { engine, capacity } = offer;
    const point = pointOf(choices, offer, name);
    if (point) return { offer, ...place(engine, point), at: "" };
    return { offer, x: limit, y: capacity.rate / engine.gpus, at: "at most " };
  });
  const right = 1.25 * Math.max(...points.map((point) => point.x), limit ?? 0);
  const curves = [...seen].flatMap((engine) => [
    { engine, at: curve(engine, engine.expected), isExpected: true },
    { engine, at: curve(engine, engine.rates.filter((rate) => !rate.saturated)), isExpected: false },
  ]).filter(({ at }) => at.length);
  const inside = curves.flatMap(({ at }) => at).filter(({ x }) => x <= right);
  const up = 1.1 * Math.max(...points.map((point) => point.y), ...inside.map((point) => point.y));
  const { width, height, left, top, bottom } = SIZE;
  const X = (x) => left + x / right * (width - left - SIZE.right);
  const Y = (y) => height - bottom - y / up * (height - top - bottom);
  const words = points.map(({ offer, x, y, at }) => `${offer.engine.layout}: ${at}${short(x)} ms at ${short(y)} requests/s per GPU`);
  const limited = limit === null ? "" : ` Limit: ${short(limit)} ms.`;
  const label = `${title(name)} against requests/s per GPU. ${words.join("; ")}.${limited}`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  svg.append(drawn("text", { x: 0, y: 12 }, "Requests/s per GPU"));
  svg.append(drawn("text", { x: width - SIZE.right, y: height - 2, "text-anchor": "end" }, `${title(name)} (ms)`));
  for (const x of ticks(right)) {
    svg.append(drawn("line", { class: "grid", x1: X(x), x2: X(x), y1: top, y2: height - bottom }));
    svg.append(drawn("text", { class: "tick", x: X(x), y: height - bottom + 14, "text-anchor": "middle" }, short(x)));
  }
  for (const y of ticks(up)) {
    svg.append(drawn("line", { class: "grid", x1: left, x2: width - SIZE.right, y1: Y(y), y2: Y(y) }));
    svg.append(drawn("text", { class: "tick", x: left - 5, y: Y(y) + 4, "text-anchor": "end" }, short(y)));
  }
  const frame = drawn("svg", { x: left, y: top, width: width - left - SIZE.right, height: height - top - bottom, viewBox: `${left} ${top} ${width - left - SIZE.right} ${height - top - bottom}` });
  if (limit !== null) {
    frame.append(drawn("rect", { class: "over", x: X(limit), y: top, width: X(right) - X(limit), height: height - top - bottom }));
    frame.append(drawn("line", { class: "limit", x1: X(limit), x2: X(limit), y1: top, y2: height - bottom }));
  }
  for (const { engine, at, isExpected } of curves) {
    const line = at.map(({ x, y }) => `${X(x)},${Y(y)}`).join(" ");
    frame.append(drawn("polyline", { class: isExpected ? "expected" : "measured", points: line, stroke: colour(engine) }));
    const dots = isExpected ? [] : at;
    frame.append(...dots.map(({ x, y }) => drawn("circle", { cx: X(x), cy: Y(y), r: 2.5, fill: colour(engine) })));
  }
  svg.append(frame);
  for (const { offer, x, y, at } of points) {
    if (at) svg.append(drawn("line", { class: "bound", x1: X(0), x2: X(x), y1: Y(y), y2: Y(y), stroke: colour(offer.engine) }));
    const dot = drawn("circle", { cx: X(x), cy: Y(y), r: 4.5, fill: offer.isMeasured ? colour(offer.engine) : "var(--paper)", stroke: colour(offer.engine), "stroke-width": 2 });
    dot.append(drawn("title", {}, `${offer.engine.layout}: ${at}${short(x)} ms at ${short(y)} requests/s per GPU`));
    svg.append(dot);
    if (offer === answer.best) svg.append(drawn("circle", { class: "best", cx: X(x), cy: Y(y), r: 9 }));
  }
  if (limit !== null) svg.append(drawn("text", { class: "limit", x: X(limit) - 4, y: top - 4, "text-anchor": "end" }, `limit ${short(limit)} ms`));
  return svg;
}

function colour(engine) {
  return `var(--series-${engine.place % 8})`;
}

function legend(answer) {
  const seen = new Set();
  const items = answer.offers.filter(({ engine }) => !seen.has(engine) && seen.add(engine)).map((offer) => {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true", style: `color: ${colour(offer.engine)}` }, offer.isMeasured ? "●" : "○");
    const name = `${offer.engine.layout}, ${offer.isMeasured ? "measured" : "expected"}`;
    return element("li", {}, swatch, offer === answer.best ? element("strong", {}, `${name}: recommended`) : name);
  });
  return element("ul", { class: "key" }, ...items);
}

function picture(choices, answer) {
  const { best, question } = answer;
  if (!best) return [];
  const limits = new Map(question.limits.filter(([name]) => choices.index.has(name)));
  // A p99 needs many requests: where it is not known, medians are.
  const names = [...new Set([...limits.keys(), ...TYPED, ...MEDIANS])];
  const placed = names.filter((name) => isPlaced(choices, best, name, limits.get(name) ?? null));
  const panels = placed.slice(0, 2).map((name) => panel(choices, answer, name));
  if (!panels.length) return [];
  const isBound = panels.some((one) => one.querySelector(".bound"));
  const bound = isBound ? " A bar ends at the limit that a search confirmed; the value below it was not recorded." : "";
  const note = `Up and to the left is better. Solid line: measured; dashed: expected.${bound}`;
  return [element("div", { class: "panels" }, ...panels), legend(answer), element("figcaption", {}, note)];
}

function show(choices, answer, place) {
  place.answer.textContent = sentence(answer);
  const { model } = answer;
  place.traffic.textContent = `Requests of ${model.input} tokens in, ${model.output} tokens out.`;
  place.reasons.replaceChildren(...reasons(choices, answer).map(([heading, lines]) => {
    const items = lines.map((line) => element("dd", {}, line));
    return element("div", {}, element("dt", {}, heading), ...items);
  }));
  place.picture.replaceChildren(...picture(choices, answer));
  place.table.replaceChildren(comparison(choices, answer));
  place.command.textContent = command(choices.data, answer.question);
}

function choose(root) {
  const choices = new Choices(JSON.parse(root.querySelector("script").textContent));
  const form = root.querySelector("form");
  const place = Object.fromEntries(
    ["answer", "traffic", "reasons", "picture", "table", "command"].map((name) => [name, root.querySelector(`.${name}`)]),
  );
  form.model.replaceChildren(...choices.data.models.map((model) => new Option(model.label, model.name)));
  fillSlos(form, choices.data.models[0]);

  function fail(error) {
    if (!(error instanceof Mistake)) throw error;
    error.field.setAttribute("aria-invalid", "true");
    place.answer.textContent = error.message;
    root.classList.add("mistaken");
  }

  function update(isAsked) {
    for (const field of form.elements) field.removeAttribute("aria-invalid");
    root.classList.remove("mistaken");
    for (const name of TYPED) form[name].closest("label").hidden = form.slo.value !== OWN;
    try {
      const question = read(form, choices);
      show(choices, choices.answer(question), place);
      const { model, rate, slo } = question;
      // Not before somebody chose: a link to a section stays what it is.
      if (isAsked) history.replaceState(null, "", `#${new URLSearchParams({ model, rate, slo: slo ?? "" })}`);
    } catch (error) {
      fail(error);
    }
  }

  function follow() {
    if (!location.hash.includes("=")) return;
    try {
      fill(form, choices, new URLSearchParams(location.hash.slice(1)));
      update(false);
    } catch (error) {
      update(false);
      fail(error);
    }
  }

  let pause;
  form.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => update(true), PAUSE_MS);
  });
  form.addEventListener("change", (event) => {
    if (event.target === form.model) fillSlos(form, choices.model(form.model.value));
    clearTimeout(pause);
    update(true);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", follow);
  root.classList.add("ready");
  update(false);
  follow();
}

for (const root of document.querySelectorAll(".choice")) choose(root);
