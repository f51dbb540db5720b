// Translate CQL to ELM: node translate.mjs MODULES CQL ELM
// MODULES: a folder with node_modules that holds @cqframework/cql and cql-exec-fhir.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, source, target] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const folder = join(modules, "node_modules", "@cqframework", "cql");
const { CqlTranslator, LibraryManager, ModelManager, createModelInfoProvider, stringAsSource } = await import(
  pathToFileURL(join(folder, "cql-to-elm.mjs")).href
);

// The package of the translator brings no model. FHIR's comes with cql-exec-fhir; the types that CQL itself defines
// (https://cql.hl7.org, appendix on types) are few.
const simple = ["Boolean", "Integer", "Long", "Decimal", "String", "DateTime", "Date", "Time"];
const classes = {
  Quantity: { value: "System.Decimal", unit: "System.String" },
  Ratio: { numerator: "System.Quantity", denominator: "System.Quantity" },
  Code: { code: "System.String", system: "System.String", version: "System.String", display: "System.String" },
  Concept: { codes: "list<System.Code>", display: "System.String" },
  Vocabulary: { id: "System.String", version: "System.String", name: "System.String" },
  CodeSystem: {},
  ValueSet: { codesystems: "list<System.CodeSystem>" },
};
const element = (name, type) =>
  type.startsWith("list<")
    ? `<element name="${name}"><elementTypeSpecifier xsi:type="ListTypeSpecifier" elementType="${type.slice(5, -1)}"/></element>`
    : `<element name="${name}" elementType="${type}"/>`;
const base = (name) => (name === "CodeSystem" || name === "ValueSet" ? "System.Vocabulary" : "System.Any");
const system = `<?xml version="1.0" encoding="UTF-8"?>
<modelInfo xmlns="urn:hl7-org:elm-modelinfo:r1" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  name="System" version="1.0.0" url="urn:hl7-org:elm-types:r1" targetQualifier="system">
  <typeInfo xsi:type="SimpleTypeInfo" name="System.Any"/>
  ${simple.map((name) => `<typeInfo xsi:type="SimpleTypeInfo" name="System.${name}" baseType="System.Any"/>`).join("\n  ")}
  ${Object.entries(classes)
    .map(
      ([name, elements]) =>
        `<typeInfo xsi:type="ClassInfo" name="System.${name}" baseType="${base(name)}">` +
        `${Object.entries(elements).map(([n, type]) => element(n, type)).join("")}</typeInfo>`,
    )
    .join("\n  ")}
</modelInfo>`;

const fhir = join(dirname(require.resolve("cql-exec-fhir/package.json")), "lib", "modelInfos", "fhir-modelinfo-4.0.1.xml");
const texts = { System: system, FHIR: readFileSync(fhir, "utf8") };
const models = new ModelManager();
models.modelInfoLoader.registerModelInfoProvider(
  createModelInfoProvider((name) => (texts[name] ? stringAsSource(texts[name]) : null)),
);
const translator = CqlTranslator.fromText(readFileSync(source, "utf8"), new LibraryManager(models));
const elm = JSON.parse(translator.toJson());
const errors = (elm.library.annotation ?? []).filter((note) => note.errorSeverity === "error");
if (errors.length) {
  for (const note of errors.slice(0, 12)) console.error(`${note.startLine}:${note.startChar}: ${note.message}`);
  process.exit(1);
}

// Places in the text serve editors; an engine that keeps a result for each of them is slower for nothing.
const bare = (node) => {
  if (Array.isArray(node)) return node.map(bare);
  if (node === null || typeof node !== "object") return node;
  const kept = Object.entries(node).filter(([key]) => !["localId", "locator", "annotation", "signature"].includes(key));
  return Object.fromEntries(kept.map(([key, value]) => [key, bare(value)]));
};
writeFileSync(target, JSON.stringify(bare(elm)));
