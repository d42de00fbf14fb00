// The page's behaviour: one video at a time goes to the server, and what it says of it is drawn as it comes.
"use strict";

const TOP = 5;
const SVG = "http://www.w3.org/2000/svg";
// As in the report: appearance is round, motion a triangle, fusion a diamond, further streams squares.
const MARKS = {
  rgb: "M0 5a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
  flow: "M5 0l5.5 10h-11z",
  fusion: "M5-1l6 6l-6 6l-6-6z",
};
const SQUARE = "M1 1h8v8h-8z";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share >= 0.1 || share < 0.0005 ? 0 : 1)} %`;
const seconds = (time) => `${time.toFixed(time < 100 ? 1 : 0)} s`;
const span = (time) => (time >= 120 && time % 60 === 0 ? `${time / 60} minutes` : `${time} seconds`);

let model = null; // what the server knows: classes, opinions, limits
let job = null; // the video in hand, until its results give way to the next
let shown = { windows: [], overall: null, length: 0, current: -1, cursors: [] };

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function mark(token) {
  const path = drawing("path", { d: MARKS[token] ?? SQUARE });
  return drawing("svg", { class: "mark", viewBox: "-1 -1 12 12", "aria-hidden": "true" }, path);
}

function ranked(probabilities) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  return order.slice(0, TOP);
}

// --- sending a video ---------------------------------------------------------------------------------------------

function ask(file) {
  if (at("ask").disabled) return;
  clear();
  if (file.size > model.max_bytes) {
    fail(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; this page takes up to ${model.max_bytes / 1e6} MB.`);
    return;
  }
  const mine = (job = { name: file.name, id: null, request: new XMLHttpRequest(), events: null });
  working(`Sending ${file.name} …`);
  const { request } = mine; // not fetch(), which does not tell how much is sent
  request.upload.onprogress = (event) => event.lengthComputable && advance(event.loaded / event.total);
  request.onerror = () => job === mine && fail("The server did not take the file. Is `twostream serve` still running?");
  request.onload = () => {
    if (job !== mine) return;
    const answer = parsed(request.responseText);
    if (request.status === 201) follow(mine, answer.id);
    else fail(answer.error ?? `The server refused the file (${request.status}).`);
  };
  request.open("POST", `/jobs?every=${encodeURIComponent(at("every").value)}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(file);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

function follow(mine, id) {
  mine.id = id;
  mine.events = new EventSource(`/jobs/${id}/events`);
  mine.events.addEventListener("window", (event) => {
    shown.windows.push(JSON.parse(event.data));
    schedule();
  });
  mine.events.addEventListener("state", (event) => tell(mine, JSON.parse(event.data)));
  mine.events.onerror = () => {
    mine.lost ??= setTimeout(() => job === mine && fail("The connection to the server is lost."), 8000);
  };
  mine.events.onopen = () => {
    clearTimeout(mine.lost);
    mine.lost = undefined;
  };
}

function tell(mine, now) {
  if (now.state === "waiting") {
    const before = ["no video is", "one video is"][now.ahead] ?? `${now.ahead} videos are`;
    working(`Waiting: ${before} before yours.`);
  } else if (now.state === "reading") {
    working("Reading the video …");
  } else if (now.state === "running") {
    working(`Judging ${mine.name} …`);
    advance(now.progress);
  } else if (now.state === "failed") {
    fail(now.message);
  } else if (now.state === "done") {
    finish(mine, now.result);
  }
}

async function finish(mine, result) {
  mine.events.close();
  shown.overall = result.overall;
  shown.length = result.seconds;
  at("warning").textContent = result.warning;
  at("warning").hidden = !result.warning;
  const film = await fetched(`/jobs/${mine.id}/video`);
  if (job !== mine) return;
  if (film) {
    mine.film = URL.createObjectURL(film);
    at("video").src = mine.film;
    at("film").hidden = false;
    at("time").max = result.seconds;
    at("scale").textContent = `Full colour: ${result.full_colour_px.toFixed(1)} pixels from one frame to the next.`;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) at("video").play().catch(() => {});
  }
  forget(mine.id); // the page has all of it; the server need keep nothing
  draw();
  const sure = ranked(result.overall.fusion)[0];
  idle(`Done: ${model.classes[sure]}, ${percent(result.overall.fusion[sure])}.`, at("verdict"));
}

async function fetched(address) {
  try {
    const answer = await fetch(address);
    return answer.ok ? await answer.blob() : null;
  } catch {
    return null; // the server has gone; what it has said is shown all the same
  }
}

function forget(id) {
  fetch(`/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

// --- what is said about the work ---------------------------------------------------------------------------------

function working(words) {
  at("problem").hidden = true;
  for (const id of ["job", "cancel", "progress"]) at(id).hidden = false;
  if (at("said").textContent !== words) at("said").textContent = words; // or a screen reader would say it again
  const asked = at("form").contains(document.activeElement);
  at("ask").disabled = true;
  if (asked) at("cancel").focus();
  at("progress").removeAttribute("value");
}

function advance(share) {
  at("progress").value = share;
}

// The focus goes from what vanishes to `next`, or a keyboard would have to start from the top of the page.
function idle(words, next) {
  at("ask").disabled = false;
  at("file").value = "";
  at("said").textContent = words;
  if (document.activeElement === at("cancel")) next.focus();
  for (const id of ["cancel", "progress"]) at(id).hidden = true;
}

function fail(words) {
  job?.events?.close();
  at("problem").textContent = words;
  at("problem").hidden = false;
  idle("", at("problem"));
  at("job").hidden = true;
}

function cancel() {
  const { id, request, events } = job;
  events?.close();
  request.abort();
  if (id) forget(id);
  clear();
  idle("Cancelled.", at("file"));
}

function clear() {
  if (job?.film) URL.revokeObjectURL(job.film);
  job = null;
  shown = { windows: [], overall: null, length: 0, current: -1, cursors: [] };
  at("video").removeAttribute("src");
  at("video").load();
  for (const id of ["results", "film", "problem", "warning"]) at(id).hidden = true;
}

// --- the results -------------------------------------------------------------------------------------------------

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  const { windows } = shown;
  if (!windows.length) return;
  const overall = shown.overall ?? means(windows);
  shown.length = Math.max(shown.length, windows.at(-1).end);
  at("results").hidden = false;
  at("verdict").textContent = model.classes[ranked(overall.fusion)[0]];
  at("name").textContent = job.name;
  at("tiles").replaceChildren(...model.opinions.map((one) => tile(one, overall[one.name])));
  at("hint").textContent =
    windows.length === 1
      ? "The video was judged as one piece; a shorter window above shows how the opinions change."
      : "The height is the probability of a class in each window; a click goes there.";
  shown.cursors = [];
  at("strips").replaceChildren(...model.opinions.map((one) => strip(one, overall[one.name])));
  numbers();
  shown.current = -1;
  followTime();
}

function means(windows) {
  return Object.fromEntries(
    model.opinions.map(({ name }) => [
      name,
      model.classes.map((_, place) => windows.reduce((sum, one) => sum + one.opinions[name][place], 0) / windows.length),
    ]),
  );
}

function tile(one, probabilities) {
  const best = ranked(probabilities)[0];
  const parts = [["small", one.label], ["b", model.classes[best]], ["small", percent(probabilities[best])]];
  return element("div", { className: `b-${one.token}` }, ...parts.map(([tag, text]) => element(tag, { textContent: text })));
}

function heading(one) {
  return element("h4", {}, mark(one.token), one.label);
}

function card(one, probabilities) {
  const items = ranked(probabilities).map((place) => {
    const bar = element("i");
    bar.style.width = `${100 * probabilities[place]}%`;
    return element(
      "li",
      {},
      element("span", { textContent: model.classes[place], title: model.classes[place] }),
      element("span", { textContent: percent(probabilities[place]) }),
      element("span", { className: "bar", ariaHidden: "true" }, bar),
    );
  });
  return element("div", { className: `b-${one.token}` }, heading(one), element("ol", {}, ...items));
}

function strip(one, overall) {
  const rows = ranked(overall).map((place) => row(one, place, overall[place]));
  const ends = element("span", { className: "axis" });
  ends.append(element("span", { textContent: "0 s" }), element("span", { textContent: seconds(shown.length) }));
  const axis = element("div", { className: "row axis-row", ariaHidden: "true" }, element("span", { className: "what" }), ends);
  return element("div", { className: `b-${one.token}` }, heading(one), ...rows, axis);
}

function row(one, place, mean) {
  const scale = 1000 / shown.length;
  const values = shown.windows.map(({ opinions }) => opinions[one.name][place]);
  const steps = shown.windows.map(
    ({ start, end }, index) => `M${start * scale} 100V${100 - 100 * values[index]}H${end * scale}V100z`,
  );
  const highest = Math.max(...values);
  const peak = shown.windows[values.indexOf(highest)];
  const said = `${one.label}, ${model.classes[place]}: ${percent(mean)} on average, at most ${percent(highest)} from ${seconds(peak.start)} to ${seconds(peak.end)}`;
  const cursor = drawing("path", { class: "cursor", d: "M0 0V100", "vector-effect": "non-scaling-stroke" });
  const area = drawing("path", { class: "area", d: steps.join("") });
  const box = { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": said };
  shown.cursors.push(cursor);
  return element(
    "div",
    { className: "row" },
    element("span", { className: "what", textContent: model.classes[place], title: model.classes[place] }),
    drawing("svg", box, area, cursor),
    element("span", { className: "value", textContent: percent(mean) }),
  );
}

function numbers() {
  const titles = ["From", "To", ...model.opinions.map((one) => one.label)];
  at("head").replaceChildren(
    element("tr", {}, ...titles.map((title) => element("th", { scope: "col", textContent: title }))),
  );
  at("rows").replaceChildren(
    ...shown.windows.map(({ start, end, opinions }) => {
      const first = model.opinions.map(({ name }) => {
        const best = ranked(opinions[name])[0];
        return element("td", { textContent: `${model.classes[best]} ${percent(opinions[name][best])}` });
      });
      return element(
        "tr",
        {},
        element("th", { scope: "row", textContent: seconds(start) }),
        element("td", { textContent: seconds(end) }),
        ...first,
      );
    }),
  );
}

// --- time --------------------------------------------------------------------------------------------------------

function followTime() {
  const { windows, length, cursors } = shown;
  if (!windows.length) return;
  const film = !at("film").hidden;
  const time = film ? Math.min(at("video").currentTime, length) : windows.at(-1).start;
  for (const cursor of cursors) cursor.setAttribute("d", film ? `M${(1000 * time) / length} 0V100` : "");
  at("time").value = time;
  at("time").setAttribute("aria-valuetext", seconds(time));
  at("clock").textContent = `${seconds(time)} of ${seconds(length)}`;
  const current = Math.max(windows.findLastIndex(({ start }) => start <= time), 0);
  if (current === shown.current) return;
  shown.current = current;
  const { start, end, opinions } = windows[current];
  at("moment").textContent = `Now: ${seconds(start)} to ${seconds(end)}`;
  at("now").replaceChildren(...model.opinions.map((one) => card(one, opinions[one.name])));
}

function tick() {
  followTime();
  if (!at("video").paused) requestAnimationFrame(tick);
}

function toggle() {
  if (at("video").paused) at("video").play().catch(() => {});
  else at("video").pause();
}

function jump(event) {
  const chart = event.target.closest(".row svg");
  if (!chart || at("film").hidden || !(event.buttons & 1)) return;
  const { left, width } = chart.getBoundingClientRect();
  at("video").currentTime = Math.min(Math.max((event.clientX - left) / width, 0), 1) * shown.length;
}

// --- start -------------------------------------------------------------------------------------------------------

function listen() {
  at("form").addEventListener("submit", (event) => event.preventDefault());
  at("file").addEventListener("change", () => at("file").files.length && ask(at("file").files[0]));
  at("cancel").addEventListener("click", cancel);
  // Anywhere on the page: a video that misses the field would otherwise replace the page.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  addEventListener("dragleave", () => at("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    if (event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
  at("play").addEventListener("click", toggle);
  at("video").addEventListener("click", toggle);
  at("video").addEventListener("play", tick);
  for (const kind of ["play", "pause", "emptied"])
    at("video").addEventListener(kind, () => (at("play").textContent = at("video").paused ? "Play" : "Pause"));
  at("time").addEventListener("input", () => (at("video").currentTime = at("time").value));
  for (const kind of ["seeked", "timeupdate", "loadeddata"]) at("video").addEventListener(kind, followTime);
  for (const kind of ["pointerdown", "pointermove"]) at("strips").addEventListener(kind, jump);
}

async function start() {
  listen();
  const answer = await fetch("/model");
  model = await answer.json();
  at("limits").textContent = `Up to ${model.max_bytes / 1e6} MB and ${span(model.max_seconds)}.`;
  at("classes").textContent = `${model.classes.length} classes: ${model.classes.join(", ")}.`;
  at("ask").disabled = false;
}

start();
