"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; say(); });
  say();
  const value = (cell) => cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  for (const table of document.querySelectorAll("table.sorts")) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const text = head.textContent;
      const sorter = document.createElement("button");
      sorter.textContent = text;
      head.replaceChildren(sorter);
      let up = false;
      sorter.addEventListener("click", () => {
        up = !up;
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a.cells[column]), value(b.cells[column])];
          const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return up ? order : -order;
        });
        body.append(...rows);
        table.querySelectorAll("thead th").forEach((it) => it.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
    });
  }
})();
