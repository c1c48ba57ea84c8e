// The page of one pipeline: draws what the event stream tells, a snapshot a second.

const byId = (id) => document.getElementById(id);
const POINTS = 300; // seconds in the charts
const TREND = 60; // points that a pace is taken from
const KEEPS_UP = 3; // seconds behind that are none

let points = [];
let last = null;
let lags = new Map(); // by partition: [at, lag] of the last minute
let arrived = 0;

// Text only: nothing from the stream is ever parsed as HTML.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const count = (n) => (n === null || n === undefined ? "–" : Math.abs(n) < 100000 ? whole.format(n) : short.format(n));
const rate = (n) => (n === null ? "–" : n < 10 && n > 0 ? n.toFixed(1) : count(n));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString();

// Charts

function chart(id, series, unit, tick) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const box = byId(id);
  const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
  return new uPlot(
    {
      width: box.clientWidth || 400,
      height: 160,
      cursor: { y: false },
      scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
      axes: [axis, { ...axis, size: 60, values: (_, ticks) => ticks.map(tick) }],
      series: [{}, ...series.map(([label, name]) => ({
        label, stroke: color(name), width: 2, points: { show: false }, spanGaps: false,
        value: (_, v) => (v === null || v === undefined ? "–" : `${unit(v)}`),
      }))],
    },
    [[], ...series.map(() => [])],
    box,
  );
}

let charts = null;

function makeCharts() {
  if (charts) for (const one of Object.values(charts)) one.destroy();
  charts = {
    rate: chart("rate", [["finished", "--busy"], ["failed", "--bad"]], rate, (v) => short.format(v)),
    latency: chart("latency", [["p50", "--busy"], ["p99", "--pressed"]], duration, (v) => (v ? duration(v) : "0")),
  };
  drawCharts();
}

function drawCharts() {
  if (!charts) return;
  const at = [], finished = [], failed = [], p50 = [], p99 = [];
  for (let i = 1; i < points.length; i++) {
    const [before, now] = [points[i - 1], points[i]];
    const seconds = now.at - before.at;
    if (seconds <= 0) continue;
    at.push(now.at);
    finished.push(Math.max(0, now.succeeded - before.succeeded) / seconds);
    failed.push(Math.max(0, now.failed - before.failed) / seconds);
    p50.push(now.p50);
    p99.push(now.p99);
  }
  charts.rate.setData([at, finished, failed]);
  charts.latency.setData([at, p50, p99]);
}

function pace(name, seconds = 10) {
  if (points.length < 2) return null;
  const now = points[points.length - 1];
  const before = points[Math.max(0, points.length - 1 - seconds)];
  return now.at > before.at ? Math.max(0, now[name] - before[name]) / (now.at - before.at) : null;
}

// Parts

function drawHead(it) {
  document.title = `${it.name} · ${it.state}`;
  byId("name").textContent = it.name;
  byId("about").textContent = `${it.topics.join(", ")}${it.group && it.group !== it.name ? ` · group ${it.group}` : ""}${it.per_partition ? " · a pipeline for each partition" : ""}`;
  const badge = (words, kind, title) => element("span", { class: `badge ${kind}`, title }, words);
  byId("badges").replaceChildren(
    badge(it.state, it.state === "open" ? "good" : "warn", "the pipeline's state"),
    badge(it.health.ok ? "alive" : "not alive", it.health.ok ? "good" : "bad", it.health.reason),
    badge(it.ready.ok ? "ready" : `not ready: ${it.ready.reason}`, it.ready.ok ? "good" : "bad", it.ready.reason),
  );
}

function drawFigures(it) {
  const lag = it.partitions.reduce((sum, one) => sum + (one.lag ?? 0), 0);
  const behind = Math.max(0, ...it.partitions.map((one) => one.lag_s ?? 0));
  const figures = [
    [rate(pace("succeeded")), "messages/s"],
    [duration(it.end_to_end?.p99 ?? null), "p99, record to finished"],
    [count(lag), `lag${behind > 0 ? `, ${duration(behind)} behind` : ""}`],
    [count(it.counts.in_flight), `in flight, of ${count(it.counts.max_in_flight)}`],
    [count(it.again_after_crash), "at most again after a crash"],
    [count(it.counts.succeeded), "succeeded since opening"],
    [count(it.counts.failed), `failures, ${count(it.counts.retried)} retried`],
    [count(it.counts.dead_lettered + it.counts.skipped), `given up, ${count(it.counts.dead_lettered)} dead letters`],
  ];
  byId("figures").replaceChildren(
    ...figures.map(([value, words]) => element("div", { class: "figure" }, element("b", {}, value), element("span", {}, words))),
  );
}

// Of the time of a stage's tasks in the last ten seconds.
function shares(name) {
  const now = points[points.length - 1]?.stages?.[name];
  const before = points[Math.max(0, points.length - 11)]?.stages?.[name];
  if (!now || !before) return null;
  const spent = now.map((value, i) => Math.max(0, value - before[i]));
  const total = spent[0] + spent[1] + spent[2];
  return total > 0 ? spent.map((value) => value / total) : null;
}

function drawStages(it) {
  const handlers = it.handlers[0];
  const label = (name) => {
    if (!handlers) return name;
    const last = (qualified) => qualified.split(".").pop();
    if (name === "handle_message") return last(handlers.handle_message);
    const batcher = handlers.batchers.find((one) => `handle_batch:${one.name}` === name);
    return batcher ? `${last(batcher.handle_batch)} (batcher ${batcher.name})` : name;
  };
  const nodes = [stageNode("source", "source", `${count(it.partitions.length)} partitions`, null, `${rate(pace("received"))}/s received`)];
  for (const stage of it.stages) {
    const share = shares(stage.name);
    const h = stage.handling;
    const batcher = it.batchers.find((one) => `handle_batch:${one.name}` === stage.name);
    const waiting = batcher ? `${count(batcher.pending)} waiting in ${count(batcher.open_batches)} open` : `${count(it.counts.queued)} waiting`;
    nodes.push(stageNode(stage.name, label(stage.name), `${stage.busy} of ${stage.concurrency} at work · ${waiting}`, share, `p50 ${duration(h.p50)} · p99 ${duration(h.p99)}`));
  }
  const took = it.lately.commit_seconds;
  nodes.push(stageNode("commit", "commit", took === null ? "nothing yet" : `the last took ${duration(took)}`, null, ""));
  byId("stages").replaceChildren(...nodes.flatMap((node, i) => (i ? [element("span", { class: "arrow", "aria-hidden": "true" }, "→"), node] : [node])));
}

function stageNode(name, title, what, share, times) {
  const load = share ? share[0] + share[2] : 0;
  const color = !share ? "var(--line)" : share[2] > 0.5 ? "var(--pressed)" : load > 0.05 ? "var(--busy)" : "var(--idle)";
  const node = element("div", { class: "stage", style: `--load: ${color}`, "data-stage": name },
    element("h3", {}, title), element("p", {}, what), times ? element("p", {}, times) : null);
  if (share) {
    const percent = (value) => `${Math.round(value * 100)} %`;
    const words = `busy ${percent(share[0])}, back-pressured ${percent(share[2])}, idle ${percent(share[1])}`;
    const bar = element("div", { class: "bar", role: "img", "aria-label": words, title: words },
      element("i", { class: "busy", style: `width: ${share[0] * 100}%` }),
      element("i", { class: "pressed", style: `width: ${share[2] * 100}%` }));
    node.append(element("p", {}, words), bar);
  }
  return node;
}

function strip(one) {
  const found = one.strip;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const cells = found ? found.finished : [];
  svg.setAttribute("class", "strip");
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, cells.length)} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const words = !found || !cells.length ? "nothing unfinished is here" : `from ${found.first} to ${found.behind}: ${count(one.behind_gap)} finished behind what is not`;
  svg.setAttribute("aria-label", words);
  svg.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "title"), { textContent: words }));
  cells.forEach((share, x) => {
    if (!share) return;
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ x, y: 1 - share, width: 1.02, height: share })) rect.setAttribute(key, value);
    svg.append(rect);
  });
  return svg;
}

function noteLags(it) {
  const seen = new Map();
  for (const one of it.partitions) {
    const key = `${one.topic}/${one.partition}`;
    const before = lags.get(key) ?? [];
    if (one.lag !== null) before.push([it.at, one.lag]);
    seen.set(key, before.slice(-TREND));
  }
  lags = seen;
}

// How the lag moves, in messages a second: below 0 it shrinks.
function trend(key) {
  const found = lags.get(key);
  if (!found || found.length < 5) return null;
  const [first, now] = [found[0], found[found.length - 1]];
  return (now[1] - first[1]) / (now[0] - first[0]);
}

function clearIn(one) {
  if (one.lag === 0 || (one.lag_s ?? 0) < KEEPS_UP) return ["", ""];
  const slope = trend(`${one.topic}/${one.partition}`);
  if (one.lag === null || slope === null) return ["–", ""];
  if (slope < -0.01) return [duration(one.lag / -slope), ""];
  return slope > 0.01 ? ["grows", "warn"] : ["stands", "warn"];
}

function blockerWords(one) {
  const it = one.blocker;
  if (one.paused.length) return `paused (${one.paused.join(", ")})`;
  if (!it) return "";
  const what = { running: "runs", waiting: "waits", retrying: "waits to be tried again" }[it.doing] ?? it.doing;
  return `${it.offset}: ${what} in ${it.stage}${it.attempt > 1 ? `, attempt ${it.attempt}` : ""}, ${duration(it.age_s)}`;
}

// What may be done about a message that waits to be tried again, by who knows the token.
function actionsOf(it, one) {
  if (!it.may_act || one.blocker?.doing !== "retrying" || one.paused.length) return [];
  const place = { topic: one.topic, partition: one.partition, offset: one.blocker.offset };
  const button = (words, path, title) => {
    const made = element("button", { type: "button", title, "data-action": `${path} ${place.topic}/${place.partition}` }, words);
    made.addEventListener("click", () => act(path, place));
    return made;
  };
  return [
    button("retry now", "retry-now", "Try it again at once"),
    button("give up", "give-up", "Try it once more; if it fails, do what its Retry has as then, such as a dead letter"),
  ];
}

async function act(path, place) {
  const token = sessionStorage.token || prompt("The token that open_dashboard was given:");
  if (!token) return;
  const answer = await fetch(path, { method: "POST", headers: { Authorization: `Bearer ${token}` }, body: JSON.stringify(place) });
  if (answer.status === 403) delete sessionStorage.token;
  else sessionStorage.token = token;
  byId("said").textContent = `${place.topic}/${place.partition}@${place.offset}: ${(await answer.text()).trim()}`;
}

let held = false; // a button is being pressed: the table must not change under it
addEventListener("pointerdown", (event) => { held = event.target.closest("button") !== null; });
addEventListener("pointerup", () => { setTimeout(() => { held = false; }, 50); });

function drawPartitions(it) {
  if (held) return;
  const focused = document.activeElement?.closest("#partitions button")?.dataset.action;
  const words = byId("filter").value.trim().toLowerCase();
  const only = byId("lagging").checked;
  const shown = it.partitions.filter((one) => {
    if (words && !`${one.topic}/${one.partition}`.toLowerCase().includes(words)) return false;
    return !only || one.in_flight > 0 || (one.lag ?? 0) > 0 || one.uncommitted > 0;
  });
  byId("partition-count").textContent = shown.length === it.partitions.length ? count(shown.length) : `${count(shown.length)} of ${count(it.partitions.length)}`;
  const rows = shown.map((one) => {
    const [clear, kind] = clearIn(one);
    return element("tr", { "data-partition": `${one.topic}/${one.partition}` },
      element("th", { scope: "row" }, `${one.topic}/${one.partition}`),
      element("td", { class: "n" }, count(one.lag)),
      element("td", { class: "n" }, one.lag ? duration(one.lag_s) : ""),
      element("td", { class: `n ${kind}` }, clear),
      element("td", { class: "n" }, count(one.unfetched)),
      element("td", { class: "n" }, count(one.in_flight)),
      element("td", { class: "n" }, count(one.uncommitted)),
      element("td", {}, strip(one)),
      element("td", {}, blockerWords(one), ...actionsOf(it, one)));
  });
  byId("partitions").tBodies[0].replaceChildren(...rows);
  // Who goes by keyboard stays where they are.
  if (focused) document.querySelector(`#partitions [data-action="${CSS.escape(focused)}"]`)?.focus();
}

function table(head, rows, none) {
  if (!rows.length) return element("p", { class: "none" }, none);
  const cell = (kind) => (value, i) => element(kind, i ? { class: "n" } : {}, value);
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...head.map(cell("th")))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell("td")))))));
}

function drawRest(it) {
  const lately = it.lately;
  byId("since").textContent = `counted since ${clock(lately.since)}`;
  byId("failures").replaceChildren(table(["What", "Where", "Then", "Times", "Last"],
    lately.failures.map((one) => [one.type, one.stage, one.policy, count(one.count), clock(one.at)]), "None."));
  byId("batches").replaceChildren(table(["Batcher", "Left by", "Batches", "Messages each"],
    it.batchers.flatMap((one) => Object.entries(one.triggers).map(([trigger, [batches, messages]]) => [one.name, trigger, count(batches), (messages / batches).toFixed(1)])),
    it.batchers.length ? "None has left yet." : "There is no batcher."));
  byId("keys").replaceChildren(table(["Key", "Partition", "Waiting"],
    it.hot_keys.map((one) => [one.key, one.place, count(one.waiting)]), "None."));
  const events = lately.events.map((one) => {
    const places = Object.entries(one.places).map(([topic, number]) => `${number} of ${topic}`).join(", ");
    const more = [one.detail, one.unfinished ? `${one.unfinished} messages cut off` : "", one.seconds >= 0.05 ? `took ${duration(one.seconds)}` : ""].filter(Boolean);
    const kind = one.kind === "lost" || one.kind === "commit failed" ? "bad" : "";
    return element("li", {}, element("time", {}, clock(one.at)), element("span", { class: kind }, one.kind), ` ${places}${more.length ? ` (${more.join("; ")})` : ""}`);
  });
  byId("events").replaceChildren(...(events.length ? events : [element("li", { class: "none" }, `Nothing since ${clock(lately.since)}.`)]));
}

function draw(it) {
  drawHead(it);
  drawFigures(it);
  drawStages(it);
  drawPartitions(it);
  drawRest(it);
  drawCharts();
}

function pointOf(it) {
  return {
    at: it.at, received: it.counts.received, succeeded: it.counts.succeeded, failed: it.counts.failed,
    p50: it.end_to_end?.p50 ?? null, p99: it.end_to_end?.p99 ?? null,
    stages: Object.fromEntries(it.stages.map((one) => [one.name, [one.busy_s, one.idle_s, one.backpressured_s]])),
  };
}

// The stream. It reconnects by itself; what is shown meanwhile is said to be old.

function gone(words) {
  byId("gone").hidden = false;
  byId("gone").textContent = words;
  document.querySelector("main").classList.add("stale");
}

function connect() {
  const stream = new EventSource("events");
  stream.addEventListener("history", (event) => {
    points = JSON.parse(event.data);
  });
  stream.addEventListener("snapshot", (event) => {
    last = JSON.parse(event.data);
    arrived = Date.now();
    byId("gone").hidden = true;
    document.querySelector("main").classList.remove("stale");
    if (!points.length || last.at > points[points.length - 1].at) points.push(pointOf(last));
    points = points.slice(-POINTS);
    noteLags(last);
    draw(last);
  });
  stream.addEventListener("error", () => {
    gone(arrived ? `The pipeline is gone: it ended, or does not answer. This is how it was at ${new Date(arrived).toLocaleTimeString()}. Connecting again …` : "The pipeline does not answer. Connecting again …");
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  });
}

setInterval(() => {
  if (arrived && Date.now() - arrived > 5000 && byId("gone").hidden) gone(`Nothing has been heard for ${duration((Date.now() - arrived) / 1000)}: is the program's loop blocked?`);
}, 1000);

byId("filter").addEventListener("input", () => last && drawPartitions(last));
byId("lagging").addEventListener("change", () => last && drawPartitions(last));
addEventListener("resize", () => {
  for (const [id, one] of Object.entries(charts ?? {})) one.setSize({ width: byId(id).clientWidth, height: 160 });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", makeCharts);
makeCharts();
connect();
