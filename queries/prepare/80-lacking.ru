#+ summary: What each patient lacks
#+ description: For every kind of quantity without an eligible one an explicit triple, so that a criterion can be unknown by a pattern that matches.
#+ tags: [prepare]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>

INSERT { ?patient cg:hasEligibleKind ?kind }
WHERE  { ?patient cg:hasEligible/cg:kind ?kind } ;

INSERT { ?patient cg:lacksEligible ?class }
WHERE {
  ?patient a cg:Patient .
  ?class cg:canonicalUnit ?unit ; rdfs:subClassOf+ cg:Quantity .
  FILTER NOT EXISTS { ?patient cg:hasEligibleKind ?class }
}
