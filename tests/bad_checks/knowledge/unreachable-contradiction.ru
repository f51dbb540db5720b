#+ summary: Two limits that exclude each other
#+ module: guideline.ttl
#+ finds: UnreachableRule AluminiumEncephalopathyBand

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE { ?facet xsd:maxInclusive 350.0 } INSERT { ?facet xsd:maxInclusive 100.0 } WHERE { ?facet xsd:maxInclusive 350.0 }
