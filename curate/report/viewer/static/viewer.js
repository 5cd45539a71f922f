// What HTML and htmx do not do by themselves: sliders beside numbers, sorting by a column's head, keys, failures.
"use strict";

const look = () => document.getElementById("look");
const changed = (element) => element.dispatchEvent(new Event("change", { bubbles: true }));

// A slider and its number are one value. By another metric, or by score after by share, the lowest score is that of the
// share, which the server knows. Capturing, so that htmx reads them after.
document.addEventListener("input", (event) => {
  const { dataset, id, name, value } = event.target;
  const other = dataset.for ? document.getElementById(dataset.for) : document.querySelector(`[data-for="${CSS.escape(id || " ")}"]`);
  if (other) other.value = value;
  if (id === "by" || name === "keep_by") document.getElementById("min_score").value = "";
}, true);

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "answer") return;
  const counted = document.getElementById("counted");
  const slider = document.getElementById("score-slider");
  const score = document.getElementById("min_score");
  slider.min = counted.dataset.low;
  slider.max = counted.dataset.high;
  if (score.value === "") slider.value = score.value = counted.dataset.lowest;
});

// On the last page there is no Next to have the focus again.
let inList = false;
document.addEventListener("htmx:beforeSwap", (event) => {
  inList = event.detail.target.id === "list" && event.detail.target.contains(document.activeElement);
});
document.addEventListener("htmx:afterSwap", () => {
  if (inList && document.activeElement === document.body) document.querySelector("#list .pager a")?.focus({ preventScroll: true });
});

document.addEventListener("click", (event) => {
  const column = event.target.closest("[data-sort]")?.dataset.sort;
  if (column) {
    const form = look();
    const now = form.sort.value || form.by.value;
    form.ascending.checked = now === column && !form.ascending.checked;
    form.sort.value = column;
    changed(form.sort);
  }
  if (event.target.closest("#keys-open")) document.getElementById("keys").showModal();
});

// Back, pressed again while the page before was being loaded, was heard by nobody.
document.addEventListener("DOMContentLoaded", () => {
  const [arrival] = performance.getEntriesByType("navigation");
  const page = (address) => address.split("#")[0];
  if (page(arrival.name) !== page(location.href)) location.reload();
});

// What went wrong is said until what asked for it succeeds, or is no more.
let failed = null;
const say = (text, element = null) => {
  const failure = document.getElementById("failure");
  failure.textContent = text;
  failure.hidden = !text;
  failed = element;
};
document.addEventListener("htmx:responseError", ({ detail }) => say(detail.xhr.responseText, detail.elt));
document.addEventListener("htmx:sendError", () => say("curate view does not answer: was it ended?"));
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (detail.successful && (!failed?.isConnected || failed === detail.elt)) say("");
});

// A key presses what it stands for: on the card that has the focus, or on the page.
const press = (selector) => {
  const card = document.activeElement?.closest(".card");
  const found = card?.querySelector(selector) ?? (document.querySelector(".card") ? null : document.querySelector(selector));
  found?.click();
};
const step = (by) => {
  const cards = [...document.querySelectorAll(".card .open")];
  const at = cards.indexOf(document.activeElement?.closest(".card")?.querySelector(".open"));
  cards[at < 0 ? 0 : Math.min(Math.max(at + by, 0), cards.length - 1)]?.focus();
};
const keys = {
  "?": () => document.getElementById("keys").showModal(),
  "/": () => document.getElementById("find").focus(),
  ArrowLeft: () => document.getElementById("previous-page")?.click(),
  ArrowRight: () => document.getElementById("next-page")?.click(),
  Escape: () => document.getElementById("back")?.click(),
  j: () => step(-1),
  l: () => step(1),
  k: () => press('[data-key="k"]'),
  d: () => press('[data-key="d"]'),
  p: () => press('[data-key="p"]'),
  e: () => press('[data-key="e"]'),
};
document.addEventListener("keydown", (event) => {
  const other = event.target.closest("input, select, textarea, dialog") || event.target.matches("[role=region]"); // arrows scroll it
  if (other || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
