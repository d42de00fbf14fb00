// The page: send one video at a time to the server and draw its predictions as they arrive.
"use strict";

const TOP = 5;
const SVG = "http://www.w3.org/2000/svg";
// As in the report: appearance is a circle, motion a triangle, fusion a diamond, further streams squares.
const MARKS = {
  rgb: "M0 5a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
  flow: "M5 0l5.5 10h-11z",
  fusion: "M5-1l6 6l-6 6l-6-6z",
};
const SQUARE = "M1 1h8v8h-8z";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share >= 0.1 || share < 0.0005 ? 0 : 1)} %`;
const seconds = (time) => `${time.toFixed(time < 100 ? 1 : 0)} s`;
const megabytes = (bytes) => `${+(bytes / 1e6).toFixed(1)} MB`;

let model = null; // from the server: classes, sources (the streams and the fusion), limits
let job = null; // the video that is sent, predicted or shown
let shown = { windows: [], overall: null, length: 0, current: -1, cursors: [] };
let truth = []; // events of a file that the visitor chose

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function text(name, content, className = "") {
  return element(name, { textContent: content, className });
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function ranked(probabilities) {
  return [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, TOP);
}

// --- sending a video ---------------------------------------------------------------------------------------------

function send(file) {
  if (at("upload").disabled) return;
  clear();
  if (file.size > model.max_bytes) {
    fail(`${file.name} has ${megabytes(file.size)}; this page takes up to ${megabytes(model.max_bytes)}.`);
    return;
  }
  const mine = (job = { name: file.name, id: null, request: new XMLHttpRequest(), events: null });
  working(`Sending ${file.name} …`);
  const { request } = mine; // not fetch(), which does not report the progress of an upload
  request.upload.onprogress = (event) => event.lengthComputable && advance(event.loaded / event.total);
  request.onerror = () => job === mine && fail("The server did not take the file. Is `twostream serve` still running?");
  request.onload = () => {
    if (job !== mine) return;
    if (request.status === 201) follow(mine, JSON.parse(request.responseText).id);
    else fail(refusal(request));
  };
  request.open("POST", `/jobs?every=${encodeURIComponent(at("every").value)}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(file);
}

function refusal(request) {
  try {
    return JSON.parse(request.responseText).error;
  } catch {
    return `The server refused the file (${request.status}).`;
  }
}

function follow(mine, id) {
  mine.id = id;
  mine.events = new EventSource(`/jobs/${id}/events`);
  mine.events.addEventListener("window", (event) => {
    shown.windows.push(JSON.parse(event.data));
    schedule();
  });
  mine.events.addEventListener("state", (event) => showState(mine, JSON.parse(event.data)));
  mine.events.onerror = () => {
    mine.lost ??= setTimeout(() => job === mine && fail("The connection to the server is lost."), 8000);
  };
  mine.events.onopen = () => {
    clearTimeout(mine.lost);
    mine.lost = undefined;
  };
}

function showState(mine, now) {
  if (now.state === "waiting") {
    const before = ["no video is", "one video is"][now.ahead] ?? `${now.ahead} videos are`;
    working(`Waiting: ${before} before yours.`);
  } else if (now.state === "reading") {
    working("Reading the video …");
  } else if (now.state === "running") {
    working(`Predicting ${mine.name} …`);
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
  shown.events = result.events;
  at("warning").textContent = result.warning;
  at("warning").hidden = !result.warning;
  const video = await fetchVideo(mine.id);
  if (job !== mine) return;
  if (video) {
    mine.video = URL.createObjectURL(video);
    at("video").src = mine.video;
    at("playback").hidden = false;
    at("time").max = result.seconds;
    at("scale").textContent = `Full colour: ${result.full_colour_px.toFixed(1)} pixels from one frame to the next.`;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) at("video").play().catch(() => {});
  }
  forget(mine.id); // the page has everything; the server can delete it
  draw();
  const best = ranked(result.overall.fusion)[0];
  idle(`Done: ${model.classes[best]}, ${percent(result.overall.fusion[best])}.`, at("verdict"));
}

async function fetchVideo(id) {
  try {
    const answer = await fetch(`/jobs/${id}/video`);
    return answer.ok ? await answer.blob() : null;
  } catch {
    return null; // the server has ended; the predictions are here already
  }
}

function forget(id) {
  fetch(`/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

// --- progress and problems ---------------------------------------------------------------------------------------

function working(words) {
  at("problem").hidden = true;
  for (const id of ["job", "cancel", "progress"]) at(id).hidden = false;
  if (at("status").textContent !== words) at("status").textContent = words; // or screen readers would repeat it
  const focused = at("form").contains(document.activeElement);
  at("upload").disabled = true;
  if (focused) at("cancel").focus();
  at("progress").removeAttribute("value");
}

function advance(share) {
  at("progress").value = share;
}

// Move the focus from the button that disappears to `next`: otherwise a keyboard starts from the top of the page.
function idle(words, next) {
  at("upload").disabled = false;
  at("file").value = "";
  at("status").textContent = words;
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
  if (job?.video) URL.revokeObjectURL(job.video);
  job = null;
  shown = { windows: [], overall: null, length: 0, current: -1, cursors: [] };
  [truth, at("truth").value] = [[], ""];
  at("video").removeAttribute("src");
  at("video").load();
  for (const id of ["results", "playback", "problem", "warning"]) at(id).hidden = true;
}

// --- results -----------------------------------------------------------------------------------------------------

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
  at("tiles").replaceChildren(...model.sources.map((source) => tile(source, overall[source.name])));
  at("hint").textContent =
    windows.length === 1
      ? "The video is one window; choose shorter windows to see how the predictions change."
      : "The height is the probability of a class in each window; click to go there.";
  shown.cursors = [];
  at("charts").replaceChildren(...model.sources.map((source) => chart(source, overall[source.name])));
  fillTable();
  drawEvents();
  shown.current = -1;
  followTime();
}

function means(windows) {
  const mean = (name, index) => windows.reduce((sum, each) => sum + each.probabilities[name][index], 0) / windows.length;
  return Object.fromEntries(model.sources.map(({ name }) => [name, model.classes.map((_, index) => mean(name, index))]));
}

function tile({ token, label }, probabilities) {
  const best = ranked(probabilities)[0];
  const parts = [text("small", label), text("b", model.classes[best]), text("small", percent(probabilities[best]))];
  return element("div", { className: `b-${token}` }, ...parts);
}

function heading({ token, label }) {
  const mark = drawing("path", { d: MARKS[token] ?? SQUARE });
  return element("h4", {}, drawing("svg", { class: "mark", viewBox: "-1 -1 12 12", "aria-hidden": "true" }, mark), label);
}

function className(index, css = "") {
  return element("span", { textContent: model.classes[index], title: model.classes[index], className: css });
}

function card(source, probabilities) {
  const items = ranked(probabilities).map((index) => {
    const bar = element("i");
    bar.style.width = `${100 * probabilities[index]}%`;
    const value = text("span", percent(probabilities[index]));
    return element("li", {}, className(index), value, element("span", { className: "bar", ariaHidden: "true" }, bar));
  });
  return element("div", { className: `b-${source.token}` }, heading(source), element("ol", {}, ...items));
}

function chart(source, overall) {
  const rows = ranked(overall).map((index) => row(source, index, overall[index]));
  const ends = element("span", { className: "axis" }, text("span", "0 s"), text("span", seconds(shown.length)));
  const axis = element("div", { className: "row", ariaHidden: "true" }, text("span", "", "what"), ends);
  return element("div", { className: `b-${source.token}` }, heading(source), ...rows, axis);
}

function row({ name, label }, index, mean) {
  const scale = 1000 / shown.length;
  const values = shown.windows.map(({ probabilities }) => probabilities[name][index]);
  const steps = shown.windows.map(
    ({ start, end }, number) => `M${start * scale} 100V${100 - 100 * values[number]}H${end * scale}V100z`,
  );
  const highest = Math.max(...values);
  const peak = shown.windows[values.indexOf(highest)];
  const words = `${label}, ${model.classes[index]}: ${percent(mean)} on average, at most ${percent(highest)} from ${seconds(peak.start)} to ${seconds(peak.end)}`;
  const cursor = drawing("path", { class: "cursor", d: "M0 0V100", "vector-effect": "non-scaling-stroke" });
  const area = drawing("path", { class: "area", d: steps.join("") });
  const box = { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": words };
  shown.cursors.push(cursor);
  const parts = [className(index, "what"), drawing("svg", box, area, cursor), text("span", percent(mean), "value")];
  return element("div", { className: "row" }, ...parts);
}

// --- events: the truth above the prediction ----------------------------------------------------------------------

function drawEvents() {
  at("timeline").hidden = shown.windows.length < 2 || !shown.events;
  if (at("timeline").hidden) return;
  const rows = [track("Prediction", shown.events, "fusion")];
  if (truth.length) rows.unshift(track("Truth", truth, "rgb"));
  at("events").replaceChildren(...rows);
}

function track(name, events, token) {
  const bars = events.map(({ start, end, class: label, confidence }) => {
    const words = confidence === undefined ? label : `${label} ${percent(confidence)}`;
    const bar = element("i", { textContent: words, title: `${words}, ${seconds(start)} to ${seconds(end)}` });
    bar.style.left = `${(100 * start) / shown.length}%`;
    bar.style.width = `${(100 * (end - start)) / shown.length}%`;
    return bar;
  });
  const count = text("span", String(events.length), "value");
  const row = element("div", { className: "row" }, text("span", name, "what"), element("div", { className: "track" }, ...bars), count);
  return element("div", { className: `b-${token}` }, row);
}

async function readTruth() {
  const [file] = at("truth").files;
  const content = file ? await file.text() : "";
  truth = content.startsWith("WEBVTT") ? fromSubtitles(content) : fromTable(content);
  drawEvents();
}

function fromSubtitles(content) {
  const time = (words) => words.split(":").reduce((sum, part) => 60 * sum + Number(part.replace(",", ".")), 0);
  return [...content.matchAll(/^([\d:.,]+) --> ([\d:.,]+).*\n(.*)/gm)].map(([, start, end, label]) => ({
    start: time(start),
    end: time(end),
    class: label,
  }));
}

function fromTable(content) {
  const [head, ...lines] = content.trim().split(/\r?\n/).map((line) => line.split(/[,;\t]/));
  const column = (...names) => head.findIndex((name) => names.includes(name.trim().toLowerCase()));
  const [start, end, label] = [column("start"), column("end"), column("label", "class")];
  const rows = lines.map((cells) => ({ start: Number(cells[start]), end: Number(cells[end]), class: cells[label] ?? "" }));
  return rows.filter((row) => row.start >= 0 && row.end > row.start);
}

function fillTable() {
  const header = (words, scope) => element("th", { scope, textContent: words });
  const titles = ["From", "To", ...model.sources.map(({ label }) => label)];
  at("head").replaceChildren(element("tr", {}, ...titles.map((title) => header(title, "col"))));
  at("rows").replaceChildren(
    ...shown.windows.map(({ start, end, probabilities }) => {
      const best = model.sources.map(({ name }) => {
        const index = ranked(probabilities[name])[0];
        return text("td", `${model.classes[index]} ${percent(probabilities[name][index])}`);
      });
      return element("tr", {}, header(seconds(start), "row"), text("td", seconds(end)), ...best);
    }),
  );
}

// --- time --------------------------------------------------------------------------------------------------------

function followTime() {
  const { windows, length, cursors } = shown;
  if (!windows.length) return;
  const plays = !at("playback").hidden;
  const time = plays ? Math.min(at("video").currentTime, length) : windows.at(-1).start;
  for (const cursor of cursors) cursor.setAttribute("d", plays ? `M${(1000 * time) / length} 0V100` : "");
  at("time").value = time;
  at("time").setAttribute("aria-valuetext", seconds(time));
  at("clock").textContent = `${seconds(time)} of ${seconds(length)}`;
  const current = Math.max(windows.findLastIndex(({ start }) => start <= time), 0);
  if (current === shown.current) return;
  shown.current = current;
  const { start, end, probabilities } = windows[current];
  at("moment").textContent = `Now: ${seconds(start)} to ${seconds(end)}`;
  at("now").replaceChildren(...model.sources.map((source) => card(source, probabilities[source.name])));
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
  const clicked = event.target.closest(".row svg");
  if (!clicked || at("playback").hidden || !(event.buttons & 1)) return;
  const { left, width } = clicked.getBoundingClientRect();
  at("video").currentTime = Math.min(Math.max((event.clientX - left) / width, 0), 1) * shown.length;
}

// --- start -------------------------------------------------------------------------------------------------------

function listen() {
  at("form").addEventListener("submit", (event) => event.preventDefault());
  at("file").addEventListener("change", () => at("file").files.length && send(at("file").files[0]));
  at("cancel").addEventListener("click", cancel);
  at("truth").addEventListener("change", readTruth);
  // On the whole page: a browser opens a video that is dropped beside the field.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  addEventListener("dragleave", () => at("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
  at("play").addEventListener("click", toggle);
  at("video").addEventListener("click", toggle);
  at("video").addEventListener("play", tick);
  for (const kind of ["play", "pause", "emptied"])
    at("video").addEventListener(kind, () => (at("play").textContent = at("video").paused ? "Play" : "Pause"));
  at("time").addEventListener("input", () => (at("video").currentTime = at("time").value));
  for (const kind of ["seeked", "timeupdate", "loadeddata"]) at("video").addEventListener(kind, followTime);
  for (const kind of ["pointerdown", "pointermove"]) at("charts").addEventListener(kind, jump);
}

async function start() {
  listen();
  model = await (await fetch("/model")).json();
  at("limits").textContent = `Up to ${megabytes(model.max_bytes)} and ${model.max_seconds} seconds.`;
  at("classes").textContent = `${model.classes.length} classes: ${model.classes.join(", ")}.`;
  at("upload").disabled = false;
}

start();
