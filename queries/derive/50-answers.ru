#+ summary: A node for each answer, with its reasons
#+ description: The node carries patient, rule, status and the facts on which it rests.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?answer a cg:Answer ; cg:ofPatient ?patient ; cg:about ?rule ; cg:status ?status }
WHERE {
  ?status cg:statusProperty ?link .
  ?patient ?link ?rule .
  ?rule cg:localName ?name .
  BIND(IRI(CONCAT(STR(?patient), "/answer/", ?name)) AS ?answer)
} ;

INSERT { ?answer cg:because ?fact }
WHERE {
  ?patient a cg:Patient ; cg:hasFact ?fact .
  ?fact cg:supports ?criterion .
  ?rule cg:appliesTo ?criterion ; cg:localName ?name .
  BIND(IRI(CONCAT(STR(?patient), "/answer/", ?name)) AS ?answer)
  FILTER EXISTS { ?answer a cg:Answer }
} ;

INSERT { ?answer cg:because ?fact }
WHERE {
  ?answer cg:status cg:Satisfied ; cg:about ?rule ; cg:ofPatient ?patient .
  ?rule cg:metWhen ?criterion .
  ?patient a ?criterion ; cg:hasFact ?fact .
  ?fact cg:supports ?criterion
} ;

INSERT { ?answer cg:because ?fact }
WHERE {
  ?rule cg:accompanies ?main .
  ?main cg:appliesTo ?criterion .
  ?answer cg:about ?rule ; cg:ofPatient ?patient .
  ?patient cg:recommended ?main ; a ?criterion ; cg:hasFact ?fact .
  ?fact cg:supports ?criterion
} ;

INSERT { ?answer cg:because ?fact }
WHERE {
  ?rule cg:accompanies ?main .
  ?main cg:metWhen ?criterion .
  ?answer cg:about ?rule ; cg:ofPatient ?patient .
  ?patient cg:inPlace ?main ; a ?criterion ; cg:hasFact ?fact .
  ?fact cg:supports ?criterion
} ;

INSERT { ?answer cg:attachedTo ?target }
WHERE {
  ?answer a cg:Answer ; cg:about ?caution ; cg:ofPatient ?patient .
  ?caution a cg:Caution ; cg:touches ?target .
  ?patient cg:concernedBy ?target
} ;

INSERT { ?answer cg:attachedTo ?patient }
WHERE {
  ?answer a cg:Answer ; cg:about ?caution ; cg:ofPatient ?patient .
  ?caution a cg:Caution .
  FILTER NOT EXISTS { ?caution cg:touches ?target }
}
