#+ summary: A limit below what is plausible: no accepted result meets it
#+ module: local-policy.ttl
#+ finds: UnreachableRule CorrectHypokalaemia
#+ finds: UnreachableRule AdjustDialysatePotassium

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE { ?facet xsd:maxExclusive 3.5 } INSERT { ?facet xsd:maxExclusive 0.1 } WHERE { ?facet xsd:maxExclusive 3.5 }
