"use strict";
// Everything works without this script; it only refreshes the page every few seconds.
(() => {
  const every = 5000;
  const note = document.getElementById("refreshed");
  const pause = document.getElementById("pause");
  const { on, paused: stopped, lost } = note.dataset;
  let paused = false;

  // The result of a form is shown once, not again when the page is reloaded; and a cookie keeps the language.
  const here = new URL(location.pathname + location.search, location.origin);
  here.searchParams.delete("done");
  here.searchParams.delete("lang");
  history.replaceState(null, "", here.pathname + here.search + location.hash);

  // Replacing what has the focus or the selection would pull it from under the user.
  const inUse = (part) =>
    part.contains(document.activeElement) || (!getSelection().isCollapsed && getSelection().containsNode(part, true));

  // Times come in UTC, and stay so in their titles.
  function localize(root) {
    const two = (number) => String(number).padStart(2, "0");
    const now = new Date();
    for (const clock of root.querySelectorAll("time .clock")) {
      const at = new Date(clock.parentElement.dateTime);
      const day = `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
      let text = `${two(at.getHours())}:${two(at.getMinutes())}`;
      if (clock.classList.contains("whole")) text = `${at.getFullYear()}-${day} ${text}:${two(at.getSeconds())}`;
      else if (at.toDateString() !== now.toDateString()) text = `${day} ${text}`;
      clock.textContent = text;
    }
  }

  function take(fresh) {
    localize(fresh);
    const shown = document.querySelector("link[rel=icon]");
    const { icon } = fresh.getElementById("head").dataset;
    if (shown.getAttribute("href") !== icon) shown.href = icon;
    document.title = document.title.replace(/.*(?= – )/u, () => fresh.querySelector("h1").textContent);
    for (const folded of fresh.querySelectorAll("details[id]"))
      folded.open = document.getElementById(folded.id)?.open ?? false;
    for (const other of [...fresh.querySelectorAll("[data-live]")]) {
      const part = document.getElementById(other.id);
      if (part === null) return location.reload();
      part.classList.remove("stale");
      if (!inUse(part) && part.outerHTML !== other.outerHTML) part.replaceWith(document.adoptNode(other));
    }
  }

  async function refresh() {
    if (paused || document.hidden) return;
    const address = new URL(here);
    address.searchParams.set("fragment", "1");
    try {
      const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(2 * every) });
      // 503 is still a page: it says that Redis is down.
      if (!answer.ok && answer.status !== 503) throw new Error(`status ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (fresh.getElementById("head") === null) throw new Error("the answer is not the page");
      take(fresh);
      for (const part of document.querySelectorAll("main [data-live]")) part.classList.toggle("stale", !answer.ok);
      note.textContent = on;
    } catch (error) {
      for (const part of document.querySelectorAll("[data-live]")) part.classList.add("stale");
      note.textContent = lost.replace("%", () => error.message);
    }
  }

  async function go() {
    for (;;) {
      await new Promise((done) => setTimeout(done, every));
      await refresh();
    }
  }

  // A link to something folded opens it; some browsers do so by themselves.
  const open = () => {
    const folded = location.hash && document.getElementById(location.hash.slice(1))?.closest("details");
    if (folded) folded.open = true;
  };

  localize(document);
  open();
  window.addEventListener("hashchange", open);
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    note.textContent = paused ? stopped : on;
  });
  document.addEventListener("visibilitychange", refresh);
  note.textContent = on;
  go();
})();
