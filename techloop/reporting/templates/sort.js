// Sorts rows by a column: numbers before words, missing values last in either direction.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".sortable th button");
  if (!button) return;
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
  const missing = (row) => key(row) === "–";
  const compare = (a, b) => missing(a) - missing(b) || direction * (Number(key(a)) - Number(key(b)) || key(a).localeCompare(key(b), "en", { numeric: true }));
  body.append(...[...body.rows].sort(compare));
});
