// The query view: an editor where the service has one, a plain field otherwise, and the rows that come back.

import { Trouble, ask, complain, given, made, only, part, said, stop, visible } from "./service.js";

const XSD = "http://www.w3.org/2001/XMLSchema#";
const BARE = new Set(["string", "integer", "decimal", "boolean", "double"].map((name) => XSD + name));
const RESULTS = "application/sparql-results+json, text/turtle;q=0.9";
const AT_ONCE = 200;

let editor = null; // the editor, once it is there
let prefixes = {};
let pages = {}; // the page in the guideline of each term
let rows = { vars: [], bindings: [], shown: 0 };
let opened = false;
let sample = ""; // the text of the example query in the editor
let asked = null; // the request whose rows are shown
let told = ""; // what is said of them

const text = () => (editor ? editor.getValue() : part("query-text").value);

/** Fill the view when it is first shown. setup: what the service tells of itself; moment: gives the time of the form. */
export async function openQuery(setup, moment) {
  if (opened) return;
  opened = true;
  part("query-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run(moment);
  });
  part("query-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(moment);
  });
  part("more").addEventListener("click", showMore);
  part("save-csv").addEventListener("click", () => save("text/csv", "rows.csv"));
  part("save-json").addEventListener("click", () => save("application/sparql-results+json", "rows.json"));
  try {
    const known = await setup;
    prefixes = known.prefixes;
    part("graphs").append(...known.graphs.map(({ iri, title }) => made("li", made("code", `<${iri}>`), ` ${title}`)));
    listSamples(known.queries);
    const terms = await ask("/assets/terms.json", { method: "GET" }).then((answer) => answer.json());
    pages = terms.pages;
    if (!known.editor) throw new Trouble("The query editor is not installed (pip install 'kbtool[serve]'); this field does without.");
    await openEditor(terms, moment);
  } catch (error) {
    part("editor-note").textContent = error.message;
    part("editor-note").hidden = false;
  }
}

function listSamples(queries) {
  const titles = { patients: "About a patient", knowledge: "About the knowledge" };
  for (const [asks, title] of Object.entries(titles)) {
    const group = document.createElement("optgroup");
    group.label = title;
    group.append(...queries.filter((each) => each.asks === asks).map(({ name, summary }) => new Option(summary, name)));
    part("sample").append(group);
  }
  part("sample").addEventListener("change", () => {
    const chosen = queries.find(({ name }) => name === part("sample").value);
    part("sample-description").textContent = chosen?.description || "";
    if (!chosen) return;
    const old = text();
    if (old.trim() && old !== sample && !confirm("Replace the query that you wrote?")) return;
    sample = chosen.text.replace(/^(#\+.*\n)+\n*/, "");
    setText(sample);
    part("with-patient").checked = chosen.asks === "patients";
  });
}

function setText(query) {
  if (editor) editor.setValue(query);
  part("query-text").value = query;
}

/** The editor of YASGUI. Nothing that it stores, shares or fetches by default is left on. */
async function openEditor({ classes, properties }, moment) {
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/assets/yasgui.min.css" });
  const script = Object.assign(document.createElement("script"), { src: "/assets/yasgui.min.js" });
  const whole = [style, script].map((each) => new Promise((done, failed) => Object.assign(each, { onload: done, onerror: failed })));
  document.head.prepend(style); // before our own style, which has the last word
  document.head.append(script);
  try {
    await Promise.all(whole); // without its style an editor is drawn where a click does not find it
  } catch {
    style.remove();
    throw new Trouble("The query editor could not be loaded; this field does without.");
  }
  const Yasqe = window.Yasgui.Yasqe;
  const listed = { class: classes, property: properties, prefixes: Object.entries(prefixes).map(([name, iri]) => `${name}: <${iri}>`) };
  for (const [name, get] of Object.entries(listed)) {
    Yasqe.forkAutocompleter(name, { name, get, bulk: true, persistenceId: null });
  }
  const start = text();
  editor = new Yasqe(part("editor"), {
    value: start,
    persistenceId: null,
    createShareableLink: null,
    consumeShareLink: null,
    showQueryButton: false,
    requestConfig: { endpoint: "/sparql" },
    editorHeight: "20rem",
    // Tab leaves the editor: who has no mouse must be able to.
    extraKeys: { Tab: false, "Shift-Tab": false, "Ctrl-S": false, "Ctrl-Enter": () => run(moment), "Cmd-Enter": () => run(moment) },
  });
  editor.query = () => run(moment);
  editor.getInputField().setAttribute("aria-label", "Query in SPARQL");
  for (const each of ["query-text", "editor"]) part(each).classList.add("replaced");
  if (document.activeElement === part("query-text")) editor.focus();
}

/** Ask the query: of the knowledge, or of it with the facts in the form. While it runs, the button stops it. */
async function run(moment) {
  if (part("run").textContent === "Stop") {
    stop("query");
    return;
  }
  part("run").textContent = "Stop";
  asked = null;
  say("Working…");
  complain(part("query-error"), null);
  empty();
  try {
    const done = await only("query", async (signal) => {
      const began = performance.now();
      asked = request(moment);
      const answer = await ask(asked.path, { ...asked, accept: RESULTS, signal });
      const [kind, body] = [answer.headers.get("content-type"), await answer.text()];
      const time = Math.round(performance.now() - began);
      return { kind, body, time, lost: asked.facts ? await notAccepted(asked.facts, signal) : [] };
    });
    if (done) tell(done);
    else say("Stopped.");
  } catch (error) {
    say("");
    complain(part("query-error"), error);
  } finally {
    part("run").textContent = "Run";
  }
}

function request(moment) {
  const query = text();
  if (!query.trim()) throw new Trouble("There is no query yet: choose an example or write one.");
  if (!part("with-patient").checked) {
    return { path: "/sparql", body: query, type: "application/sparql-query", token: given.token() };
  }
  if (!given.facts().trim()) throw new Trouble("There are no facts in “Patient”: give them, or do not ask about the patient.");
  const [facts, format, asOf] = [given.facts(), given.format(), moment()];
  const body = JSON.stringify({ query, facts, asOf, partial: true, ...(format ? { format } : {}) });
  return { path: "/query", body, type: "application/json", form: given.all(), facts: { body: facts, type: format || "text/plain", asOf } };
}

/** What of the facts a query cannot see, because it was refused, set aside or not read: rows alone would not tell. */
async function notAccepted({ body, type, asOf }, signal) {
  const answer = await ask(`/validate?asOf=${encodeURIComponent(asOf)}`, { body, type, signal });
  const { violations, notRead, unassigned } = await answer.json();
  const words = { refused: "Refused, so that nothing is answered for", setAside: "Set aside of" };
  const lost = violations.filter(({ effect }) => words[effect]);
  return [
    ...lost.map(({ effect, patient, message }) => made("li", `${words[effect]} `, said(patient), ": ", said(message))),
    ...notRead
      .filter(({ matters }) => matters)
      .map(({ resource, reason }) => made("li", "Not read: ", said(resource), ": ", said(reason))),
    ...unassigned.map((node) => made("li", "Not read, because it belongs to no patient: ", said(node))),
  ];
}

// --- What came back ------------------------------------------------------------------------------------

function say(words) {
  told = words;
  tellWhetherRowsAreOld();
}

/** Say so when the form no longer holds the facts that the rows are about. */
export function tellWhetherRowsAreOld() {
  const old = Boolean(asked?.form && told && asked.form !== given.all());
  part("query-status").textContent = old ? "The facts or the time were changed after this was asked. Press Run." : told;
  for (const name of ["query-status", "query-error", "rows", "graph"]) part(name).classList.toggle("old", old);
}

function empty() {
  for (const name of ["rows", "graph", "more"]) part(name).hidden = true;
  part("table").replaceChildren();
  part("graph").textContent = "";
}

const counted = (number, word) => `${number.toLocaleString("en-GB")} ${word}${number === 1 ? "" : "s"}`;

function tell({ kind, body, time, lost }) {
  if (lost.length) {
    part("query-error").replaceChildren(made("div", made("h2", "The query does not see all facts of the patient"), made("ul", ...lost)));
    part("query-error").firstChild.className = "problem";
  }
  const took = `in ${time} ms${asked.form ? ", with the facts of the patient" : ""}.`;
  if (!kind.startsWith("application/sparql-results+json")) {
    part("graph").textContent = visible(body);
    part("graph").hidden = false;
    say(`A graph, ${took}`);
    return;
  }
  const found = JSON.parse(body);
  if ("boolean" in found) {
    say(`${found.boolean ? "Yes" : "No"}, ${took}`);
    return;
  }
  rows = { vars: found.head.vars, bindings: found.results.bindings, shown: 0 };
  say(`${counted(rows.bindings.length, "row")}, ${took}`);
  if (!rows.bindings.length) return;
  const head = made("tr", ...rows.vars.map((name) => Object.assign(made("th", name), { scope: "col" })));
  part("table").replaceChildren(made("thead", head), made("tbody"));
  part("rows").hidden = false;
  showMore();
}

function showMore() {
  const next = rows.bindings.slice(rows.shown, rows.shown + AT_ONCE);
  const drawn = next.map((row) => made("tr", ...rows.vars.map((name) => made("td", ...cell(row[name])))));
  part("table").tBodies[0].append(...drawn);
  rows.shown += next.length;
  const left = rows.bindings.length - rows.shown;
  part("more").hidden = left === 0;
  part("more").textContent = `Show ${counted(Math.min(left, AT_ONCE), "more row")} of ${left.toLocaleString("en-GB")} left`;
}

/** A term as an engineer reads it. Only terms of the knowledge base become links, to their page in the guideline. */
function cell(term) {
  if (!term) return [];
  if (term.type === "triple") return [said(JSON.stringify(term.value))];
  if (term.type === "bnode") return [said(`_:${term.value}`)];
  if (term.type === "uri") {
    const name = said(shortened(term.value));
    const page = Object.hasOwn(pages, term.value) ? pages[term.value] : null;
    if (!page) return [name];
    return [Object.assign(made("a", name), { href: `/guideline/${page}`, target: "_blank", rel: "noopener" })];
  }
  if (term["xml:lang"] && term["xml:lang"] !== "en") return [said(term.value), made("small", ` @${term["xml:lang"]}`)];
  if (!term.datatype || BARE.has(term.datatype)) return [said(term.value)];
  return [said(term.value), made("small", ` ${shortened(term.datatype)}`)];
}

function shortened(iri) {
  for (const [prefix, space] of Object.entries(prefixes)) {
    if (iri.startsWith(space) && /^[\w-]*$/.test(iri.slice(space.length))) return `${prefix}:${iri.slice(space.length)}`;
  }
  return `<${iri}>`;
}

/** Ask once more for a file. */
async function save(accept, name) {
  complain(part("query-error"), null);
  try {
    const body = await only("save", (signal) => ask(asked.path, { ...asked, accept, signal }).then((answer) => answer.blob()));
    if (!body) return;
    const address = URL.createObjectURL(body);
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    complain(part("query-error"), error);
  }
}
