// The workbench: choose or paste a patient, see the report, ask why. Nothing is stored in the browser.

import { Trouble, ask, complain, given, made, only, part, said, stop, visible } from "./service.js";
import { openQuery, tellWhetherRowsAreOld } from "./query.js";

const setup = ask("/assets/workbench.json", { method: "GET" }).then((answer) => answer.json());
const SECTIONS = [
  ["refused", "Refused: nothing is answered for this patient", true],
  ["setAside", "Set aside: these facts were not used", false],
  ["warnings", "Unusual: used, but check them", false],
];

let assessed = null; // what the report on the page was made from: paths to assess and explain, body, type, time
let worked = []; // the worked patients
let taken = ""; // the facts as they were taken from a worked patient or a file: what differs was typed
let exact = { shown: "", iso: "" }; // a time that was set with the facts, and as the field shows it

// --- Views ---------------------------------------------------------------------------------------------

const tabs = [...part("views").children];

function show(name, { focus = false } = {}) {
  for (const tab of tabs) {
    const mine = tab.id === `tab-${name}`;
    tab.ariaSelected = String(mine);
    tab.tabIndex = mine ? 0 : -1;
    part(tab.getAttribute("aria-controls")).hidden = !mine;
    if (mine && focus) tab.focus();
  }
  history.replaceState(null, "", `#see-${name}`); // no place of that name: the browser is not to jump to it
  if (name === "query") openQuery(setup, moment);
  if (name === "guideline" && !part("guideline-page").src) part("guideline-page").src = "/guideline/";
}

part("views").addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (tab) show(tab.id.slice(4));
});
part("views").addEventListener("keydown", (event) => {
  const at = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(tabs[to % tabs.length].id.slice(4), { focus: true });
});
part("guideline-page").addEventListener("load", () => {
  part("guideline-page").contentDocument?.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (link && link.origin !== location.origin) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  });
});

// --- The patient ---------------------------------------------------------------------------------------

/** The time of the assessment as the service wants it. Throws Trouble where it was typed in part only. */
function moment() {
  const field = part("as-of");
  if (field.validity.badInput) throw new Trouble("The time is not complete; fill in all of it, or press Now.");
  if (!field.value) return new Date().toISOString();
  return field.value === exact.shown ? exact.iso : new Date(field.value).toISOString();
}

function setMoment(iso) {
  const time = iso ? new Date(iso) : null;
  const two = (number) => String(number).padStart(2, "0");
  part("as-of").value = time
    ? `${String(time.getFullYear()).padStart(4, "0")}-${two(time.getMonth() + 1)}-${two(time.getDate())}T${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`
    : "";
  exact = { shown: part("as-of").value, iso };
  tellMoment();
}

function tellMoment() {
  const field = part("as-of");
  if (field.validity.badInput) part("as-of-hint").textContent = "The time is not complete.";
  else part("as-of-hint").textContent = field.value ? `That is ${moment()}.` : "Empty: the moment at which you press Assess.";
  tellWhetherOld();
}

/** Say so when the form no longer holds what the report was made from. */
function tellWhetherOld() {
  const same = !assessed?.form || assessed.form === given.all();
  for (const name of ["problems", "report", "why", "next"]) part(name).classList.toggle("old", !same);
  part("status").classList.toggle("old", !same);
  tellWhetherRowsAreOld();
  part("status").textContent = !assessed?.told || same ? assessed?.told || "" : "The facts or the time were changed after this report was made. Press Assess.";
}

/** Take facts into the form; what was shown of another patient goes away. */
function take(facts, { format = "", iso = "" } = {}) {
  part("facts").value = taken = facts;
  part("format").value = format;
  setMoment(iso);
  forget();
}

const typed = () => part("facts").value.trim() !== "" && part("facts").value !== taken;
const mayReplace = () => !typed() || confirm("Replace the facts that you typed?");

async function takeFile(file) {
  if (!mayReplace()) return;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (text.includes("\0")) throw new TypeError();
    if (part("example")) choose("");
    take(text, { format: { ttl: "text/turtle", nt: "application/n-triples", jsonld: "application/ld+json" }[file.name.split(".").pop().toLowerCase()] });
    part("facts").focus();
  } catch {
    forget();
    complain(part("error"), new Trouble(`${file.name} is not UTF-8 text; save it as UTF-8.`));
  }
}

part("file").addEventListener("change", () => {
  if (part("file").files[0]) takeFile(part("file").files[0]);
  part("file").value = "";
});
for (const name of ["dragover", "drop"]) {
  addEventListener(name, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault(); // a file that is dropped beside the field would take the place of this page
    part("drop").classList.toggle("over", name === "dragover" && part("drop").contains(event.target));
    if (name !== "drop" || !part("drop").contains(event.target)) return;
    if (event.dataTransfer.files.length === 1) takeFile(event.dataTransfer.files[0]);
    else complain(part("error"), new Trouble("Drop one file at a time."));
  });
}
part("drop").addEventListener("dragleave", () => part("drop").classList.remove("over"));
for (const name of ["facts", "format"]) part(name).addEventListener("input", tellWhetherOld);
for (const name of ["input", "keyup", "blur"]) part("as-of").addEventListener(name, tellMoment); // half a time is no input
part("now").addEventListener("click", () => setMoment(""));
part("clear").addEventListener("click", () => {
  if (!mayReplace()) return;
  if (part("example")) choose("");
  take("");
  part("facts").focus();
});

// --- Worked patients -----------------------------------------------------------------------------------

const found = (name) => worked.find((each) => each.name === name);

/** Fill the list with what the words in the field find; the one that is chosen stays. */
function listWorked() {
  const words = part("example-filter").value.toLowerCase().split(/\s+/);
  const chosen = part("example").value;
  const fits = ({ name, description }) => words.every((word) => `${name} ${description}`.toLowerCase().includes(word));
  const shown = worked.filter((each) => fits(each) || each.name === chosen);
  const count = worked.filter(fits).length;
  const first = new Option(count ? `Choose one of ${count}` : "None has these words", "");
  part("example").replaceChildren(first, ...shown.map(({ name, description }) => new Option(`${name}: ${shortly(description)}`, name)));
  part("example").value = chosen;
}

const shortly = (words) => (words.length > 80 ? `${words.slice(0, 78)}…` : words);

function choose(name) {
  part("example").value = name;
  part("example-description").textContent = found(name)?.description || "";
}

async function takeWorked() {
  const chosen = part("example").value;
  if (!chosen) return choose("");
  if (!mayReplace()) return choose("");
  choose(chosen);
  await attempt("example", async (signal) => {
    const answer = await ask(`/examples/${encodeURIComponent(chosen)}`, { method: "GET", signal });
    take(await answer.text(), { format: "text/turtle", iso: found(chosen).asOf || "" });
  });
}

if (part("example")) {
  part("example").addEventListener("change", takeWorked);
  part("example-filter").addEventListener("input", listWorked);
  ask("/examples", { method: "GET" })
    .then((answer) => answer.json())
    .then((list) => {
      worked = list;
      listWorked();
    })
    .catch((error) => complain(part("error"), error));
}

// --- Answers -------------------------------------------------------------------------------------------

/** Do something for the patient, and say what went wrong with it. */
async function attempt(name, work) {
  complain(part("error"), null);
  part("work").ariaBusy = "true";
  try {
    return await only(name, work);
  } catch (error) {
    complain(part("error"), error);
    lookAtOutcome();
    return undefined;
  } finally {
    part("work").ariaBusy = "false";
  }
}

/** Take away everything that was said of a patient. */
function forget() {
  for (const name of ["assess", "why"]) stop(name);
  assessed = null;
  complain(part("error"), null);
  for (const name of ["problems", "next-list", "rule", "reasons"]) part(name).replaceChildren();
  part("reasons").hidden = true;
  showPage("");
  answered(false);
  tellWhetherOld();
}

function answered(whether) {
  for (const each of document.querySelectorAll(".answered")) each.hidden = !whether;
  for (const each of document.querySelectorAll(".empty")) each.hidden = whether;
}

async function assess(question) {
  forget();
  part("status").textContent = "Working…";
  const request = { body: question.body, type: question.type, token: question.token };
  const done = await attempt("assess", async (signal) => {
    const at = `asOf=${encodeURIComponent(question.asOf)}`;
    const [page, answers, { rules }] = await Promise.all([
      ask(`${question.path}/assess?${at}`, { ...request, accept: "text/html", signal }).then((answer) => answer.text()),
      ask(`${question.path}/assess?explain=true&${at}`, { ...request, accept: "application/json", signal }).then((answer) => answer.json()),
      setup,
    ]);
    return { page, answers, rules };
  });
  if (!done) {
    if (!assessed) part("status").textContent = "";
    return;
  }
  const { page, answers, rules } = done;
  assessed = { ...question, told: summary(answers) };
  tellProblems(answers);
  tellNext(answers.patients, rules);
  listRules(answers.patients, rules);
  answered(true);
  showPage(page);
  tellWhetherOld();
  if (!["why", "next"].includes(tabs.find((tab) => tab.ariaSelected === "true").id.slice(4))) show("report");
  lookAtOutcome();
}

function summary({ patients, asOf }) {
  const refused = patients.filter((each) => each.refused?.length).length;
  const count = (number) => `${number} patient${number === 1 ? "" : "s"}`;
  if (refused && refused === patients.length) return `Nothing is answered: the facts of ${count(refused)} were refused.`;
  return `Answered for ${count(patients.length - refused)}, as of ${asOf}.${refused ? ` Refused: ${count(refused)}.` : ""}`;
}

/** On a small screen the form stands above the answers: go to where they begin. */
function lookAtOutcome() {
  const { top } = part("outcome").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 4) part("outcome").scrollIntoView();
}

part("facts-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt("form", async () => {
    const [body, type] = [given.facts(), given.format() || "text/plain"];
    if (!body.trim()) throw new Trouble("There are no facts yet: choose a worked patient, paste facts, or drop a file.");
    assess({ path: "", body, type, asOf: moment(), form: given.all() });
  });
});

/** What is wrong with the facts comes first and cannot be overlooked. */
function tellProblems({ patients, unassigned }) {
  const cards = [];
  for (const [key, title, grave] of SECTIONS) {
    for (const patient of patients.filter((each) => each[key]?.length)) {
      const items = patient[key].map((each) => {
        const value = each.value === null || each.value === undefined ? [] : [", value ", said(each.value)];
        return made("li", said(each.message), made("p", "at ", said(each.focus), ...value));
      });
      cards.push(card(made("h2", title), made("p", said(patient.patient)), made("ul", ...items)));
      cards.at(-1).className = grave ? "problem" : "caution";
    }
  }
  if (unassigned.length) {
    cards.unshift(card(made("h2", "Not read: these belong to no patient"), made("ul", ...unassigned.map((each) => made("li", said(each))))));
    cards[0].className = "problem";
  }
  cards.sort((a, b) => (b.className === "problem") - (a.className === "problem"));
  part("problems").replaceChildren(...cards);
}

const card = (...content) => made("section", ...content);

function tellNext(patients, rules) {
  const labels = Object.fromEntries(rules.map(({ name, label }) => [name, label]));
  const lists = patients.map(({ patient, next = [], refused }) => {
    const items = next.map(({ label, measuredBy, couldChange }) =>
      made(
        "li",
        made("b", label),
        measuredBy ? ` (by: ${labels[measuredBy] || measuredBy})` : "",
        ` could change ${couldChange.length} answer${couldChange.length === 1 ? "" : "s"}:`,
        made("ul", ...couldChange.map((what) => made("li", what.label, made("span", ` now ${what.status}`)))),
      ),
    );
    const none = refused?.length ? "The facts were refused; see above." : "Nothing that is missing could change an answer.";
    return card(made("h2", said(patient)), items.length ? made("ol", ...items) : made("p", none));
  });
  part("next-list").replaceChildren(made("p", "What is not known and could change an answer, the most urgent first."), ...lists);
}

function listRules(patients, rules) {
  const spoken = new Map();
  for (const { explanations = {} } of patients) {
    for (const [name, { label, kind, status }] of Object.entries(explanations)) {
      const states = spoken.get(name)?.states || new Set();
      spoken.set(name, { label, kind, states: states.add(status) });
    }
  }
  const groups = Object.groupBy(
    [...spoken].map(([name, { label, kind, states }]) => ({ name, kind, text: `${label} (${[...states].join(", ")})` })),
    ({ kind }) => kind,
  );
  groups["not in these answers"] = rules.filter(({ name }) => !spoken.has(name)).map(({ name, label }) => ({ name, text: label }));
  const option = ({ name, text }) => new Option(visible(`${text} · ${name}`), name);
  const filled = Object.entries(groups).map(([kind, list]) => {
    const group = document.createElement("optgroup");
    group.label = kind[0].toUpperCase() + kind.slice(1);
    group.append(...list.map(option));
    return group;
  });
  part("rule").replaceChildren(...filled);
}

part("why-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { path, body, type, asOf, token } = assessed;
  part("reasons").hidden = true;
  attempt("why", async (signal) => {
    const address = `${path}/explain?rule=${encodeURIComponent(part("rule").value)}&asOf=${encodeURIComponent(asOf)}`;
    const answer = await ask(address, { body, type, token, accept: "text/plain", signal });
    part("reasons").replaceChildren(...readable(await answer.text()));
    part("reasons").hidden = false;
  });
});

/** The text of an explanation as paragraphs, each as far in as its line was; lines that were broken are made whole. */
function readable(text) {
  const lines = [];
  for (const line of text.split("\n").filter((each) => each.trim())) {
    const depth = line.search(/\S/);
    const [last, before] = [lines.at(-1), lines.at(-2)];
    const summary = last && before?.depth === 0 && depth === 2 && !/^ {2}(needs|opened by|with this change|Conditions)\b/.test(line);
    if (summary || (depth > 2 && !/^\s*(- |\[)/.test(line))) last.text += ` ${line.trim()}`;
    else lines.push({ depth, text: line.trim() });
  }
  return lines.map(({ depth, text: words }) => {
    const line = made(depth ? "p" : "h2", words);
    line.dataset.depth = Math.min(depth / 2, 8);
    line.className = { "[yes": "yes", "[no]": "no", "[not": "unknown" }[words.slice(0, 4)] || "";
    return line;
  });
}

// --- The report: as high as its content, so that the page scrolls as one; it has no script -------------

/** The page has an address in memory, so that links to its own places stay on it; the address is taken away at once. */
function showPage(page) {
  part("report-page").src = page ? URL.createObjectURL(new Blob([page], { type: "text/html; charset=utf-8" })) : "about:blank";
}
part("report-page").addEventListener("load", () => {
  const frame = part("report-page");
  URL.revokeObjectURL(frame.src);
  const content = frame.contentDocument?.documentElement;
  if (!content) return;
  let fitted = false;
  new ResizeObserver(() => {
    const height = Math.ceil(content.getBoundingClientRect().height);
    if (!height) return;
    frame.style.height = `${height + 2}px`;
    if (!fitted && assessed) lookAtOutcome(); // only now is the page long enough to be moved
    fitted = true;
  }).observe(content);
});
part("print").addEventListener("click", () => part("report-page").contentWindow.print());

// --- Patients that are kept by the service -------------------------------------------------------------

if (part("stored-form")) {
  part("stored-form").addEventListener("submit", (event) => {
    event.preventDefault();
    part("stored").hidden = true;
    attempt("stored", async (signal) => {
      const answer = await ask("/patients", { method: "GET", token: given.token(), signal });
      const { asOf, patients, notAccepted } = await answer.json();
      part("stored-as-of").textContent = asOf;
      part("stored-list").replaceChildren(...patients.map((iri) => new Option(visible(iri), iri)));
      part("stored").hidden = false;
      forget();
      if (!notAccepted.length) return;
      const told = card(made("h2", "Not accepted of the facts kept here"), made("ul", ...notAccepted.map((line) => made("li", said(line)))));
      told.className = "problem";
      part("problems").replaceChildren(told);
    });
  });
  part("assess-stored").addEventListener("click", () =>
    attempt("form", async () => {
      const chosen = [...part("stored-list").selectedOptions].map((option) => option.value);
      const body = chosen.length ? JSON.stringify(chosen) : "";
      assess({ path: "/patients", body, type: "application/json", asOf: moment(), token: given.token() });
    }),
  );
}

tellMoment();
const wanted = tabs.find((tab) => location.hash === tab.id.replace("tab-", "#see-"));
if (wanted) show(wanted.id.slice(4));
