// The example browser: one question with its picture, what every row answered, and where its attention goes.
"use strict";

(async () => {
  const place = document.getElementById("browser");
  if (!place) return;
  const { node, svg } = page;
  const SMALL = 200;
  const FEW = 9;
  const MOST = 4;
  const study = await page.load("study");
  const { questions, answering } = study;
  const at = { example: 0, row: 0, site: null, head: -1, query: null };
  let example = null;
  let sites = [];

  const count = node("output", { class: "quiet" });
  const error = node("p", { class: "error", role: "alert" });
  const [text, picture, words, boxes, map, heads, answers, controls, keys] = Array.from({ length: 9 }, () => node("div"));
  text.className = "question";
  picture.className = "picture";
  heads.className = "heads";
  controls.className = "controls";
  keys.className = "keys quiet";
  keys.setAttribute("aria-live", "polite");
  const questionField = page.select("Question", questions.map((one, index) => `${index + 1}. ${one}`), 0, go);
  questionField.classList.add("wide");
  const button = (label, sign, by) => node("button", { type: "button", "aria-label": label, onclick: () => go(at.example + by) }, sign);
  const box = node(
    "div",
    { class: "browser", tabindex: 0, role: "group", "aria-label": "Example browser. Arrow keys, or j and k, go from example to example." },
    node("div", { class: "controls" }, button("Previous example", "←", -1), button("Next example", "→", 1), questionField, count),
    node("p", { class: "hint quiet" }, "Arrow keys ← → or ", node("kbd", {}, "k"), " ", node("kbd", {}, "j"), " go from example to example."),
    error,
    text,
    node("h3", {}, "Answers"),
    answers,
    node("h3", {}, "Attention"),
    controls,
    heads,
    node("div", { class: "two" }, node("div", {}, picture, words, boxes, keys), map),
    node("p", { class: "quiet" }, "Weights are kept in 256 steps; one that is not 0 keeps at least the least step. Shades are relative to the greatest weight shown."),
  );
  place.replaceChildren(box);

  box.addEventListener("keydown", (event) => {
    if (event.target.closest("select, input") || event.altKey || event.ctrlKey || event.metaKey) return;
    // A map that scrolls keeps its arrow keys.
    if (event.target.closest(".map .box") && event.key.startsWith("Arrow")) return;
    const by = { ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    go(at.example + by);
  });

  let latest = 0;
  async function go(index) {
    if (index < 0 || index >= questions.length) return;
    at.example = index;
    at.query = null;
    await show();
  }

  async function show() {
    const mine = ++latest;
    try {
      const loaded = await page.load(`examples/${at.example}`);
      const rows = loaded.answers.map((one) => one.row);
      if (!rows.includes(at.row)) at.row = rows[0];
      const weights = await page.load(`attention/${at.row}-${at.example}`);
      // Whoever goes on quickly sees the last one only.
      if (mine !== latest) return;
      example = loaded;
      sites = weights.sites.map(page.decodeSite);
      error.textContent = "";
    } catch (problem) {
      if (mine === latest) error.textContent = problem.message;
      return;
    }
    if (!sites.some((site) => site.site === at.site)) {
      // Where the question looks at the picture, in the layer nearest to the answer.
      at.site = (sites.findLast((site) => site.queries === "words" && site.keys === "boxes") || sites[0])?.site;
    }
    questionField.querySelector("select").value = String(at.example);
    count.textContent = `Example ${at.example + 1} of ${questions.length}`;
    drawQuestion();
    drawAnswers();
    drawControls();
    drawAttention();
  }

  function drawQuestion() {
    const truth = example.truth.map(([answer, score]) => node("span", { class: "truth" }, node("bdi", {}, answer), score < 1 ? ` ${page.number(score, 2)}` : ""));
    text.replaceChildren(
      node("p", { class: "asked", dir: "auto" }, example.text),
      node("p", { class: "quiet" }, "Scored answers: ", truth.length ? truth : "not known", node("span", { class: "reference" }, `question ${example.question}, image ${example.image}, ${example.split}`)),
    );
  }

  function drawAnswers() {
    const right = new Map(example.truth);
    const lines = example.answers.map(({ row, top }) =>
      node(
        "tr",
        { class: row === at.row ? "current" : "" },
        node("th", { scope: "row" }, node("button", { type: "button", "aria-pressed": row === at.row, onclick: () => chooseRow(row) }, answering[row][0])),
        top.map(([answer, confidence]) => {
          const bar = node("span", { class: "confidence", "aria-hidden": "true" });
          bar.style.width = `${Math.max(1, 100 * confidence)}%`;
          return node("td", { class: right.get(answer) > 0 ? "right" : "" }, node("bdi", {}, answer), node("span", { class: "share" }, ` ${(100 * confidence).toFixed(1)} %`), bar);
        }),
      ),
    );
    answers.replaceChildren(
      node(
        "div",
        { class: "box", tabindex: 0, role: "region", "aria-label": "Answers of every row" },
        node("table", { class: "answers" }, node("caption", { class: "unseen" }, "The five most confident answers of each row; those that score are marked"), node("thead", {}, node("tr", {}, ["Method", "1st", "2nd", "3rd", "4th", "5th"].map((name) => node("th", { scope: "col" }, name)))), node("tbody", {}, lines)),
      ),
    );
  }

  async function chooseRow(row) {
    at.row = row;
    await show();
    answers.querySelector('button[aria-pressed="true"]')?.focus();
  }

  const site = () => sites.find((one) => one.site === at.site);

  function drawControls() {
    const rows = example.answers.map((one) => one.row);
    const kinds = [...new Set(sites.map((one) => one.stack))];
    const select = node("select", {
      onchange: () => {
        at.site = select.value;
        at.query = null;
        drawAttention();
      },
    });
    for (const stack of kinds) {
      const group = node("optgroup", { label: stack });
      for (const one of sites.filter((other) => other.stack === stack)) group.append(node("option", { value: one.site }, `${stack} ${one.layer}: ${one.queries} to ${one.keys}`));
      select.append(group);
    }
    if (at.site) select.value = at.site;
    controls.replaceChildren(
      page.select("Row", rows.map((row) => answering[row][0]), rows.indexOf(at.row), async (index) => {
        at.row = rows[index];
        await show();
        controls.querySelector("select").focus();
      }),
      page.field("Layer", select),
      node("span", { class: "field" }, node("span", {}, "Cell"), page.cellLink(answering[at.row][1])),
    );
  }

  function drawAttention() {
    const one = site();
    if (!one) {
      map.replaceChildren(node("p", { class: "quiet" }, "No weights were kept."));
      heads.replaceChildren();
      drawKeys();
      return;
    }
    if (at.head >= one.heads) at.head = -1;
    if (at.query === null || at.query >= one.rows) at.query = one.queries === "words" && one.rows > 1 ? 1 : 0;
    const choices = [-1, ...Array(one.heads).keys()].map((head) =>
      node(
        "button",
        {
          type: "button",
          "aria-pressed": head === at.head,
          "aria-label": head < 0 ? "Mean over heads" : `Head ${head + 1}`,
          onclick: () => {
            at.head = head;
            drawAttention();
            heads.querySelectorAll("button")[head + 1].focus();
          },
        },
        page.thumbnail(one, head),
        node("span", {}, head < 0 ? "mean" : `${head + 1}`),
      ),
    );
    heads.replaceChildren(...choices);
    drawMap();
    drawKeys();
  }

  const names = () => ({ words: example.words, boxes: example.boxes.map((_, index) => `${index + 1}`) });

  function chooseQuery(query) {
    at.query = query;
    drawMap();
    drawKeys();
  }

  function drawMap() {
    map.replaceChildren(page.map(site(), at.head, names(), at.query, chooseQuery));
  }

  // The chosen query, and its keys by their weights, on words, boxes and picture.
  function drawKeys() {
    const one = site();
    const share = (kind) => {
      if (!one || one.keys !== kind) return () => null;
      const row = Array.from({ length: one.columns }, (_, k) => one.at(at.head, at.query, k));
      const greatest = Math.max(...row) || 1;
      return (index) => (row[index] === undefined ? null : [row[index], row[index] / greatest]);
    };
    words.replaceChildren(strip("Words", "words", example.words, share("words")));
    boxes.replaceChildren(strip("Boxes", "boxes", names().boxes, share("boxes")));
    drawPicture(share("boxes"));
    if (!one) return keys.replaceChildren();
    const label = (kind, index) => (kind === "words" ? `“${names().words[index]}”` : `box ${index + 1}`);
    const ranked = Array.from({ length: one.columns }, (_, k) => [k, one.at(at.head, at.query, k)]).filter(([, weight]) => weight > 0).sort((a, b) => b[1] - a[1]);
    const best = ranked.filter(([, weight]) => weight >= 0.005).slice(0, MOST).map(([k, weight]) => `${label(one.keys, k)} (${weight.toFixed(2)})`);
    keys.replaceChildren(`${label(one.queries, at.query)} attends to ${ranked.length} of ${one.columns} ${one.keys}${best.length ? `, most to ${best.join(", ")}` : ""}.`);
  }

  function strip(title, kind, texts, share) {
    const asks = site()?.queries === kind;
    const chips = texts.map((chip, index) => {
      const weight = share(index);
      const chosen = asks && index === at.query;
      const attributes = { class: `chip${weight ? " key" : ""}`, title: weight ? `weight ${weight[0].toFixed(3)}` : null };
      const made = asks
        ? node("button", { ...attributes, type: "button", "aria-pressed": chosen, onclick: () => {
            chooseQuery(index);
            const strips = kind === "words" ? words : boxes;
            strips.querySelectorAll("button")[index].focus();
          } }, node("bdi", {}, chip))
        : node("span", attributes, node("bdi", {}, chip));
      if (weight) made.style.setProperty("--share", (100 * weight[1]).toFixed(1) + "%");
      return made;
    });
    return node("div", { class: "strip", role: "group", "aria-label": `${title}${asks ? ": choose a query" : ""}` }, node("span", { class: "kind" }, title), chips);
  }

  // The boxes whose numbers stand in the picture: all if they are few, else the query and the four with most weight.
  function numbered(share, asks) {
    const all = example.boxes.map((_, index) => index);
    if (all.length <= FEW) return all;
    const weight = (index) => share(index)?.[0] || 0;
    const most = all.filter(weight).sort((one, other) => weight(other) - weight(one)).slice(0, MOST);
    return asks ? [...new Set([at.query, ...most])] : most;
  }

  function drawPicture(share) {
    const [width, height] = [example.width || 1, example.height || 1];
    const layer = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Picture ${example.image} with ${example.boxes.length} boxes` });
    layer.style.setProperty("--ratio", (width / height).toFixed(4));
    // Enlarged many times a picture is shown as the pixels that it is.
    if (example.picture) layer.append(svg("image", { class: width < SMALL ? "small" : "", href: `page/pictures/${example.picture}`, width, height }));
    else layer.append(svg("rect", { class: "empty", width, height }));
    const asks = site()?.queries === "boxes";
    const one = (index) => {
      const [x0, y0, x1, y1] = example.boxes[index];
      const weight = share(index);
      const chosen = asks && index === at.query;
      const rect = svg("rect", { class: `region${weight ? " key" : ""}${weight && !weight[0] ? " zero" : ""}${chosen ? " chosen" : ""}${asks ? " asks" : ""}`, x: x0 * width, y: y0 * height, width: (x1 - x0) * width, height: (y1 - y0) * height });
      if (weight) {
        // Mostly by the outline: where all boxes are attended, the picture must still be seen.
        rect.style.fillOpacity = (0.25 * weight[1] ** 2).toFixed(3);
        rect.style.strokeOpacity = (0.15 + 0.85 * weight[1]).toFixed(3);
        rect.style.strokeWidth = (1 + 2 * weight[1]).toFixed(2);
      }
      rect.append(svg("title", {}, `box ${index + 1}${weight ? `: ${weight[0].toFixed(3)}` : ""}`));
      if (asks) rect.addEventListener("click", () => chooseQuery(index));
      return rect;
    };
    const label = (index) => {
      const [x0, y0] = example.boxes[index];
      const made = svg("text", { x: x0 * width + 0.012 * width, y: y0 * height + 0.05 * width, "aria-hidden": "true" }, `${index + 1}`);
      made.style.fontSize = `${0.045 * width}px`;
      return made;
    };
    // Small boxes on top, where a pointer reaches them.
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    const order = example.boxes.map((_, index) => index).sort((a, b) => area(example.boxes[b]) - area(example.boxes[a]));
    layer.append(...order.map(one), ...numbered(share, asks).map(label));
    picture.replaceChildren(layer, ...(example.picture ? [] : [node("p", { class: "quiet" }, "The picture was not kept: its boxes alone.")]));
  }

  await show();
})();
