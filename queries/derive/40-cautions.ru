#+ summary: Which cautions are attached, and to what
#+ description: A caution is attached where its condition holds (or may hold) and what it touches concerns the patient, a recommendation that is not out of the question or is in place, a prohibition or assessment that holds, a drug that is taken, an order that is active, a criterion that is met; one that touches nothing is attached to the patient.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?patient cg:concernedBy ?target }
WHERE  {
  VALUES ?link { cg:recommended cg:blocked cg:undetermined cg:satisfied cg:contraindicated cg:inPlace cg:holds }
  ?patient ?link ?target .
  ?caution cg:touches ?target
} ;

INSERT { ?patient cg:concernedBy ?target }
WHERE  {
  VALUES ?has { cg:hasCurrentMedication cg:hasActiveOrder }
  ?patient ?has ?fact .
  ?fact a ?target .
  ?caution cg:touches ?target
} ;

INSERT { ?patient cg:concernedBy ?target }
WHERE  { ?patient a cg:Patient , ?target . ?caution cg:touches ?target } ;

INSERT { ?patient cg:holds ?caution }
WHERE {
  ?patient cg:concernedBy ?target .
  ?caution cg:touches ?target ; a cg:Caution .
  FILTER NOT EXISTS { ?caution cg:appliesTo ?criterion }
  FILTER NOT EXISTS { ?caution cg:unless ?lifted . ?patient a ?lifted }
} ;

INSERT { ?patient cg:holds ?caution }
WHERE {
  ?caution a cg:Caution ; cg:appliesTo ?criterion .
  ?patient a ?criterion .
  ?caution cg:touches ?target .
  ?patient cg:concernedBy ?target .
  FILTER NOT EXISTS { ?caution cg:unless ?lifted . ?patient a ?lifted }
} ;

INSERT { ?patient cg:holds ?caution }
WHERE {
  ?caution a cg:Caution ; cg:appliesTo ?criterion .
  ?patient a ?criterion .
  ?patient a cg:Patient .
  FILTER NOT EXISTS { ?caution cg:touches ?target }
  FILTER NOT EXISTS { ?caution cg:unless ?lifted . ?patient a ?lifted }
} ;

INSERT { ?patient cg:possible ?caution }
WHERE {
  ?caution a cg:Caution ; cg:appliesTo ?criterion .
  ?patient cg:unknown ?criterion .
  ?caution cg:touches ?target .
  ?patient cg:concernedBy ?target .
  FILTER NOT EXISTS { ?caution cg:unless ?lifted . ?patient a ?lifted }
} ;

INSERT { ?patient cg:possible ?caution }
WHERE {
  ?caution a cg:Caution ; cg:appliesTo ?criterion .
  ?patient cg:unknown ?criterion .
  ?patient a cg:Patient .
  FILTER NOT EXISTS { ?caution cg:touches ?target }
  FILTER NOT EXISTS { ?caution cg:unless ?lifted . ?patient a ?lifted }
}
