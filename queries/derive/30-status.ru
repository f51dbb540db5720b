#+ summary: The status of every recommendation that applies or may apply
#+ description: The first that holds, satisfied, contraindicated, undetermined, blocked, recommended. A prohibition that is lifted by a state which the recommendation waits for shows as blocked; one that only an order raises changes no status.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?patient cg:satisfied ?rule }
WHERE  { ?rule a cg:Recommendation . ?patient cg:applies ?rule ; cg:inPlace ?rule } ;

INSERT { ?patient cg:contraindicated ?rule }
WHERE {
  ?rule cg:action ?action .
  ?prohibition cg:forbids ?action .
  ?patient cg:applies ?rule , ?prohibition ; cg:holds ?prohibition .
  FILTER NOT EXISTS { ?prohibition cg:unless ?state . ?rule cg:requires ?state }
  FILTER NOT EXISTS { ?patient cg:satisfied ?rule }
} ;

INSERT { ?patient cg:undetermined ?rule }
WHERE  { ?rule a cg:Recommendation . ?patient cg:mayApply ?rule } ;

INSERT { ?patient cg:undetermined ?rule }
WHERE {
  ?rule cg:action ?action .
  ?prohibition cg:forbids ?action .
  ?patient cg:applies ?rule ; cg:mayApply ?prohibition ; cg:possible ?prohibition .
  FILTER NOT EXISTS { ?prohibition cg:unless ?state . ?rule cg:requires ?state }
  FILTER NOT EXISTS { ?patient cg:satisfied ?rule }
  FILTER NOT EXISTS { ?patient cg:contraindicated ?rule }
} ;

INSERT { ?patient cg:undetermined ?rule }
WHERE {
  { ?rule a cg:Recommendation ; cg:metWhen ?state . ?patient cg:mayMeet ?state ; cg:applies ?rule }
  UNION
  { ?rule a cg:Recommendation ; cg:requiresAbsenceOf ?state . ?patient cg:mayMeet ?state ; cg:applies ?rule }
  UNION
  { ?rule cg:action ?action . ?prohibition cg:forbids ?action ; cg:appliesTo ?state . ?patient cg:mayMeet ?state ; cg:applies ?rule }
  FILTER NOT EXISTS { ?patient cg:satisfied ?rule }
  FILTER NOT EXISTS { ?patient cg:contraindicated ?rule }
} ;

INSERT { ?patient cg:blocked ?rule }
WHERE {
  { ?rule a cg:Recommendation ; cg:requires ?state . ?patient cg:applies ?rule . FILTER NOT EXISTS { ?patient a ?state } }
  UNION
  { ?rule a cg:Recommendation ; cg:requiresAbsenceOf ?state . ?patient cg:applies ?rule ; a ?state }
  UNION
  { ?rule a cg:Recommendation ; cg:requiresAbsenceOf ?state . ?patient cg:applies ?rule ; cg:unknown ?state }
  FILTER NOT EXISTS { ?patient cg:satisfied ?rule }
  FILTER NOT EXISTS { ?patient cg:contraindicated ?rule }
  FILTER NOT EXISTS { ?patient cg:undetermined ?rule }
} ;

INSERT { ?patient cg:recommended ?rule }
WHERE {
  ?rule a cg:Recommendation .
  ?patient cg:applies ?rule .
  FILTER NOT EXISTS { ?patient cg:satisfied ?rule }
  FILTER NOT EXISTS { ?patient cg:contraindicated ?rule }
  FILTER NOT EXISTS { ?patient cg:undetermined ?rule }
  FILTER NOT EXISTS { ?patient cg:blocked ?rule }
} ;

INSERT { ?patient cg:recommended ?rule }
WHERE {
  ?rule cg:accompanies ?main .
  { ?patient cg:recommended ?main } UNION { ?patient cg:inPlace ?main }
} ;

INSERT { ?patient cg:undetermined ?rule }
WHERE {
  ?rule cg:accompanies ?main .
  ?patient cg:undetermined ?main .
  FILTER NOT EXISTS { ?patient cg:recommended ?rule }
} ;

INSERT { ?patient cg:isOpen ?rule }
WHERE {
  VALUES ?link { cg:recommended cg:blocked cg:undetermined }
  ?patient ?link ?rule
}
