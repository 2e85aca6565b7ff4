// What every page does besides showing HTML: it says when there are no news, keeps the focus, and goes on when a job is done.
"use strict";

const silent = document.getElementById("silent");
document.body.addEventListener("htmx:sseError", () => { silent.hidden = false; });
document.body.addEventListener("htmx:sseOpen", () => { silent.hidden = true; });

// A form is sent once, also with a double click.
document.body.addEventListener("submit", (sending) => {
  if (sending.target.dataset.sent) sending.preventDefault();
  sending.target.dataset.sent = "yes";
});
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

// The form: questions that have no effect given another answer are hidden, and each has what is wrong with its answer.
const form = document.getElementById("deploy");
if (form) {
  const problems = document.getElementById("problems");
  const update = () => {
    for (const row of form.querySelectorAll("[data-only]")) {
      const other = form.elements[row.dataset.only];
      row.hidden = Boolean(other) && !row.dataset.values.split(" ").includes(other.value);
    }
  };
  form.addEventListener("change", update);
  update();
  problems.addEventListener("htmx:afterSwap", () => {
    document.getElementById("refused")?.remove();
    const found = new Map(Array.from(problems.querySelectorAll("[data-field]"), (line) => [line.dataset.field, line.dataset.text]));
    for (const said of form.querySelectorAll("[data-problem]")) {
      const name = said.dataset.problem, text = found.get(name) ?? "";
      said.textContent = text;
      said.hidden = !text;
      if (text) form.elements[name].setAttribute("aria-invalid", "true");
      else form.elements[name].removeAttribute("aria-invalid");
    }
  });
  problems.addEventListener("click", (pressed) => {
    const field = form.elements[pressed.target.getAttribute("href")?.slice(1)];
    if (!field) return;
    pressed.preventDefault();
    for (let part = field.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
    field.closest("[data-only]")?.removeAttribute("hidden");
    field.focus();
  });
}

// A part of the page that is replaced keeps the focus and where its tables are scrolled to.
let kept = null;
const regions = (part) => part.querySelectorAll(".scroll[aria-label]");
const key = (element) => element.getAttribute("href") ?? element.getAttribute("aria-label");
document.body.addEventListener("htmx:sseBeforeMessage", ({ target }) => {
  const focused = document.activeElement;
  kept = {
    key: target.contains(focused) ? key(focused) : null,
    scrolled: new Map(Array.from(regions(target), (region) => [key(region), [region.scrollLeft, region.scrollTop]])),
  };
});
document.body.addEventListener("htmx:sseMessage", ({ target, detail }) => {
  for (const region of regions(target)) region.scrollTo(...(kept?.scrolled.get(key(region)) ?? [0, 0]));
  if (kept?.key) Array.from(target.querySelectorAll("[href], [aria-label]")).find((one) => key(one) === kept.key)?.focus({ preventScroll: true });
  kept = null;
  count();
  if (detail.type === "gone") for (const part of document.querySelectorAll("#change, [sse-swap=trouble], [sse-swap=overview], [sse-swap=sites], [sse-swap=runs], [sse-swap=now]")) part.hidden = true;
  if (detail.type !== "end") return;
  const next = document.querySelector("[data-next]");
  if (next) location.replace(next.href);
});

// Seconds since something began.
function count() {
  for (const clock of document.querySelectorAll("[data-since]")) {
    clock.textContent = `(${Math.max(0, Math.round(Date.now() / 1000 - Number(clock.dataset.since)))} s)`;
  }
}
count();
setInterval(count, 1000);
