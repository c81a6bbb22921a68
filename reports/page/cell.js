// The page of one cell: cell.html#ID.
"use strict";

(() => {
  const { node } = page;
  const LONG = 120;
  const WORD = 20;
  const main = document.getElementById("cell");

  async function show() {
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      // What is no encoding names no cell either.
    }
    let cell;
    try {
      // Nothing is loaded by a name that an address alone has.
      if (!(await page.load("ids")).includes(id)) {
        main.replaceChildren(node("h1", {}, "No cell"), node("p", {}, id ? "The study has no cell of this name. " : "The address names none. ", node("a", { href: "index.html#cells" }, "All cells")));
        return;
      }
      cell = await page.load(`cells/${id}`);
    } catch (error) {
      main.replaceChildren(node("h1", {}, id), node("p", { class: "error", role: "alert" }, error.message), node("p", {}, node("a", { href: "index.html#cells" }, "All cells")));
      return;
    }
    document.title = cell.id;
    const curves = [page.cellCurves(cell), page.learned([{ name: cell.id, cell: cell.id, learned: cell.learned }])].filter(Boolean);
    main.replaceChildren(
      node("h1", { class: "cell" }, cell.id),
      node("p", { class: "lead" }, node("span", { class: `state ${cell.state}` }, cell.state + (cell.stale ? ", stale: the engine has changed since" : "")), ` ${cell.role}`, cell.row ? [" of ", node("bdi", {}, cell.row)] : "", cell.start ? [", from ", page.cellLink(cell.start)] : ""),
    );
    if (cell.failure.length) main.append(section("Failure", node("div", { class: "failure" }, facts(cell.failure))));
    if (curves.length) main.append(section("Curves", node("div", { id: "charts" }, curves)));
    main.append(node("div", { class: "facts-grid" }, cell.sections.filter((one) => !one.columns).map((one) => (one.folded ? folded : section)(one.title, facts(one.rows)))));
    for (const one of cell.sections.filter((other) => other.columns)) main.append(section(one.title, table(one)));
    if (cell.log.length) {
      main.append(section(cell.log_whole ? "Log" : `End of the log: its last ${cell.log.length} lines`, node("pre", { class: "box", tabindex: 0, role: "region", "aria-label": "Log" }, cell.log.join("\n"))));
    }
  }

  function section(title, ...children) {
    return node("section", {}, node("h2", {}, title), children);
  }

  function folded(title, ...children) {
    return node("section", {}, node("details", {}, node("summary", {}, node("h2", {}, title)), children));
  }

  function facts(rows) {
    return node("dl", { class: "facts" }, rows.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", { dir: "auto" }, value))));
  }

  function table({ title, columns, rows }) {
    const head = node("thead", {}, node("tr", {}, columns.map((name) => node("th", { scope: "col" }, name))));
    const body = node("tbody", {}, rows.map((row) => node("tr", {}, row.map((value, place) => (place ? node("td", { class: value.length > WORD ? "long" : null }, folding(value)) : node("th", { scope: "row" }, value))))));
    return node("div", { class: "box", tabindex: 0, role: "region", "aria-label": title }, node("table", { class: "data" }, head, body));
  }

  // A list of many names would push everything else aside.
  function folding(value) {
    return value.length > LONG ? node("details", {}, node("summary", {}, `${value.slice(0, LONG / 2)}…`), value) : value;
  }

  // The address already names the cell, and has no room for a place in the page.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  window.addEventListener("hashchange", show);
  show();
})();
