// Comforts of the console. Every page works without this file.
(() => {
  "use strict";
  const PAUSED = "kling-receiver-paused";
  const STALE_MS = 15000;
  const follow = document.getElementById("follow");
  const state = document.getElementById("follow-state");
  const pause = document.getElementById("follow-pause");
  let isPaused = false;
  let isConnected = false;
  let heardAt = 0;

  try { isPaused = sessionStorage.getItem(PAUSED) === "1"; } catch { /* no storage: pauses last for one page */ }

  const show = () => {
    if (!follow) return;
    follow.hidden = false;
    const isFresh = isConnected && Date.now() - heardAt < STALE_MS;
    const [text, kind] = isPaused ? ["Paused", "paused"] : isFresh ? ["Live", "live"] : ["Connecting", "lost"];
    if (state.textContent !== text) state.textContent = text;
    follow.dataset.state = kind;
    pause.textContent = isPaused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(isPaused));
  };

  // A refresh must not disturb a person who selects rows or text, or who fills in a form.
  const isBusy = () => {
    const page = document.getElementById("page");
    const focused = document.activeElement;
    return page.querySelector(".tick input:checked, details.form[open]") !== null
      || (page.contains(focused) && focused.matches("input, select, textarea"))
      || !(getSelection()?.isCollapsed ?? true);
  };

  const refresh = () => {
    if (!isPaused && !isBusy()) htmx.trigger(document.getElementById("page"), "console-refresh");
  };

  // The answer to a refresh may come after the person has begun.
  document.addEventListener("htmx:before:swap", (event) => {
    if (event.target.id === "page" && (isPaused || isBusy())) event.preventDefault();
  });

  if (follow) {
    pause.addEventListener("click", () => {
      isPaused = !isPaused;
      try { sessionStorage.setItem(PAUSED, isPaused ? "1" : "0"); } catch { /* as above */ }
      show();
      refresh();
    });
    // Each message shows that the page is connected: the first one may have come before this file was loaded.
    const hear = () => { isConnected = true; heardAt = Date.now(); show(); };
    follow.addEventListener("console-connected", hear);
    follow.addEventListener("console-changed", () => { hear(); refresh(); });
    for (const name of ["htmx:sse:error", "htmx:sse:close", "htmx:error", "htmx:response:error"]) {
      document.addEventListener(name, (event) => {
        if (event.target !== follow) return;
        isConnected = false;
        show();
        if (event.detail?.status === 401) location.reload(); // the session has ended: this leads to the login
      });
    }
    // htmx may have read the page before its extension was loaded. Then it has passed over the attribute that connects.
    const process = () => { if (!follow._htmx) htmx.process(follow); };
    document.addEventListener("DOMContentLoaded", process);
    setInterval(() => {
      process();
      // The extension repeats a connection that broke off, but not the first one.
      if (!isConnected && !follow._htmx?.sse) htmx.trigger(follow, "console-connect");
      show();
    }, 3000);
    show();
  }

  const copy = async (text) => {
    if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea"); // on plain http there is no clipboard
    area.value = text;
    area.setAttribute("readonly", "");
    area.className = "offscreen";
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (!isCopied) throw new Error("not copied");
  };

  // On a narrow screen the menu scrolls sideways.
  const menu = document.querySelector(".menu");
  const current = menu?.querySelector("[aria-current]");
  if (current) menu.scrollLeft = current.offsetLeft - (menu.clientWidth - current.offsetWidth) / 2;

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const before = button.textContent;
    try {
      await copy(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = before; }, 2000);
  });

  document.addEventListener("change", (event) => {
    const all = event.target.closest?.("[data-select-all]");
    if (!all) return;
    for (const box of document.querySelectorAll(".tick input")) box.checked = all.checked;
  });
})();
