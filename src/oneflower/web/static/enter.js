// Exchanges the token of the address for a cookie. The browser never sends what is behind the #.
"use strict";

const said = document.getElementById("said");
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
fetch(location.pathname, { method: "POST", body: new URLSearchParams({ token }) }).then(
  async (answer) => {
    if (answer.ok) location.replace("/");
    else said.textContent = await answer.text();
  },
  () => { said.textContent = "The page does not answer. Does `oneflower ui` still run?"; },
);
