#+ summary: Which orders a prohibition forbids, and which of them are hard stops
#+ description: A hard stop needs a forbidden order and the criterion of the stop; a critical caution that holds and touches the prohibition turns it into a conflict that can be overridden.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?answer cg:onOrder ?order ; cg:because ?order }
WHERE {
  ?prohibition a cg:Prohibition .
  { ?prohibition cg:raisedByOrder ?class } UNION { ?prohibition cg:forbidsOrder ?class }
  ?answer cg:about ?prohibition ; cg:status cg:Holding ; cg:ofPatient ?patient .
  ?patient cg:hasActiveOrder ?order .
  ?order a ?class
} ;

INSERT { ?answer cg:overridable true }
WHERE {
  ?answer cg:onOrder ?order ; cg:about ?prohibition ; cg:ofPatient ?patient .
  ?prohibition cg:hardStopWhen ?criterion .
  ?patient a ?criterion ; cg:holds ?caution .
  ?caution cg:touches ?prohibition ; cg:severity/cg:overridesHardStop true
} ;

INSERT { ?answer cg:hardStop true }
WHERE {
  ?answer cg:onOrder ?order ; cg:about ?prohibition ; cg:ofPatient ?patient .
  ?prohibition cg:hardStopWhen ?criterion .
  ?patient a ?criterion .
  FILTER NOT EXISTS { ?answer cg:overridable true }
} ;

INSERT { ?answer cg:because ?fact }
WHERE {
  ?answer cg:onOrder ?order ; cg:about/cg:hardStopWhen ?criterion ; cg:ofPatient ?patient .
  ?patient a ?criterion ; cg:hasFact ?fact .
  ?fact cg:supports ?criterion
} ;

INSERT { ?answer cg:hardStopPossible true }
WHERE {
  ?answer cg:onOrder ?order ; cg:about/cg:hardStopWhen ?criterion ; cg:ofPatient ?patient .
  ?patient cg:mayMeet ?criterion .
  FILTER NOT EXISTS { ?answer cg:hardStop true }
} ;

INSERT { ?answer cg:hardStopPossible true }
WHERE {
  ?answer cg:onOrder ?order ; cg:about/cg:hardStopWhen ?criterion ; cg:ofPatient ?patient .
  ?patient cg:unknown ?criterion
}
