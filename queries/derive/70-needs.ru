#+ summary: What each open answer needs
#+ description: An answer that is open leads to the unknown criteria that keep it open, and these to the quantities and attributes that are lacking. A ratio that cannot be computed is named by the inputs that lack. What goes with another recommendation needs what that one needs.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?patient a cg:Patient ; cg:hasUnknown ?unknown .
  ?unknown cg:ofCriterion ?criterion .
  ?rule cg:appliesTo ?criterion ; cg:localName ?name .
  BIND(IRI(CONCAT(STR(?patient), "/answer/", ?name)) AS ?answer)
  FILTER EXISTS { ?answer a cg:Answer }
} ;

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?answer cg:status cg:Blocked ; cg:about/cg:requires ?criterion ; cg:ofPatient ?patient .
  ?patient cg:hasUnknown ?unknown . ?unknown cg:ofCriterion ?criterion
} ;

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?answer cg:status cg:Blocked ; cg:about/cg:requiresAbsenceOf ?criterion ; cg:ofPatient ?patient .
  ?patient cg:hasUnknown ?unknown . ?unknown cg:ofCriterion ?criterion
} ;

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?answer cg:status cg:Undetermined ; cg:about/cg:action ?action ; cg:ofPatient ?patient .
  ?prohibition cg:forbids ?action ; cg:appliesTo ?criterion .
  ?patient cg:possible ?prohibition .
  ?patient cg:hasUnknown ?unknown . ?unknown cg:ofCriterion ?criterion
} ;

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?answer cg:status cg:Undetermined ; cg:about/cg:accompanies ?main ; cg:ofPatient ?patient .
  ?patient cg:undetermined ?main .
  ?main cg:appliesTo ?criterion .
  ?patient cg:hasUnknown ?unknown . ?unknown cg:ofCriterion ?criterion
} ;

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?answer cg:status cg:Possible ; cg:about/cg:raisedByOrder ?criterion ; cg:ofPatient ?patient .
  ?patient cg:hasActiveOrder ?order .
  ?order cg:hasUnknown ?unknown . ?unknown cg:ofCriterion ?criterion
} ;

INSERT { ?answer cg:openFor ?unknown }
WHERE {
  ?answer cg:onOrder ?order ; cg:about/cg:hardStopWhen ?criterion ; cg:ofPatient ?patient .
  ?patient cg:hasUnknown ?unknown . ?unknown cg:ofCriterion ?criterion
} ;

INSERT { ?answer cg:needs ?lacking }
WHERE {
  ?answer cg:openFor ?unknown .
  ?unknown cg:needs ?lacking .
  FILTER NOT EXISTS { ?lacking cg:ratioNumerator ?numerator }
} ;

INSERT { ?answer cg:needs ?input }
WHERE {
  VALUES ?part { cg:ratioNumerator cg:ratioDenominator }
  ?lacking ?part ?input .
  ?unknown cg:needs ?lacking .
  ?answer cg:openFor ?unknown ; cg:ofPatient ?patient .
  ?patient cg:lacksEligible ?input
} ;

INSERT { ?answer cg:needs ?class }
WHERE {
  ?answer cg:status cg:Undetermined ; cg:about/cg:metWhen ?state ; cg:ofPatient ?patient .
  ?patient cg:mayHave ?class . ?class cg:bearsOn ?state
} ;

INSERT { ?answer cg:needs ?class }
WHERE {
  ?answer cg:status cg:Undetermined ; cg:about/cg:requiresAbsenceOf ?state ; cg:ofPatient ?patient .
  ?patient cg:mayHave ?class . ?class cg:bearsOn ?state
} ;

INSERT { ?answer cg:needs ?class }
WHERE {
  ?answer cg:status cg:Undetermined ; cg:about/cg:action ?action ; cg:ofPatient ?patient .
  ?prohibition cg:forbids ?action ; cg:appliesTo ?state .
  ?patient cg:mayHave ?class . ?class cg:bearsOn ?state
} ;

INSERT { ?answer cg:needs ?class }
WHERE {
  ?answer cg:hardStopPossible true ; cg:about/cg:hardStopWhen ?state ; cg:ofPatient ?patient .
  ?patient cg:mayHave ?class . ?class cg:bearsOn ?state
} ;

INSERT { ?answer cg:needs ?class }
WHERE {
  ?answer cg:status cg:Undetermined ; cg:about/cg:accompanies ?main ; cg:ofPatient ?patient .
  ?patient cg:undetermined ?main .
  ?other cg:ofPatient ?patient ; cg:about ?main ; cg:needs ?class
}
