"use strict";
// Tabs, sorted tables, and outputs: their pages, filters, models side by side, zoom. All text is written as text.
const SHOWN = matchMedia("(max-width: 40rem)").matches ? 24 : 60;
const kept = new Map();
const data = (id) => {
  if (!kept.has(id)) kept.set(id, JSON.parse(document.getElementById(id).textContent));
  return kept.get(id);
};

const make = (tag, attributes, ...children) => {
  const element = document.createElementNS(tag === "rect" || tag === "svg" || tag === "text"
    ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
};
const line = (kind, text) => (text ? make("p", { class: kind }, text) : undefined);

// Pictures of an output, with the boxes that were seen in it.
const boxes = (output) => {
  const [width, height] = output.size;
  const size = (Math.max(width, height) / 14).toPrecision(4);
  return make("svg", { class: "boxes", viewBox: `0 0 ${width} ${height}`, "font-size": size, "aria-hidden": "true" },
    ...output.boxes.flatMap(([left, top, right, bottom], i) => [
      make("rect", { x: left, y: top, width: right - left, height: bottom - top }),
      make("text", { x: left, y: top, dx: ".2em", dy: "1em" }, output.seen[i]),
    ]));
};
const picture = (output, part) => {
  if (!output || !output.pictures || output.pictures[part] === undefined) return undefined;
  const kind = part[0].toUpperCase() + part.slice(1);
  const image = make("img", { alt: `${kind} for: ${output.prompt}`, src: data("pictures")[output.pictures[part]] });
  return make("div", { class: "picture" }, image, part === "output" && output.boxes ? boxes(output) : undefined);
};
// Of outputs made together a part has the name of its modality behind it: "output image".
const partsOf = (output, kind) => Object.keys(output.pictures || {}).filter((part) => part.split(" ")[0] === kind);
const PLACES = { source: "given", output: "made", target: "real" };
const nameOf = (part) => (part.includes(" ") ? part.replace(/^[a-z]+/, (kind) => PLACES[kind]) : part);
const sounds = (output) => partsOf(output, "sound").map((part) => make("audio", {
  controls: "", preload: "none", src: data("pictures")[output.pictures[part]], "aria-label": `Sound for: ${output.prompt}`,
}));
const named = (content, name) => (content ? make("div", {}, content, make("p", {}, name)) : undefined);
const badge = (output) => {
  if (output.correct === undefined) return undefined;
  return make("span", { class: output.correct ? "right" : "wrong" }, output.correct ? "✓ right" : "✗ wrong");
};

// An item is one example: an output of each of the runs that are shown.
const parts = (item, runs) => {
  const one = item.outputs[0];
  const shown = partsOf(one, "source").map((part) => [nameOf(part), picture(one, part)]);
  item.outputs.forEach((output, i) => {
    const mark = runs.length > 1 && output.correct !== undefined ? (output.correct ? "✓ " : "✗ ") : "";
    const title = (part) => (runs.length > 1 ? mark + runs[i].title + part.replace("output", "") : nameOf(part));
    const made = partsOf(output, "output");
    for (const part of made) {
      shown.push([title(part), picture(output, part.replace("output", "film")) || picture(output, part)]);
    }
    if (made.length === 0 && runs.length > 1 && output.text !== undefined) {
      shown.push([title("output"), make("div", { class: "text" }, output.text)]);
    }
  });
  shown.push(...partsOf(one, "target").map((part) => [nameOf(part), picture(one, part)]));
  const there = shown.filter(([, content]) => content);
  return there.length === 1 ? [there[0][1]] : there.map(([name, content]) => named(content, name));
};
const card = (item, runs, open) => {
  const one = item.outputs[0];
  const shown = parts(item, runs);
  const button = make("button", { type: "button", class: "between", "aria-label": `Look at: ${one.prompt}` }, ...shown);
  button.addEventListener("click", open);
  const said = runs.length > 1 ? [] : [
    one.correct === undefined && !one.task ? undefined : make("p", { class: "verdict" }, badge(one), ` ${one.task || ""}`),
    line("reason", one.reason),
    one.scores.length ? line("score", `${runs[0].scores[0]} ${one.scores[0].toFixed(3)}`) : undefined,
  ];
  return make("figure", {}, button, ...(runs.length > 1 ? [] : sounds(one)), make("figcaption", {},
    line("prompt", runs.length === 1 && one.text !== undefined && !one.several ? one.text : one.prompt),
    runs.length === 1 && one.several && one.text !== undefined ? line("text", `made text: ${one.text}`) : undefined,
    one.targets ? line("target", `reference: ${one.targets[0]}`) : undefined, ...said));
};
const whole = (item, runs) => {
  const one = item.outputs[0];
  return [
    make("div", { class: "between" }, ...parts(item, runs)),
    line("prompt", one.prompt),
    ...item.outputs.flatMap((output, i) => [
      make("p", { class: "verdict" }, make("strong", {}, runs[i].title), " ", badge(output), ` ${output.task || ""} `,
        output.link ? make("a", { href: output.link }, "original") : undefined,
        ...Object.entries(output.links || {}).map(([name, href]) => make("a", { href }, `original ${name} `))),
      ...sounds(output),
      ...partsOf(output, "film").map((part) => make("div", { class: "frames" },
        picture(output, part.replace("film", "output")))),
      line("text", output.text),
      line("reason", output.reason),
      output.seen ? line("found", `seen: ${output.seen.join(", ") || "nothing"}`) : undefined,
      output.scores.length ? make("dl", { class: "scores" }, ...output.scores.map((score, k) => make("div", {},
        make("dt", {}, runs[i].scores[k]), make("dd", {}, String(score))))) : undefined,
    ]),
    one.targets ? make("p", { class: "target" }, "references:") : undefined,
    one.targets ? make("ul", {}, ...one.targets.map((text) => make("li", {}, text))) : undefined,
  ].filter((part) => part !== undefined);
};

const items = (runs) => {
  const others = runs.slice(1).map((run) => new Map(run.outputs.map((each) => [`${each.index} ${each.id}`, each])));
  const found = [];
  runs[0].outputs.forEach((output, order) => {
    const outputs = [output, ...others.map((by) => by.get(`${output.index} ${output.id}`))];
    if (outputs.some((each) => each === undefined)) return;
    const text = outputs.flatMap((each) => [each.prompt, each.text, each.reason, each.seen && each.seen.join(", ")]);
    const scores = outputs.map((each) => each.scores[0]).filter((score) => score !== undefined);
    found.push({
      outputs, order,
      text: text.filter(Boolean).join("\n").toLowerCase(),
      differs: outputs.some((each) => each.correct !== output.correct),
      spread: scores.length ? Math.max(...scores) - Math.min(...scores) : 0,
    });
  });
  return found;
};
const key = (item, order, run) => {
  if (order === "order") return item.order;
  if (order === "differences") return item.differs ? 0 : 1;
  if (order === "failures") return { false: 0, undefined: 1, true: 2 }[item.outputs[0].correct];
  const place = Number(order.slice("score-".length));
  return run.falling[place] ? -item.outputs[0].scores[place] : item.outputs[0].scores[place];
};
const fits = (item, wanted) => {
  const one = item.outputs[0];
  if (wanted.task && one.task !== wanted.words) return false;
  if (wanted.verdict === "differs" && !item.differs) return false;
  if (wanted.verdict === "wrong" && one.correct !== false) return false;
  if (wanted.verdict === "right" && one.correct !== true) return false;
  return item.text.includes(wanted.search);
};

const csv = (run) => {
  // A quote before text that a spreadsheet would take for a formula.
  const shown = (value) => (typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value));
  const field = (value) => `"${value === undefined ? "" : shown(value).replaceAll('"', '""')}"`;
  const rows = run.outputs.map((each) => [each.id, each.index, each.prompt, each.text, each.task, each.correct,
    each.reason, ...each.scores]);
  const head = ["id", "index", "prompt", "output", "task", "correct", "reason", ...run.scores];
  return [head, ...rows].map((row) => row.map(field).join(",")).join("\n") + "\n";
};

const zoom = document.getElementById("zoom");
let shownAt = () => {};
if (zoom) {
  zoom.querySelector("[name=back]").addEventListener("click", () => shownAt(-1));
  zoom.querySelector("[name=next]").addEventListener("click", () => shownAt(1));
  zoom.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") shownAt(-1);
    if (event.key === "ArrowRight") shownAt(1);
  });
}
const look = (list, at, runs) => {
  shownAt = (by) => {
    at = Math.min(Math.max(at + by, 0), list.length - 1);
    zoom.querySelector("div").replaceChildren(...whole(list[at], runs));
  };
  shownAt(0);
  zoom.showModal();
};

const refreshed = new WeakMap();
const start = (section) => {
  const form = section.querySelector(".controls");
  const holder = section.querySelector(".cards");
  const count = section.querySelector(".count");
  const [back, next, save] = ["back", "next", "csv"].map((name) => form.elements[name]);
  let runs;
  let all;
  let list;
  let size;
  let from = 0;

  const show = () => {
    const part = list.slice(from, from + size);
    holder.replaceChildren(...part.map((item, i) => card(item, runs, () => look(list, from + i, runs))));
    back.disabled = from === 0;
    next.disabled = from + size >= list.length;
    const number = list.length > size ? list.length : all.length;
    const outputs = `${number.toLocaleString("en")} ${runs.length > 1 ? "example" : "output"}${number === 1 ? "" : "s"}`;
    const some = list.length === all.length ? "" : `${list.length.toLocaleString("en")} of `;
    const place = list.length > size ? `${from + 1}–${Math.min(from + size, list.length)} of ` : some;
    count.textContent = `${place}${outputs}, ${form.elements.sort.selectedOptions[0].text}`;
  };
  const update = (at = 0) => {
    const wanted = Object.fromEntries(new FormData(form));
    wanted.search = (wanted.search || "").trim().toLowerCase();
    wanted.words = wanted.task && form.elements.task.selectedOptions[0].text;
    const before = (a, b) => key(a, wanted.sort, runs[0]) - key(b, wanted.sort, runs[0])
      || (wanted.sort === "differences" ? b.spread - a.spread : 0) || a.order - b.order;
    list = all.filter((item) => fits(item, wanted)).sort(before);
    from = at < list.length ? at : 0;
    show();
  };
  const turn = (by) => {
    from += by * size;
    show();
  };
  const read = () => {
    runs = section.dataset.runs.split(" ").map((number) => data(`data-${number}`));
    all = items(runs);
    size = Math.max(6, Math.floor(SHOWN / runs.length));
    const most = Math.max(1, ...all.slice(0, all.length && all[0].outputs[0].several ? SHOWN : 1)
      .map((item) => parts(item, runs).length));
    holder.className = most > 1 ? `cards wide parts-${Math.min(most, 8)}` : "cards";
    holder.classList.toggle("texts", all.length > 0 && !all[0].outputs[0].pictures);
    save.hidden = runs.length > 1;
    update(from);
  };
  form.hidden = false;
  form.addEventListener("input", () => update());
  form.addEventListener("submit", (event) => event.preventDefault());
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  save.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([csv(runs[0])], { type: "text/csv" }));
    make("a", { href: address, download: `${runs[0].title}.csv` }).click();
    URL.revokeObjectURL(address);
  });
  refreshed.set(section, read);
  read();
};

const open = () => {
  const tabs = Array.from(document.querySelectorAll(".tab"));
  const wanted = tabs.find((tab) => `#${tab.id}` === location.hash) || tabs[0];
  if (!wanted) return;
  for (const tab of tabs) tab.hidden = tab !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const section of wanted.querySelectorAll(".outputs:not([data-open])")) {
    section.dataset.open = "";
    start(section);
  }
};
addEventListener("hashchange", () => {
  open();
  scrollTo(0, 0);
});
open();

const sortable = (table) => {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    if (column === 0) return;
    const button = make("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => parseFloat(row.cells[column].dataset.value);
      const before = (a, b) => Number.isNaN(value(a)) - Number.isNaN(value(b))
        || (falling ? value(b) - value(a) : value(a) - value(b)) || 0;
      table.tBodies[0].append(...Array.from(table.tBodies[0].rows).sort(before));
    });
  });
};
document.querySelectorAll("table.sortable").forEach(sortable);
