// What all scripts of the pages share: making nodes, loading data, writing numbers. Text of records only ever
// becomes text nodes and attributes that hold no code.
"use strict";

const page = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const loads = new Map();
  const arrivals = new Map();
  let controls = 0;

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name.startsWith("aria-") && value !== null && value !== undefined) node.setAttribute(name, String(value));
      else if (value === true) node.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  }

  // A script of the folder "page" hands its data over by calling this.
  function arrived(name, text) {
    arrivals.set(name, JSON.parse(text));
  }

  // The data that the script `name` holds; a page on a disk may not fetch.
  function load(name) {
    // Nothing that an address holds may lead out of the folder.
    if (name.split("/").some((part) => ["", ".", ".."].includes(part))) return Promise.reject(new Error("There is no such data."));
    if (!loads.has(name)) {
      loads.set(
        name,
        new Promise((resolve, reject) => {
          if (arrivals.has(name)) return resolve(arrivals.get(name));
          const script = document.createElement("script");
          script.src = `page/${name.split("/").map(encodeURIComponent).join("/")}.js`;
          script.onload = () => {
            script.remove();
            if (arrivals.has(name)) resolve(arrivals.get(name));
            else reject(new Error(`page/${name}.js holds something else. Build the report again.`));
          };
          script.onerror = () => {
            script.remove();
            loads.delete(name);
            reject(new Error(`page/${name}.js is missing beside this page. Copy the whole folder, or build the report again.`));
          };
          document.head.append(script);
        }),
      );
    }
    return loads.get(name);
  }

  // At most six digits, thousands apart.
  function number(value, digits = 6) {
    if (value === null || value === undefined) return "–";
    if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e15)) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: digits });
  }

  // What is drawn later pushes the place that the address names away: it is kept in view until the reader moves.
  function keepPlace() {
    const [navigation] = performance.getEntriesByType("navigation");
    if (!location.hash || navigation?.type === "back_forward") return;
    let target = null;
    try {
      target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch {
      // What is no encoding names no place either.
    }
    if (!target) return;
    const observer = new ResizeObserver(() => target.scrollIntoView({ behavior: "instant" }));
    observer.observe(document.body);
    for (const moved of ["wheel", "touchstart", "pointerdown", "keydown", "hashchange"]) {
      window.addEventListener(moved, () => observer.disconnect(), { once: true, passive: true });
    }
  }

  return {
    arrived,
    load,
    number,
    keepPlace,
    node: (name, attributes, ...children) => fill(document.createElement(name), attributes, children),
    svg: (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children),
    // A control below its label.
    field(label, control) {
      control.id ||= `control-${++controls}`;
      return page.node("div", { class: "field" }, page.node("label", { for: control.id }, label), control);
    },
    // A field to choose from `options`; `choose` is called with the index of the option.
    select(label, options, chosen, choose) {
      const select = page.node("select", { onchange: () => choose(Number(select.value)) });
      options.forEach((text, index) => select.append(page.node("option", { value: index }, text)));
      select.value = String(chosen);
      return page.field(label, select);
    },
    cellLink: (id) => page.node("a", { href: `cell.html#${encodeURIComponent(id)}` }, id),
  };
})();
