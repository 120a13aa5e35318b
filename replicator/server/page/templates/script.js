"use strict";
// Everything works without this; it only looks again every few seconds.
(() => {
  const every = 5000;
  const said = document.getElementById("refreshed");
  const pause = document.getElementById("pause");
  let paused = false;

  // A word on what was done is said once.
  const here = new URL(location.pathname + location.search, location.origin);
  here.searchParams.delete("told");
  history.replaceState(null, "", here.pathname + here.search + location.hash);

  const inUse = (part) =>
    part.contains(document.activeElement) || (!getSelection().isCollapsed && getSelection().containsNode(part, true));

  function take(fresh) {
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
      // 503 is the page of a queue that is away.
      if (!answer.ok && answer.status !== 503) throw new Error(`it answers ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (fresh.getElementById("head") === null) throw new Error("its answer is no page");
      take(fresh);
      for (const part of document.querySelectorAll("main [data-live]")) part.classList.toggle("stale", !answer.ok);
      said.textContent = "Looks again every 5 seconds.";
    } catch (error) {
      for (const part of document.querySelectorAll("[data-live]")) part.classList.add("stale");
      said.textContent = `Out of date: the replicator can't be asked (${error.message}).`;
    }
  }

  async function go() {
    for (;;) {
      await new Promise((done) => setTimeout(done, every));
      await refresh();
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    said.textContent = paused ? "Paused." : "Looks again every 5 seconds.";
  });
  document.addEventListener("visibilitychange", refresh);
  said.textContent = "Looks again every 5 seconds.";
  go();
})();
