// Tables are sorted by their heads; charts show values at the pointer and by arrow keys, and highlight a series of the legend.
"use strict";

for (const table of document.querySelectorAll("table.sort")) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.parentElement, column = head.cellIndex, number = head.classList.contains("n");
    const was = head.getAttribute("aria-sort");
    const up = was ? was === "descending" : !number;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const text = row.cells[column].textContent.trim();
      if (!number) return text;
      const value = parseFloat(text.replace("\u2212", "-"));
      return Number.isNaN(value) ? null : value;
    };
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return (number ? a - b : a.localeCompare(b, undefined, {numeric: true})) * (up ? 1 : -1);
    };
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    table.tBodies[0].append(...rows.map((pair) => pair[1]));
  });
}

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status"); // a screen reader announces the tooltip of an arrow key
document.body.append(tip);
let shownBy = null; // the chart of the tooltip
let pointer = {}; // its last position

function show(chart, text, x, y) {
  if (tip.textContent !== text) tip.textContent = text;
  shownBy = chart;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(x - tip.offsetWidth / 2, room))}px`;
  const above = y - tip.offsetHeight - 14;
  tip.style.top = `${above > 4 ? above : y + 22}px`;
}

function hide() {
  if (!shownBy) return;
  shownBy.leave();
  shownBy = null;
  tip.textContent = "";
}

addEventListener("scroll", hide, {capture: true, passive: true});
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("pointerdown", (event) => { if (!event.target.closest?.(".live")) hide(); });

// The positions of a chart, in order: areas of one row or one x, or the cells of a matrix.
function rowsOf(svg) {
  const areas = [...svg.querySelectorAll(".hit")];
  return {
    count: areas.length,
    columns: 1,
    at: (event) => areas.indexOf(event.target),
    text: (place) => areas[place].dataset.tip,
    mark: (place) => areas[place].classList.add("at"),
    clear: () => areas.forEach((area) => area.classList.remove("at")),
    box: (place) => areas[place].getBoundingClientRect(),
  };
}

function cellsOf(svg) {
  const [left, top, cell] = svg.dataset.grid.split(" ").map(Number);
  const rows = [...svg.querySelectorAll("[data-row]")], columns = [...svg.querySelectorAll("[data-column]")];
  const tips = new Map([...svg.querySelectorAll("[data-at]")].map((rect) => [rect.dataset.at, rect.dataset.tip]));
  const side = rows.length;
  const bands = [0, 1].map(() => {
    const band = document.createElementNS(svg.namespaceURI, "rect");
    band.setAttribute("class", "cross");
    return band;
  });
  const place = (band, x, y, width, height) =>
    Object.entries({x, y, width, height}).forEach(([name, value]) => band.setAttribute(name, value));
  const parts = (at) => [Math.floor(at / side), at % side];
  return {
    count: side * side,
    columns: side,
    at: (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const [row, column] = [Math.floor((point.y - top) / cell), Math.floor((point.x - left) / cell)];
      return Math.min(row, column) < 0 || Math.max(row, column) >= side ? -1 : row * side + column;
    },
    text: (at) => {
      const [row, column] = parts(at);
      return tips.get(`${row} ${column}`) ?? `${rows[row].dataset.tip} → ${columns[column].dataset.tip}: none`;
    },
    mark: (at) => {
      const [row, column] = parts(at);
      rows[row].classList.add("at");
      columns[column].classList.add("at");
      place(bands[0], left, top + row * cell, side * cell, cell);
      place(bands[1], left + column * cell, top, cell, side * cell);
      svg.append(...bands);
    },
    clear: () => {
      [...rows, ...columns].forEach((label) => label.classList.remove("at"));
      bands.forEach((band) => band.remove());
    },
    box: (at) => {
      const [row, column] = parts(at);
      const corner = new DOMPoint(left + (column + 0.5) * cell, top + row * cell).matrixTransform(svg.getScreenCTM());
      return {left: corner.x, top: corner.y, width: 0, height: 0};
    },
  };
}

for (const svg of document.querySelectorAll("svg.chart")) {
  for (const title of svg.querySelectorAll("title")) {
    title.parentElement.dataset.tip = title.textContent;
    title.remove(); // otherwise the browser's own tooltip would cover ours
  }
  const places = svg.dataset.grid ? cellsOf(svg) : rowsOf(svg);
  const leave = () => places.clear();
  const chart = {leave};
  let current = -1;

  const go = (place, x, y) => {
    if (shownBy && shownBy !== chart) hide();
    places.clear();
    current = place;
    places.mark(place);
    show(chart, places.text(place), x, y);
  };
  const point = (event) => {
    // Ignore a move of the page under a resting pointer: an arrow key may have scrolled it.
    if (event.type === "pointermove" && event.clientX === pointer.x && event.clientY === pointer.y) return;
    pointer = {x: event.clientX, y: event.clientY};
    const place = places.at(event);
    const label = event.target.closest("[data-tip]");
    if (place >= 0) go(place, event.clientX, event.clientY);
    else if (label) { places.clear(); show(chart, label.dataset.tip, event.clientX, event.clientY); }
    else hide();
  };
  svg.classList.add("live");
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });

  if (places.count) {
    svg.tabIndex = 0;
    const region = svg.closest(".scroll");
    if (region) region.removeAttribute("tabindex"); // one stop of the tab key per chart
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.target !== svg) return;
      const steps = {ArrowUp: -places.columns, ArrowDown: places.columns, ArrowLeft: -1, ArrowRight: 1};
      let place = 0;
      if (event.key in steps) place = current < 0 ? 0 : current + steps[event.key];
      else if (event.key === "End") place = places.count - 1;
      else if (event.key !== "Home") return;
      event.preventDefault();
      current = place = Math.max(0, Math.min(place, places.count - 1)); // at once: the next key may come before the tooltip
      // If the position is out of sight, scroll the page or the chart's region first; the tooltip follows.
      const far = places.box(place);
      if (region) region.scrollLeft += clear(far.left, 40, region.getBoundingClientRect());
      if (far.top < 60 || far.top + far.height > innerHeight - 20) scrollBy(0, far.top - innerHeight / 2);
      requestAnimationFrame(() => requestAnimationFrame(() => {
        if (current !== place || document.activeElement !== svg) return;
        const box = places.box(place);
        go(place, box.left + box.width / 2, box.top);
      }));
    });
  }

  const keys = [...svg.querySelectorAll(".key")];
  if (keys.length < 2) continue;
  let kept = null; // the series selected by a click; hovering highlights one temporarily
  const pick = (series) => {
    svg.classList.toggle("picked", series !== null);
    for (const part of svg.querySelectorAll("[data-series]")) part.classList.toggle("on", part.dataset.series === series);
  };
  // The parts of an image are hidden from screen readers. Buttons must not be; the other parts stay hidden.
  svg.setAttribute("role", "group");
  for (const part of svg.children) if (!part.matches(".key")) part.setAttribute("aria-hidden", "true");
  for (const key of keys) {
    key.setAttribute("role", "button");
    key.setAttribute("aria-pressed", "false");
    key.setAttribute("tabindex", "0");
    const toggle = () => {
      kept = kept === key.dataset.series ? null : key.dataset.series;
      for (const other of keys) other.setAttribute("aria-pressed", String(other.dataset.series === kept));
      pick(kept);
    };
    key.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") pick(key.dataset.series); });
    key.addEventListener("pointerleave", () => pick(kept));
    key.addEventListener("click", toggle);
    key.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }
}

function clear(x, margin, frame) {
  if (x < frame.left + margin) return x - frame.left - margin;
  return x > frame.right - margin ? x - frame.right + margin : 0;
}
