// The interactive charts of the index.
"use strict";

(async () => {
  page.keepPlace();
  const place = document.getElementById("charts");
  if (!place) return;
  const study = await page.load("study");
  const measured = study.rows.filter((row) => row.accuracy !== null);

  const state = (row) => [row.stale && "stale", row.looked === false && `below ${study.looked} %: has not learned to look`].filter(Boolean);
  const interval = (row) => (row.interval ? [`95 % interval ${row.interval.map((side) => side.toFixed(2)).join(" to ")}`] : []);
  const seeds = (row) => row.seeds.map(([cell, value]) => `${cell}: ${value.toFixed(2)} %`);

  function accuracies() {
    const rows = study.rows.filter((row) => row.trained);
    const box = page.node("div", { class: "tall" });
    const floors = study.floors.map(([name, value]) => `${name} ${value.toFixed(2)} %`).join(", ");
    page.chart(box, (width) => ({
      label: "Test accuracy of each row",
      height: 60 + (width < 460 ? 46 : 34) * rows.length,
      x: { label: "test accuracy (%)", parts: study.parts },
      y: { names: rows.map((row) => row.short) },
      words: rows.flatMap((row, index) => (row.accuracy === null ? [[index, row.state]] : [])),
      rules: study.floors.map(([name, value]) => [value, `floor: ${name}, ${value.toFixed(2)} %`]),
      series: rows.flatMap((row, index) => {
        if (row.accuracy === null) return [];
        const colour = row.looked === false ? 0 : 1;
        const mean = [`test accuracy: ${row.accuracy.toFixed(2)} %`, ...interval(row), ...seeds(row), ...state(row)];
        return [
          { name: row.short, colour, faint: true, ticks: true, points: row.seeds.length > 1 ? row.seeds.map(([, value]) => [value, index]) : [] },
          { name: row.short, colour, dots: true, open: row.stale, text: row.accuracy.toFixed(2), points: [[row.accuracy, index, mean]], bars: row.interval ? [[index, ...row.interval]] : [] },
        ];
      }),
    }));
    return page.figure("Test accuracy", `Dots are means over seeds, upright ticks are seeds, bars 95 % intervals where predictions allow them; open dots are stale.${study.parts ? " Two strokes mark where the axis leaves out what holds nothing." : ""}${floors ? ` Dashed, the floors: ${floors}.` : ""}`, box);
  }

  function against() {
    if (!measured.length) return null;
    const box = page.node("div");
    const scale = Math.max(...measured.map((row) => row.macs)) >= 1e9 ? [1e9, "G"] : [1e6, "M"];
    page.chart(box, () => ({
      label: "Test accuracy against multiply-adds",
      height: 320,
      x: { label: `multiply-adds of one question (${scale[1]})` },
      y: { label: "test accuracy (%)" },
      series: measured.map((row) => ({
        name: row.short,
        colour: row.looked === false ? 0 : 1,
        dots: true,
        open: !row.trained || row.stale,
        points: [[row.macs / scale[0], row.accuracy, [`test accuracy: ${row.accuracy.toFixed(2)} %`, `multiply-adds: ${page.number(row.macs / scale[0], 5)} ${scale[1]}`, ...interval(row), ...state(row)]]],
      })),
    }));
    return page.figure("Accuracy against cost", "Each dot a row; open dots were evaluated only, with other layers than they were trained with, or are stale.", box);
  }

  const learned = page.learned(study.rows.filter((row) => row.learner && row.trained).map((row) => ({ name: row.short, cell: row.learner, learned: row.learned })));
  place.append(...[accuracies(), against(), page.rowCurves(study.rows, study.drawn), learned].filter(Boolean));
})();
