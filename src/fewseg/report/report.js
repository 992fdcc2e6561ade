// A click on a head sorts by it: numbers from large to small first, text from A to Z; empty cells stay last.
for (const head of document.querySelectorAll("table.sortable th")) {
  head.firstElementChild.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const text = head.classList.contains("text");
    const ascending = head.ariaSort === null ? text : head.ariaSort !== "ascending";
    const key = (row) => row.cells[head.cellIndex].dataset.sort;
    const compare = (a, b) => (text ? a.localeCompare(b) : a - b) * (ascending ? 1 : -1);
    const rows = [...body.rows].sort((a, b) =>
      key(a) === "" || key(b) === "" ? (key(a) === "") - (key(b) === "") : compare(key(a), key(b)));
    for (const other of head.parentElement.cells) other.ariaSort = null;
    head.ariaSort = ascending ? "ascending" : "descending";
    body.append(...rows);
  });
}
