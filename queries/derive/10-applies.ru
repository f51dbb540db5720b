#+ summary: Which rules apply, may apply, and are in place
#+ description: Recommendations, prohibitions and assessments speak for the patients in the scope of their guideline; cautions speak for everybody. Facts that a record holds and nobody could read may meet the criteria that name their kind.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>

INSERT { ?patient cg:inScope ?guideline }
WHERE  { ?guideline cg:scope ?class . ?patient a ?class , cg:Patient } ;

INSERT { ?patient cg:applies ?rule }
WHERE {
  ?rule cg:appliesTo ?criterion ; rdfs:isDefinedBy ?guideline .
  ?patient a cg:Patient , ?criterion ; cg:inScope ?guideline
} ;

INSERT { ?patient cg:mayApply ?rule }
WHERE {
  ?rule cg:appliesTo ?criterion ; rdfs:isDefinedBy ?guideline .
  ?patient a cg:Patient ; cg:unknown ?criterion ; cg:inScope ?guideline
} ;

INSERT { ?patient cg:mayMeet ?criterion . ?class cg:bearsOn ?criterion }
WHERE  { ?patient cg:mayHave ?class . ?class rdfs:subClassOf* ?named . ?criterion cg:refersTo ?named } ;

INSERT { ?patient cg:mayMeet ?criterion . ?class cg:bearsOn ?criterion }
WHERE  { ?patient cg:mayHave ?class . ?named rdfs:subClassOf* ?class . ?criterion cg:refersTo ?named } ;

INSERT { ?patient cg:inPlace ?rule }
WHERE {
  ?rule cg:metWhen ?criterion ; rdfs:isDefinedBy ?guideline .
  ?patient a cg:Patient , ?criterion ; cg:inScope ?guideline
}
