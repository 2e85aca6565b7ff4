// What every page does besides showing HTML: it says when there are no news, and goes on when a job is done.
"use strict";

const silent = document.getElementById("silent");
document.body.addEventListener("htmx:sseError", () => { silent.hidden = false; });
document.body.addEventListener("htmx:sseOpen", () => { silent.hidden = true; });

// The form: questions that have no effect given another answer are hidden.
const form = document.getElementById("deploy");
if (form) {
  const update = () => {
    for (const row of form.querySelectorAll("[data-only]")) {
      const other = form.elements[row.dataset.only];
      row.hidden = Boolean(other) && !row.dataset.values.split(" ").includes(other.value);
    }
  };
  form.addEventListener("change", update);
  update();
}

document.body.addEventListener("htmx:sseMessage", (message) => {
  if (message.detail.type !== "end") return;
  const next = document.querySelector("[data-next]");
  if (next) location.replace(next.href);
});
