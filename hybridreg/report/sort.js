"use strict";
// A click on a heading sorts its table; another click turns the order around.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sort(table, headings, column));
  });
}

function sort(table, headings, column) {
  const falling = headings[column].getAttribute("aria-sort") === "ascending";
  for (const heading of headings) heading.removeAttribute("aria-sort");
  headings[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row.cells[column]) }));
  rows.sort((a, b) => (falling ? -1 : 1) * compare(a.key, b.key));
  table.tBodies[0].append(...rows.map((each) => each.row));
}

// Numbers come from data-value; cells without one are sorted as texts.
function key(cell) {
  const value = cell.dataset.value;
  return value === undefined ? cell.textContent.trim() : Number(value);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

// ?sort=TABLE,COLUMN in the fragment sorts at once, for links to a ranking: #methods,1
const wanted = /^#(\w+),(\d+)$/.exec(location.hash);
if (wanted) {
  const button = document.querySelectorAll(`#${wanted[1]} table.sortable thead button`)[wanted[2]];
  if (button) button.click();
}
document.documentElement.dataset.state = "ready";
