#+ summary: One limit of one quantity in two ranges
#+ module: local-policy.ttl
#+ finds: ThresholdTwice LowPotassiumRange

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE { ?facet xsd:maxExclusive 2.5 } INSERT { ?facet xsd:maxExclusive 3.5 } WHERE { ?facet xsd:maxExclusive 2.5 }
