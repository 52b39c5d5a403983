"use strict";
// A served page follows its runs: where anything of them changed it takes the new page, and keeps
// tab, filters and place.
const SECONDS = 2;
let state = document.documentElement.dataset.state;
const choices = (tab) => Array.from(tab.querySelectorAll(".outputs option"), (each) => `${each.value} ${each.text}`).join("\n");

const keeping = (tab, fresh) => {
  const opened = Array.from(tab.querySelectorAll("details"), (details) => details.open);
  const checked = new Set(Array.from(tab.querySelectorAll("input:checked"), (input) => input.value));
  tab.replaceChildren(...fresh.childNodes);
  tab.querySelectorAll("details").forEach((details, i) => { details.open = opened[i] || details.open; });
  for (const input of tab.querySelectorAll("input[type=checkbox]")) input.checked = checked.has(input.value);
  tab.querySelectorAll("table.sortable").forEach(sortable);
};
const follow = (fresh) => {
  for (const script of fresh.querySelectorAll("script[type='application/json']")) {
    const mine = document.getElementById(script.id);
    if (mine) mine.textContent = script.textContent;
    else document.body.append(script);
  }
  kept.clear();
  document.querySelector("header").replaceWith(fresh.querySelector("header"));
  const nav = fresh.querySelector("nav");
  if (nav && document.querySelector("nav")) document.querySelector("nav").replaceWith(nav);
  else if (nav) document.querySelector("header").after(nav);
  const main = document.querySelector("main");
  for (const tab of Array.from(fresh.querySelectorAll(".tab"))) {
    const mine = document.getElementById(tab.id);
    if (!mine) {
      main.append(tab);
      tab.querySelectorAll("table.sortable").forEach(sortable);
    } else if (mine.querySelector(".outputs[data-open]") && choices(mine) === choices(tab)) {
      const said = mine.querySelector(".note");
      if (said) said.replaceWith(tab.querySelector(".note"));
      refreshed.get(mine.querySelector(".outputs"))();
    } else {
      keeping(mine, tab);
    }
  }
  open();
};

const ask = async () => {
  const begun = performance.now();
  try {
    const answer = await fetch(`state${location.search}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const now = (await answer.json()).state;
    if (now !== state) {
      const page = await fetch(location.href);
      if (!page.ok) throw new Error(page.statusText);
      follow(new DOMParser().parseFromString(await page.text(), "text/html"));
      state = now;
    }
  } catch {
    const said = "crossflow-eval view no longer answers; this is what it said last.";
    document.querySelector("header [role=status]").textContent = said;
    state = "";
  }
  setTimeout(ask, Math.max(1000 * SECONDS, 5 * (performance.now() - begun)));
};
setTimeout(ask, 1000 * SECONDS);
