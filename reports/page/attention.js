// The attention weights of one question at one site: decoding, heads, and the map of queries and keys.
"use strict";

(() => {
  // {name, queries, keys, heads, rows, columns, at(head, q, k)}: head -1 is the mean over heads.
  page.decodeSite = ({ site, shape, scale, steps }) => {
    const [heads, rows, columns] = shape;
    const bytes = Uint8Array.from(atob(steps), (character) => character.charCodeAt(0));
    const [stack, index, direction] = site.split(".");
    const [queries, keys] = direction.split("-");
    const one = (head, q, k) => (bytes[(head * rows + q) * columns + k] * scale) / 255;
    const at = (head, q, k) => {
      if (head >= 0) return one(head, q, k);
      let sum = 0;
      for (let other = 0; other < heads; other++) sum += one(other, q, k);
      return sum / heads;
    };
    return { site, stack, layer: Number(index) + 1, queries, keys, heads, rows, columns, at };
  };

  page.greatest = (site, head) => {
    let greatest = 0;
    for (let q = 0; q < site.rows; q++) for (let k = 0; k < site.columns; k++) greatest = Math.max(greatest, site.at(head, q, k));
    return greatest || 1;
  };

  // A thumbnail of one head: a pixel per weight.
  page.thumbnail = (site, head) => {
    const canvas = page.node("canvas", { width: site.columns, height: site.rows, "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    if (!site.rows || !site.columns) return canvas;
    const image = context.createImageData(site.columns, site.rows);
    const greatest = page.greatest(site, head);
    for (let q = 0; q < site.rows; q++) {
      for (let k = 0; k < site.columns; k++) {
        const at = 4 * (q * site.columns + k);
        const share = Math.sqrt(site.at(head, q, k) / greatest);
        image.data.set([213, 94, 0, Math.round(255 * share)], at);
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };

  // Queries down, keys across. `names` has words and boxes; `choose(q)` is called for the row that was clicked.
  page.map = (site, head, names, chosen, choose) => {
    const { node, svg } = page;
    const size = Math.max(12, Math.min(36, Math.floor(460 / Math.max(site.rows, site.columns, 1))));
    const label = (kind) => (kind === "words" ? Math.min(110, 12 + 6.6 * Math.max(...names.words.map((word) => word.length), 1)) : 26);
    const [left, top] = [label(site.queries), label(site.keys)];
    const [width, height] = [left + size * site.columns + 2, top + size * site.rows + 2];
    const greatest = page.greatest(site, head);
    const short = (text) => (text.length > 15 ? `${text.slice(0, 14)}…` : text);
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Weights from ${site.queries} (down) to ${site.keys} (across)` });
    for (let q = 0; q < site.rows; q++) {
      root.append(svg("text", { class: q === chosen ? "chosen" : "", x: left - 5, y: top + size * (q + 0.5) + 4, "text-anchor": "end" }, short(names[site.queries][q])));
    }
    // Two digits need more room than the least square has.
    const every = site.keys === "boxes" && size < 16 && site.columns > 9 ? 2 : 1;
    for (let k = 0; k < site.columns; k += every) {
      const [x, y] = [left + size * (k + 0.5) + 4, top - 5];
      const turn = site.keys === "words" ? `translate(${x} ${y}) rotate(-90)` : `translate(${x - 4} ${y})`;
      root.append(svg("text", { transform: turn, "text-anchor": site.keys === "words" ? "start" : "middle", class: site.keys === "boxes" ? "small" : "" }, short(names[site.keys][k])));
    }
    const cells = svg("g", { class: "weights" });
    for (let q = 0; q < site.rows; q++) {
      for (let k = 0; k < site.columns; k++) {
        const weight = site.at(head, q, k);
        cells.append(
          svg("rect", { x: left + size * k, y: top + size * q, width: size - 1, height: size - 1, "data-q": q, "data-k": k, class: weight ? "" : "zero", "fill-opacity": weight ? Math.max(0.06, Math.sqrt(weight / greatest)).toFixed(3) : 0 }),
        );
      }
    }
    root.append(cells, svg("rect", { class: "row", x: left - 1, y: top + size * chosen - 1, width: size * site.columns + 1, height: size + 1 }));
    const read = node("p", { class: "quiet reading" }, "Point at a square for its weight; choose it for its query.");
    const square = (event) => event.target.dataset.q !== undefined && [Number(event.target.dataset.q), Number(event.target.dataset.k)];
    root.addEventListener("pointermove", (event) => {
      const at = square(event);
      if (at) read.textContent = `${names[site.queries][at[0]]} → ${names[site.keys][at[1]]}: ${site.at(head, ...at).toFixed(3)}`;
    });
    root.addEventListener("click", (event) => {
      const at = square(event);
      if (at) choose(at[0]);
    });
    return node("div", { class: "map" }, node("div", { class: "box plain", tabindex: 0, role: "region", "aria-label": "Map of weights" }, root), read);
  };
})();
