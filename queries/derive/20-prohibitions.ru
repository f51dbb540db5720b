#+ summary: Which prohibitions and assessments hold or are possible
#+ description: A prohibition holds where its criterion is met, or an active order raises it, unless the state that lifts it is certain.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>

INSERT { ?patient cg:holds ?rule }
WHERE  { ?rule a cg:Assessment . ?patient cg:applies ?rule } ;

INSERT { ?patient cg:possible ?rule }
WHERE  { ?rule a cg:Assessment . ?patient cg:mayApply ?rule } ;

INSERT { ?patient cg:holds ?rule }
WHERE {
  ?rule a cg:Prohibition .
  ?patient cg:applies ?rule .
  FILTER NOT EXISTS { ?rule cg:unless ?state . ?patient a ?state }
} ;

INSERT { ?patient cg:holds ?rule }
WHERE {
  ?rule cg:raisedByOrder ?class ; rdfs:isDefinedBy ?guideline .
  ?patient cg:inScope ?guideline ; cg:hasActiveOrder ?order .
  ?order a ?class .
  FILTER NOT EXISTS { ?rule cg:unless ?state . ?patient a ?state }
} ;

INSERT { ?patient cg:possible ?rule }
WHERE {
  ?rule a cg:Prohibition ; rdfs:isDefinedBy ?guideline .
  { ?patient cg:mayApply ?rule }
  UNION
  { ?rule cg:raisedByOrder ?class . ?patient cg:inScope ?guideline ; cg:hasActiveOrder ?order . ?order cg:unknown ?class }
  FILTER NOT EXISTS { ?patient cg:holds ?rule }
  FILTER NOT EXISTS { ?rule cg:unless ?state . ?patient a ?state }
}
