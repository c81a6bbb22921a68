// The charts of training and of what attention learned, for a cell's page and for the rows of the index.
"use strict";

(() => {
  const CURVES = {
    accuracy: "validation accuracy (%)",
    loss: "validation loss",
    train_loss: "training loss",
    penalty: "penalty",
    learning_rate: "learning rate",
  };
  const BANDS = 3;
  const ROWS = 8;
  const UNITS = { span: "span (tokens)", density: "density (share of weights that are not 0)" };

  function figure(title, text, ...children) {
    return page.node("figure", { class: "interactive" }, page.node("figcaption", {}, page.node("strong", {}, title), page.node("p", {}, text)), ...children);
  }
  page.figure = figure;

  const thinned = (shown, all) => (shown < all ? `${shown} of ${all.toLocaleString("en")} evaluations are shown, evenly spaced.` : "");

  function points(curves, name) {
    return curves.step.map((step, index) => [step, curves[name]?.[index]]).filter((point) => point[1] !== null && point[1] !== undefined);
  }

  // One cell's curves, one at a time.
  page.cellCurves = (cell) => {
    const names = Object.keys(CURVES).filter((name) => cell.curves[name]);
    if (!names.length) return null;
    let chosen = names[0];
    const place = page.node("div");
    const made = figure("Training", `Over this cell's evaluations. ${thinned(cell.curves.step.length, cell.curves.evaluations)}`);
    const redraw = page.chart(place, () => ({
      label: `${CURVES[chosen]} over training steps`,
      height: 280,
      x: { label: "training steps", low: 0 },
      y: { label: CURVES[chosen] },
      series: [{ name: CURVES[chosen], colour: 1, line: true, points: points(cell.curves, chosen) }],
    }));
    const choice = page.select("Curve", names.map((name) => CURVES[name]), 0, (index) => {
      chosen = names[index];
      redraw();
    });
    made.append(page.node("div", { class: "controls" }, choice), place);
    return made;
  };

  // Rows over training: each the mean over its seeds, some of which are drawn thin. `places` says which of `rows` have
  // curves; they are loaded when shown.
  page.rowCurves = (rows, places) => {
    if (!places.length) return null;
    const on = new Set(places.slice(0, ROWS).map((_, index) => index));
    const loaded = new Map();
    const names = ["accuracy", "loss", "train_loss"];
    let chosen = names[0];
    const place = page.node("div");
    const status = page.node("p", { class: "quiet", "aria-live": "polite" });
    const name = (index) => {
      const row = rows[places[index]];
      return row.short + (row.state === "finished" ? "" : ` (${row.state})`);
    };
    const shown = () => [...on].filter((index) => loaded.has(index)).sort((one, other) => one - other);
    const redraw = page.chart(place, () => ({
      label: `${CURVES[chosen]} of each row over training steps`,
      height: 340,
      x: { label: "training steps", low: 0 },
      y: { label: CURVES[chosen] },
      series: shown().flatMap((index) => [
        ...loaded.get(index).drawn.map((seed) => ({ name: seed.cell, colour: index, line: true, faint: true, points: points(seed, chosen) })),
        { name: name(index), colour: index, dash: index, line: true, points: points(loaded.get(index).mean, chosen) },
      ]),
    }));
    async function update() {
      const told = [`${on.size} of ${places.length} rows are shown.`];
      try {
        await Promise.all([...on].map(async (index) => loaded.set(index, await page.load(`rows/${places[index]}`))));
        const curves = shown().map((index) => loaded.get(index));
        const long = curves.find((row) => row.mean.step.length < row.evaluations);
        const many = curves.find((row) => row.drawn.length && row.drawn.length < row.seeds);
        if (long) told.push(thinned(long.mean.step.length, long.evaluations));
        if (many) told.push(`Thin are the first ${many.drawn.length} of ${many.seeds} seeds; means are over all.`);
      } catch (error) {
        told.push(error.message);
      }
      status.textContent = told.join(" ");
      redraw();
    }
    const choice = page.select("Curve", names.map((one) => CURVES[one]), 0, (index) => {
      chosen = names[index];
      redraw();
    });
    update();
    return figure(
      "Training",
      "One line per row, the mean over its seeds where all have been evaluated; thin lines are seeds. Choose rows below.",
      page.node("div", { class: "controls" }, choice),
      place,
      page.legend(places.map((_, index) => ({ name: name(index), colour: index, dash: index })), on, update),
      status,
    );
  };

  // What attention learned in one of `subjects` [{name, cell, learned}], by layer: mean and range over heads.
  page.learned = (subjects) => {
    const known = subjects.filter((subject) => subject.learned.length);
    if (!known.length) return null;
    const own = (subject) => subject.learned.findIndex((name) => name !== "density");
    let subject = Math.max(0, known.findIndex((one) => own(one) >= 0));
    let column = Math.max(0, own(known[subject]));
    let panel = 0;
    let sites = null;
    const controls = page.node("div", { class: "controls" });
    const place = page.node("div");
    const status = page.node("p", { class: "quiet", "aria-live": "polite" });
    const panels = () => [...new Set((sites || []).map((site) => `${site.stack}, ${site.direction}`))];
    const shown = () => (sites || []).filter((site) => `${site.stack}, ${site.direction}` === panels()[panel]);
    const name = () => known[subject].learned[column];
    // Layers are in order: so are their colours.
    const look = (site) => ({ name: `layer ${site.index + 1}`, shade: site.index / Math.max(1, ...shown().map((one) => one.index)) });
    const on = new Set();
    const legend = page.node("div");
    function draw() {
      on.clear();
      shown().forEach((_, index) => on.add(index));
      legend.replaceChildren(page.legend(shown().map(look), on, redraw));
      redraw();
    }
    const redraw = page.chart(place, () => ({
      label: `${name()} per layer over training steps`,
      height: 300,
      x: { label: "training steps", low: 0 },
      y: { label: UNITS[name()] || name() },
      series: shown().filter((_, index) => on.has(index)).map((site) => ({
        ...look(site),
        line: true,
        spans: on.size <= BANDS ? site.step.map((step, index) => [step, site.low[index], site.high[index]]) : [],
        points: site.step.map((step, index) => [
          step,
          site.mean[index],
          [`training steps: ${page.number(step)}`, `mean over heads: ${page.number(site.mean[index])}`, `least ${page.number(site.low[index])}, greatest ${page.number(site.high[index])}`],
        ]),
      })),
    }));
    async function update() {
      try {
        sites = (await page.load(`sites/${known[subject].cell}`))[name()];
        panel = Math.min(panel, panels().length - 1);
        const thin = sites.find((site) => site.step.length < site.evaluations);
        status.textContent = `Of ${known[subject].cell}. ${thin ? thinned(thin.step.length, thin.evaluations) : ""}`;
      } catch (error) {
        sites = [];
        status.textContent = error.message;
      }
      const choices = [
        page.select("Quantity", known[subject].learned, column, (index) => {
          column = index;
          update();
        }),
        page.select("Where", panels(), panel, (index) => {
          panel = index;
          draw();
        }),
      ];
      const focused = [...controls.querySelectorAll("select")].indexOf(document.activeElement);
      if (known.length > 1) {
        choices.unshift(
          page.select("Row", known.map((one) => one.name), subject, (index) => {
            subject = index;
            column = Math.max(0, own(known[subject]));
            update();
          }),
        );
      }
      controls.replaceChildren(...choices);
      // The controls were made anew: the keyboard stays where it was.
      if (focused >= 0) controls.querySelectorAll("select")[focused]?.focus();
      draw();
    }
    update();
    return figure("What attention learned", `One line per layer, the mean over its heads. With at most ${BANDS} layers shown, bands reach from the least head to the greatest.`, controls, place, legend, status);
  };
})();
