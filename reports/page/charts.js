// Small charts as SVG, drawn to the width of their place. Every value is read by pointing at it, or with the arrow
// keys: left and right along a series, up and down from one series to the next.
"use strict";

(() => {
  const RIGHT = 14;
  const TOP = 10;
  const BOTTOM = 40;
  const NARROW = 460;
  const GAP = 16;
  // Five, as there are seven colours: lines of like colours differ in their dashes.
  const DASHES = ["", "6 3", "2 2.5", "8 3 2 3", "12 3"];

  function steps(low, high, count) {
    const span = high - low || 1;
    const rough = span / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step || 0);
    // As many decimals as tell the steps apart.
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return found.map((value) => [value, value.toLocaleString("en", { maximumFractionDigits: Math.min(decimals, 20) })]);
  }

  function range(values, given, pad) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) [low, high] = [0, 1];
    const margin = (high - low) * pad || Math.abs(high) * 0.05 || 1;
    return [given.low ?? low - margin, given.high ?? high + margin];
  }

  // `describe(width)` gives {label, height, x, y, series, rules?, words?}. An axis is {label, low?, high?, names?, parts?}: names are
  // the places of a list; parts are [[low, high, share of the width], ...] where the axis across is broken. A series is {name, colour, dash?, points: [[x, y, text?]], line?, dots?, ticks?, faint?,
  // open?, text?: beside its points, shade?: from 0 to 1 in place of a colour, spans?: [[x, low, high]], bars?: [[y, low, high]]}; rules are
  // [x, text], and words [y, text] stand where a line has no value.
  page.chart = (place, describe) => {
    const tip = page.node("div", { class: "tip", hidden: true });
    const spoken = page.node("div", { class: "unseen", "aria-live": "polite" });
    const frame = page.node("div", { class: "chart" });
    place.append(frame);
    let width = 0;

    function draw() {
      const chart = describe(width);
      frame.replaceChildren(drawn(chart, width, tip, spoken), tip, spoken);
      tip.hidden = true;
    }

    new ResizeObserver(() => {
      const now = Math.floor(frame.clientWidth);
      if (now && now !== width) {
        width = now;
        draw();
      }
    }).observe(frame);
    return () => width && draw();
  };

  function drawn(chart, width, tip, spoken) {
    const { node, svg } = page;
    const height = chart.height;
    const points = chart.series.flatMap((series) => series.points);
    // On a phone names stand above their rows.
    const above = chart.y.names && width < NARROW;
    const left = above ? 14 : chart.y.names ? Math.min(250, width * 0.42) : 52;
    const xs = [...points.map((point) => point[0]), ...(chart.rules || []).map((rule) => rule[0]), ...chart.series.flatMap((one) => (one.bars || []).flatMap((bar) => bar.slice(1)))];
    const ys = [...points.map((point) => point[1]), ...chart.series.flatMap((one) => (one.spans || []).flatMap((span) => span.slice(1)))];
    const [x0, x1] = range(xs, chart.x, 0.04);
    const [y0, y1] = chart.y.names ? [chart.y.names.length - 0.5, -0.5] : range(ys, chart.y, 0.06);
    const parts = placed(chart.x.parts || [[x0, x1, 1]], left, width - RIGHT);
    const across = (value) => {
      const part = parts.find((one) => value <= one.high) || parts[parts.length - 1];
      return part.start + ((value - part.low) / (part.high - part.low)) * part.width;
    };
    const down = (value) => height - BOTTOM - ((value - y0) / (y1 - y0)) * (height - BOTTOM - TOP);
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "group", "aria-label": `${chart.label}. Arrow keys move from value to value.` });

    for (const [value, text] of parts.flatMap((part) => steps(part.low, part.high, Math.max(2, Math.min(8, part.width / 65))))) {
      const at = across(value);
      root.append(svg("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: height - BOTTOM }));
      root.append(svg("text", { x: at, y: height - BOTTOM + 15, "text-anchor": "middle" }, text));
    }
    if (!chart.y.names) {
      for (const [value, text] of steps(y0, y1, 5)) {
        root.append(svg("line", { class: "grid", x1: left, x2: width - RIGHT, y1: down(value), y2: down(value) }));
        root.append(svg("text", { x: left - 8, y: down(value) + 4, "text-anchor": "end" }, text));
      }
      root.append(svg("text", { class: "axis", transform: `translate(12 ${(height - BOTTOM + TOP) / 2}) rotate(-90)`, "text-anchor": "middle" }, chart.y.label));
    }
    root.append(svg("text", { class: "axis", x: (left + width - RIGHT) / 2, y: height - 6, "text-anchor": "middle" }, chart.x.label));
    for (const part of parts.slice(1)) {
      const at = part.start - GAP / 2;
      const strokes = [-3, 3].map((shift) => `M${at + shift - 3} ${height - BOTTOM + 6}l6 -12`).join("");
      root.append(svg("path", { class: "break", d: strokes }));
    }
    for (const [value, text] of chart.rules || []) {
      root.append(svg("line", { class: "rule", x1: across(value), x2: across(value), y1: TOP, y2: height - BOTTOM }, svg("title", {}, text)));
    }
    if (chart.y.names) {
      const room = Math.floor((above ? width - 40 : left - 12) / 6.2);
      const where = above ? { x: 0, dy: -13 } : { x: left - 10, dy: 4, "text-anchor": "end" };
      chart.y.names.forEach((name, index) => {
        const text = name.length > room ? `${name.slice(0, room - 1)}…` : name;
        root.append(svg("text", { ...where, class: "name", y: down(index) }, svg("title", {}, name), text));
      });
    }
    for (const [y, text] of chart.words || []) {
      root.append(svg("text", { class: "words", x: (left + width - RIGHT) / 2, y: down(y) + 4, "text-anchor": "middle" }, text));
    }
    for (const series of chart.series) root.append(marks(series, across, down));

    // Pointing, and the same from the keyboard.
    const ring = svg("circle", { class: "ring", r: 6, visibility: "hidden" });
    root.append(ring);
    const read = chart.series.filter((series) => series.points.length && !series.faint);
    let at = null;

    function say(series, index, aloud) {
      at = [series, index];
      const [x, y, text] = read[series].points[index];
      const values = text || [`${chart.x.label}: ${page.number(x)}`, `${chart.y.label}: ${page.number(y)}`];
      ring.setAttribute("cx", across(x));
      ring.setAttribute("cy", down(y));
      ring.setAttribute("visibility", "visible");
      tip.replaceChildren(node("strong", { dir: "auto" }, read[series].name), ...values.map((value) => node("span", {}, value)));
      tip.hidden = false;
      const half = tip.offsetWidth / 2;
      tip.style.left = `${Math.max(0, Math.min(width - 2 * half, across(x) - half))}px`;
      const above = down(y) - tip.offsetHeight - 12;
      tip.style.top = `${above < 0 ? down(y) + 14 : above}px`;
      if (aloud) spoken.textContent = `${read[series].name}. ${values.join(", ")}`;
    }

    function hide() {
      tip.hidden = true;
      ring.setAttribute("visibility", "hidden");
    }

    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      let best = 40 ** 2;
      let found = null;
      read.forEach((series, number) => {
        series.points.forEach(([x, y], index) => {
          const distance = (across(x) - px) ** 2 + (down(y) - py) ** 2;
          if (distance < best) [best, found] = [distance, [number, index]];
        });
      });
      if (found) say(...found, false);
      else hide();
    });
    root.addEventListener("pointerleave", hide);
    root.addEventListener("blur", hide);
    root.addEventListener("focus", () => {
      if (read.length && root.matches(":focus-visible")) say(...(at || [0, 0]), true);
    });
    root.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move || !read.length) return;
      event.preventDefault();
      let [series, index] = at || [0, 0];
      if (at) {
        series = (series + move[0] + read.length) % read.length;
        const count = read[series].points.length;
        index = Math.max(0, Math.min(count - 1, index + move[1]));
      }
      say(series, index, true);
    });
    return root;
  }

  // The parts of an axis with where they begin and how wide they are, pixels.
  function placed(parts, left, right) {
    const room = right - left - GAP * (parts.length - 1);
    let start = left - GAP;
    let width = 0;
    return parts.map(([low, high, share]) => {
      start += width + GAP;
      width = room * share;
      return { low, high, start, width };
    });
  }

  function coloured({ colour, shade }, group) {
    group.classList.add("series");
    if (shade === undefined) group.classList.add(`colour-${colour % 7}`);
    else group.style.color = `color-mix(in oklch, var(--first), var(--last) ${Math.round(100 * shade)}%)`;
    return group;
  }

  function marks(series, across, down) {
    const { svg } = page;
    const group = coloured(series, svg("g", { class: series.faint ? "faint" : "" }));
    if (series.spans && series.spans.length > 1) {
      const upper = series.spans.map(([x, , high]) => `${across(x)},${down(high)}`);
      const lower = [...series.spans].reverse().map(([x, low]) => `${across(x)},${down(low)}`);
      group.append(svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
    }
    for (const [y, low, high] of series.bars || []) {
      group.append(svg("line", { class: "bar", x1: across(low), x2: across(high), y1: down(y), y2: down(y) }));
    }
    if (series.line) {
      const path = series.points.map(([x, y]) => `${across(x).toFixed(1)},${down(y).toFixed(1)}`).join(" ");
      group.append(svg("polyline", { points: path, "stroke-dasharray": DASHES[(series.dash || 0) % DASHES.length] }));
    }
    for (const [x, y] of series.points) {
      if (series.ticks) group.append(svg("line", { class: "tick", x1: across(x), x2: across(x), y1: down(y) - 6, y2: down(y) + 6 }));
      if (series.dots || (series.line && series.points.length === 1)) {
        group.append(svg("circle", { class: series.open ? "dot open" : "dot", r: 4.5, cx: across(x), cy: down(y) }));
      }
      if (series.text) group.append(svg("text", { class: "value", x: across(x), y: down(y) - 8, "text-anchor": "middle" }, series.text));
    }
    return group;
  }

  // Buttons that show and hide series: `looks` has of each its name and how it is drawn, `on` is a set of indices.
  page.legend = (looks, on, changed) =>
    page.node(
      "div",
      { class: "legend", role: "group", "aria-label": "Shown lines" },
      looks.map((look, index) => {
        const line = page.svg("line", { x1: 1, x2: 23, y1: 5, y2: 5, "stroke-dasharray": DASHES[(look.dash || 0) % DASHES.length] });
        const sample = page.svg("svg", { width: 24, height: 10, "aria-hidden": "true" }, coloured(look, page.svg("g", {}, line)));
        const button = page.node(
          "button",
          {
            type: "button",
            "aria-pressed": on.has(index),
            onclick: () => {
              if (on.has(index)) on.delete(index);
              else on.add(index);
              button.setAttribute("aria-pressed", on.has(index));
              changed();
            },
          },
          sample,
          page.node("span", { dir: "auto" }, look.name),
        );
        return button;
      }),
    );
})();
