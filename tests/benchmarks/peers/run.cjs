// Run ELM on FHIR: node run.cjs MODULES ELM VALUESETS BUNDLES AS_OF OUT
// BUNDLES: a Bundle a line. OUT: a line of JSON for each patient, then one with the seconds that it took.
const { createReadStream, readFileSync, openSync, writeSync, closeSync } = require("node:fs");
const { createRequire } = require("node:module");
const { join } = require("node:path");
const { createInterface } = require("node:readline");

const [modules, elm, valueSets, bundles, asOf, out] = process.argv.slice(2);
const load = createRequire(join(modules, "package.json"));
const cql = load("cql-execution");
const fhir = load("cql-exec-fhir");

const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const cpu = () => {
  const used = process.cpuUsage();
  return (used.user + used.system) / 1e6;
};

async function main() {
  const library = new cql.Library(read(elm));
  const sets = Object.fromEntries(Object.entries(read(valueSets)).map(([url, codes]) => [url, { "": codes }]));
  const executor = new cql.Executor(library, new cql.CodeService(sets));
  const source = fhir.PatientSource.FHIRv401();
  const now = cql.DateTime.parse(asOf);
  const file = openSync(out, "w");
  const started = { cpu: cpu(), wall: performance.now() };
  let patients = 0;
  for await (const line of createInterface({ input: createReadStream(bundles), crlfDelay: Infinity })) {
    if (!line) continue;
    const bundle = JSON.parse(line);
    source.reset();
    source.loadBundles([bundle]);
    const { patientResults } = await executor.exec(source, now);
    for (const results of Object.values(patientResults)) {
      const patient = bundle.entry.find((e) => e.resource.resourceType === "Patient").resource.identifier[0].value;
      const said = { patient };
      for (const [name, value] of Object.entries(results)) {
        if (name.startsWith("Is ")) {
          if (value !== false) said[name.slice(3)] = value ? "certain" : "unknown";
        } else if (name.startsWith("Status ") && value != null) said[name.slice(7)] = value;
      }
      writeSync(file, JSON.stringify(said) + "\n");
      patients += 1;
    }
  }
  writeSync(file, JSON.stringify({ patients, cpu: cpu() - started.cpu, wall: (performance.now() - started.wall) / 1000 }) + "\n");
  closeSync(file);
}

main().catch((error) => {
  console.error(error.stack ?? String(error));
  process.exit(1);
});
