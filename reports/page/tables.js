// Tables that sort by their headers and filter by a text and a state; long ones show a hundred lines at a time.
"use strict";

(() => {
  const LINES = 100;
  const collator = new Intl.Collator("en", { numeric: true });

  // The number that a text begins with ("+1.25", "1,234", "< 0.001", "92.12 (stale)"), or null ("missing", "9-5-5").
  function leading(text) {
    const match = /^[<≈~]?\s*([+\-−]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?![\d.-])/i.exec(text);
    return match ? Number(match[1].replace(/,/g, "").replace("−", "-")) : null;
  }

  class DataTable {
    constructor(table) {
      this.body = table.tBodies[0];
      this.lines = [...this.body.rows].map((row) => ({ row, texts: [...row.cells].map(ownText) }));
      for (const line of this.lines) line.text = line.row.textContent.toLowerCase();
      this.order = this.lines;
      this.limit = LINES;
      this.matches = () => true;
      this.headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
      this.headers.forEach((header, column) => {
        const button = page.node("button", { type: "button", onclick: () => this.sort(column) });
        button.append(...header.childNodes);
        header.append(button);
        header.setAttribute("aria-sort", "none");
      });
      this.more = page.node("button", { type: "button", class: "more", onclick: () => this.show(this.limit + LINES) });
      this.none = page.node("p", { class: "quiet none" }, "No line matches.");
      table.closest(".box").after(this.more, this.none);
      this.show(LINES);
    }

    // Ascending, then descending, then as it was.
    sort(column) {
      const header = this.headers[column];
      const next = { none: "ascending", ascending: "descending", descending: "none" }[header.getAttribute("aria-sort")];
      for (const other of this.headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", next);
      this.order = this.lines;
      if (next !== "none") {
        const sign = next === "ascending" ? 1 : -1;
        const keys = new Map(this.lines.map((line) => [line, leading(line.texts[column])]));
        const numeric = column > 0 && this.lines.some((line) => keys.get(line) !== null);
        this.order = [...this.lines].sort((one, other) => {
          if (!numeric) return sign * collator.compare(one.texts[column], other.texts[column]);
          const [a, b] = [keys.get(one), keys.get(other)];
          // What is no number comes last either way.
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * (a - b);
        });
      }
      this.body.append(...this.order.map((line) => line.row));
      this.show(this.limit);
    }

    filter(matches) {
      this.matches = matches;
      this.show(LINES);
      return this.found;
    }

    show(limit) {
      this.limit = limit;
      this.found = 0;
      for (const line of this.order) {
        const matches = this.matches(line);
        line.row.hidden = !matches || this.found >= limit;
        this.found += matches;
      }
      const left = this.found - limit;
      this.more.hidden = left <= 0;
      this.more.textContent = `Show ${Math.min(left, LINES)} more of ${left.toLocaleString("en")} hidden lines`;
      this.none.hidden = this.found > 0 || !this.lines.length;
    }
  }

  // Of a line's name only the name, not the list of its cells.
  function ownText(cell) {
    return (cell.querySelector("summary") || cell).textContent.trim();
  }

  function filters(section, tables) {
    const total = tables.reduce((sum, table) => sum + table.lines.length, 0);
    if (total < 4) return;
    const states = [...new Set(tables.flatMap((table) => table.lines.map((line) => line.row.dataset.state || "")))].filter(Boolean);
    const input = page.node("input", { type: "search", placeholder: "any text", oninput: apply });
    let state = "";
    const count = page.node("output", { class: "quiet" });
    const bar = page.node(
      "div",
      { class: "controls", role: "search" },
      page.field("Filter", input),
      states.length > 1 && page.select("State", ["all", ...states], 0, (index) => {
        state = index ? states[index - 1] : "";
        apply();
      }) || null,
      count,
    );
    section.prepend(bar);

    function apply() {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const matches = (line) =>
        (!state || line.row.dataset.state === state) && words.every((word) => line.text.includes(word));
      const found = tables.reduce((sum, table) => sum + table.filter(matches), 0);
      count.textContent = words.length || state ? `${found.toLocaleString("en")} of ${total.toLocaleString("en")} lines` : "";
    }
  }

  page.enhance = (root) => {
    const made = new Map([...root.querySelectorAll("table.data")].map((table) => [table, new DataTable(table)]));
    for (const section of root.querySelectorAll(".filtered")) {
      filters(section, [...section.querySelectorAll("table.data")].map((table) => made.get(table)));
    }
  };
  page.enhance(document);
})();
