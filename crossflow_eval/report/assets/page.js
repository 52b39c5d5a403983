"use strict";
// Filters and orders the cards of each run. The page is whole without it: then all cards stand, failures first.
for (const section of document.querySelectorAll(".samples")) {
  const form = section.querySelector(".controls");
  const holder = section.querySelector(".cards");
  const count = section.querySelector(".count");
  const cards = Array.from(holder.children, (figure) => ({
    figure,
    data: figure.dataset,
    text: figure.querySelector("figcaption").textContent.toLowerCase(),
  }));
  const rank = { wrong: 0, none: 1, right: 2 };
  const number = (card, name) => Number(card.figure.getAttribute("data-" + name));
  const key = (card, order) => (order === "failures" ? rank[card.data.verdict] : number(card, order));

  const update = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const search = (wanted.search || "").trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      const fits = (!wanted.task || card.data.task === wanted.task)
        && (!wanted.verdict || card.data.verdict === wanted.verdict)
        && card.text.includes(search);
      card.figure.hidden = !fits;
      shown += fits;
    }
    const before = (a, b) => key(a, wanted.sort) - key(b, wanted.sort) || number(a, "order") - number(b, "order");
    holder.append(...cards.sort(before).map((card) => card.figure));
    const outputs = cards.length === 1 ? "output" : "outputs";
    const all = cards.length.toLocaleString("en");
    const part = shown === cards.length ? "" : `${shown.toLocaleString("en")} of `;
    count.textContent = `${part}${all} ${outputs}, ${form.elements.sort.selectedOptions[0].text}`;
  };

  form.hidden = false;
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}
