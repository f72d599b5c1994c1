// Sorts a table by the column of the pressed button: numbers with units, times, then text.
const units = { k: 1e3, M: 1e6, G: 1e9 };
function key(text) {
  const clock = /^\d+(:\d\d)+$/.exec(text);
  if (clock) return text.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
  const found = /^([+−-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?:\s([kMG])\b)?/.exec(text);
  if (!found) return text === "" || text === "–" ? null : text;
  return Number(found[1].replaceAll(",", "").replace("−", "-")) * (units[found[2]] || 1);
}
function before(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const column = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[column].textContent.trim()), row]);
    const known = rows.filter((pair) => pair[0] !== null);
    const empty = rows.filter((pair) => pair[0] === null);
    known.sort((x, y) => (down ? -1 : 1) * before(x[0], y[0]));
    body.append(...[...known, ...empty].map((pair) => pair[1]));
  });
}
