// Keeps the words of a page up to date while a run lives. Words are only ever set as text.
"use strict";

(() => {
  const main = document.querySelector("[data-live]");
  const notice = document.getElementById("notice");
  const EVERY = 2000, HIDDEN = 15000; // milliseconds; a page that nobody sees asks less often
  let results = null;

  function tell(words) {
    notice.textContent = words;
    notice.hidden = !words;
  }

  function row(cells) {
    const line = document.createElement("tr");
    cells.forEach((words, place) => {
      const cell = document.createElement(place ? "td" : "th");
      if (!place) cell.scope = "row";
      cell.textContent = words;
      line.append(cell);
    });
    return line;
  }

  function place(said) {
    for (const spot of main.querySelectorAll("[data-fact]")) {
      const words = said.facts[spot.dataset.fact];
      if (words === undefined || words === spot.textContent) continue;
      spot.textContent = words;
      if (spot.dataset.state) spot.dataset.state = words;
    }
    for (const body of main.querySelectorAll("[data-rows]")) {
      const rows = said.rows[body.dataset.rows] ?? [];
      body.replaceChildren(...rows.map(row));
      body.closest("[data-table]").hidden = rows.length === 0;
    }
  }

  async function look() {
    try {
      const answer = await fetch(main.dataset.live, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const said = await answer.json();
      place(said);
      const now = JSON.stringify(said.results);
      results ??= now;
      tell(results === now ? "" : "There are new results: reload the page to see them.");
      if (!said.lives) {
        location.reload();
        return;
      }
    } catch {
      tell("The dashboard does not answer: the words below may be out of date.");
    }
    setTimeout(look, document.hidden ? HIDDEN : EVERY);
  }

  setTimeout(look, EVERY);
})();
