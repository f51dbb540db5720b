// What every part of the workbench needs: to ask the service, and to show text that came from a patient as text.

export const part = (id) => document.getElementById(id);

/** An element with text or elements in it. Text never becomes markup. */
export function made(tag, ...content) {
  const element = document.createElement(tag);
  element.append(...content.map((each) => (each instanceof Node ? each : visible(String(each)))));
  return element;
}

/** Text from a patient, apart from what stands around it: it cannot turn the text beside it. */
export const said = (text) => made("bdi", text);

/** Text without characters that cannot be seen or that turn the text around them. */
export const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}]/gu, (c) => ("\n\t".includes(c) ? c : "\uFFFD"));

/** What went wrong, in words for a person. */
export class Trouble extends Error {}

const WORDS = {
  401: "The token is missing or wrong: enter it under “Patients kept here”.",
  421: "This service is not known by the name in the address bar.",
};

/** Ask the service. Gives the answer; throws Trouble in words, and AbortError where it was stopped. */
export async function ask(path, { method = "POST", body, type, accept, token, signal } = {}) {
  const headers = {};
  if (accept) headers.accept = accept;
  if (type) headers["content-type"] = type;
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, signal, cache: method === "GET" ? "default" : "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(token && /[^\x21-\x7e]/.test(token) ? WORDS[401] : "The service cannot be reached. Does `kbtool serve` still run?");
  }
  if (answer.ok) return answer;
  let told = "";
  try {
    told = (await answer.json()).detail;
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  throw new Trouble(WORDS[answer.status] || told || `The service answered with status ${answer.status}.`);
}

/** Show or take away what went wrong. */
export function complain(place, error) {
  place.replaceChildren(...(error ? [made("div", made("b", "That did not work. "), said(error.message))] : []));
  if (error) place.firstChild.className = "problem";
}

/** Run something that is given a signal; what of the same name runs already is stopped. Gives nothing where it was stopped. */
const running = new Map();
export async function only(name, work) {
  running.get(name)?.abort();
  const mine = new AbortController();
  running.set(name, mine);
  try {
    return await work(mine.signal);
  } catch (error) {
    if (error.name !== "AbortError" || !mine.signal.aborted) throw error;
    return undefined;
  } finally {
    if (running.get(name) === mine) running.delete(name);
  }
}
export const stop = (name) => running.get(name)?.abort();

/** The facts in the form, the time, and the token; the token is kept in its field and nowhere else. */
export const given = {
  facts: () => part("facts").value,
  format: () => part("format").value,
  token: () => part("token")?.value.trim() || "",
  /** What answers are made from; where it is another than before, they are old. */
  all: () => JSON.stringify([given.facts(), given.format(), part("as-of").value]),
};
