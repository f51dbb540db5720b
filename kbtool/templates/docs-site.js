"use strict";
// Search and copying; every page can be read without this.
(() => {
  const root = new URL(".", document.currentScript.src).href;
  const input = document.getElementById("page-search");
  const box = document.getElementById("page-results");
  const shown = 12;
  const entries = SEARCH_INDEX.map(([label, kind, href, names, definition]) => (
    { label, kind, href, definition, names, low: [label, names, definition].map((text) => text.toLowerCase()) }
  ));

  /** The entries that hold every word: first those that hold it as a whole word in label or names, rules before others. */
  function search(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const rank = ({ low: [label, names, definition] }) => {
      let worst = 0;
      for (const word of words) {
        const place = whole(`${label} ${names}`, word) ? 0 : `${label} ${names}`.includes(word) ? 1 : definition.includes(word) ? 2 : 9;
        worst = Math.max(worst, place);
      }
      return worst;
    };
    const order = ({ href }) => {
      const at = ["rules/", "terms/", "statements/", "glossary"].findIndex((start) => href.startsWith(start));
      return (href.includes("#") ? 0.5 : 0) + (at < 0 ? 2 : at) / 10;
    };
    return entries.map((entry) => [rank(entry), entry]).filter(([place]) => place < 9)
      .map(([place, entry]) => [place + order(entry), entry]).sort((a, b) => a[0] - b[0]).map(([, entry]) => entry);
  }

  function whole(text, word) {
    return text.split(/[^\p{L}\p{N}.-]+/u).includes(word);
  }

  function element(name, text, properties = {}) {
    return Object.assign(document.createElement(name), { textContent: text }, properties);
  }

  function show() {
    const found = search(input.value);
    box.hidden = !input.value.trim();
    const list = document.createElement("ol");
    for (const entry of found.slice(0, shown)) {
      const item = document.createElement("li");
      const link = element("a", "", { href: root + entry.href });
      link.append(element("strong", entry.label), " ", element("span", entry.kind, { className: "muted" }));
      if (entry.definition) link.append(element("span", entry.definition, { className: "definition" }));
      item.append(link);
      list.append(item);
    }
    const more = found.length > shown ? `; press Enter for all` : "";
    const count = found.length ? `${found.length} found${more}` : "Nothing found";
    const status = element("p", count, { className: "muted" });
    status.setAttribute("role", "status");
    box.replaceChildren(status, list);
  }

  input.addEventListener("input", show);
  input.form.addEventListener("keydown", (event) => {
    const links = [input, ...box.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") {
      box.hidden = true;
      input.focus();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      links[Math.min(Math.max(at + (event.key === "ArrowDown" ? 1 : -1), 0), links.length - 1)].focus();
    }
  });
  document.addEventListener("click", (event) => { if (!input.form.contains(event.target)) box.hidden = true; });

  // The page of all terms, narrowed to what was searched for.
  const found = document.getElementById("page-found");
  const query = new URLSearchParams(location.search).get("q");
  if (found && query && query.trim()) {
    input.value = query;
    const hits = new Set(search(query).map((entry) => entry.href));
    let count = 0;
    for (const section of document.querySelectorAll(".letter")) {
      for (const item of section.querySelectorAll("li")) {
        item.hidden = !hits.has(item.querySelector("a").getAttribute("href"));
        count += item.hidden ? 0 : 1;
      }
      section.hidden = !section.querySelector("li:not([hidden])");
    }
    found.textContent = `${count} found for “${query}”. `;
    found.append(element("a", "Show everything", { href: "a-z.html" }));
  }

  for (const pre of document.querySelectorAll("pre.copy")) {
    const button = element("button", "Copy", { type: "button" });
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(pre.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(pre);
        button.textContent = "Selected; press Ctrl+C";
      }
    });
    pre.before(button);
  }

  // A link into something folded opens it, and a printout has nothing folded.
  function unfold() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  }
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("main details:not(.manchester)")) part.open = true; });
})();
