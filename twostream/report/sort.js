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
