// Folded parts, sorting and filtering of the page's tables. Without it the page is whole: this only adds.
"use strict";

const NUMBER = /^[-+]?\d[\d.]*(?![-\d])/;

// What a cell sorts by: its leading number if the whole column has such, else its text.
function keyOf(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  const number = NUMBER.exec(text);
  if (!numeric) return text;
  return number ? Number(number[0]) : null;
}

function isNumeric(rows, column) {
  const texts = rows.map((row) => row.cells[column].textContent.trim());
  return texts.every((text) => !text || text === "n/a" || NUMBER.test(text));
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);  // what is absent comes last
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

function sort(table, column, header) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const down = header.getAttribute("aria-sort") === "ascending";
  const numeric = isNumeric(rows, column);
  const keyed = rows.map((row) => ({ row, key: keyOf(row, column, numeric) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null || !down) return compare(a.key, b.key);
    return compare(b.key, a.key);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...keyed.map((one) => one.row));
}

// All words must be in a line, in any order.
function filter(table, words, counter) {
  const rows = [...table.tBodies[0].rows];
  let shown = 0;
  for (const row of rows) {
    const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  counter.textContent = words.length ? `${shown} of ${rows.length} lines` : "";
}

for (const box of document.querySelectorAll(".box:not(.matrices *)")) {
  const table = box.querySelector("table");
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, column, header));
  });
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "Filter lines";
  search.setAttribute("aria-label", `Filter lines of ${table.caption.textContent}`);
  const counter = document.createElement("span");
  counter.setAttribute("role", "status");
  search.addEventListener("input", () => {
    filter(table, search.value.toLowerCase().split(/\s+/).filter(Boolean), counter);
  });
  const line = document.createElement("div");
  line.className = "filter";
  line.append(search, counter);
  box.prepend(line);
}

// What a link leads to is unfolded, and on paper everything is.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target) target.scrollIntoView();
}

addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.open = true;
    addEventListener("afterprint", () => { folded.open = false; }, { once: true });
  }
});
