#+ summary: What each open answer needs
#+ description: For an answer that is open the quantities and attributes that are lacking; a ratio that cannot be computed is named by the inputs that lack.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?answer cg:needs ?need }
WHERE {
  { ?answer cg:about ?rule ; cg:ofPatient ?patient . ?rule cg:appliesTo ?criterion . BIND(?patient AS ?subject) }
  UNION
  { ?answer cg:status cg:Blocked ; cg:about ?rule ; cg:ofPatient ?patient . ?rule cg:requires ?criterion . BIND(?patient AS ?subject) }
  UNION
  { ?answer cg:status cg:Undetermined ; cg:about ?rule ; cg:ofPatient ?patient . ?rule cg:action ?action . ?prohibition cg:forbids ?action ; cg:appliesTo ?criterion .
    ?patient cg:possible ?prohibition . BIND(?patient AS ?subject) }
  UNION
  { ?answer cg:status cg:Undetermined ; cg:about ?rule ; cg:ofPatient ?patient . ?rule cg:accompanies ?main . ?patient cg:undetermined ?main . ?main cg:appliesTo ?criterion . BIND(?patient AS ?subject) }
  UNION
  { ?answer cg:status cg:Possible ; cg:about ?rule ; cg:ofPatient ?patient . ?rule cg:raisedByOrder ?criterion . ?patient cg:hasActiveOrder ?subject }
  UNION
  { ?answer cg:onOrder ?order ; cg:about ?rule ; cg:ofPatient ?patient . ?rule cg:hardStopWhen ?criterion . BIND(?patient AS ?subject) }
  ?unknown cg:ofFact ?subject ; cg:ofCriterion ?criterion ; cg:needs ?lacking .
  OPTIONAL {
    { ?lacking cg:ratioNumerator ?input } UNION { ?lacking cg:ratioDenominator ?input }
    ?patient cg:lacksEligible ?input
  }
  BIND(COALESCE(?input, ?lacking) AS ?need)
}
