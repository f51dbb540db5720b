#+ summary: What blocks a recommendation and what opens it
#+ description: A state that is false is opened by an action that achieves it, one that is unknown by the measurement of what it lacks; a state made of several is opened through those of its parts that are not certain.
#+ tags: [derive]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?answer cg:blockedBy ?state }
WHERE {
  {
    ?answer cg:status cg:Blocked ; cg:about/cg:requires ?state ; cg:ofPatient ?patient .
    FILTER NOT EXISTS { ?patient a ?state }
  }
  UNION
  { ?answer cg:status cg:Blocked ; cg:about/cg:requiresAbsenceOf ?state ; cg:ofPatient ?patient . ?patient a ?state }
  UNION
  { ?answer cg:status cg:Blocked ; cg:about/cg:requiresAbsenceOf ?state ; cg:ofPatient ?patient . ?patient cg:unknown ?state }
} ;

INSERT { ?answer cg:openedBy ?opener }
WHERE {
  ?answer cg:status cg:Blocked ; cg:blockedBy ?state ; cg:ofPatient ?patient ; cg:about/cg:requires ?state .
  ?state cg:hasConjunct ?part .
  FILTER NOT EXISTS { ?patient a ?part }
  ?opener cg:achieves ?part .
  FILTER NOT EXISTS { ?patient cg:unknown ?part }
  ?patient cg:isOpen ?opener
} ;

INSERT { ?answer cg:openedBy ?opener }
WHERE {
  ?answer cg:status cg:Blocked ; cg:blockedBy ?state ; cg:ofPatient ?patient ; cg:about/cg:requires ?state .
  ?state cg:hasConjunct ?part .
  FILTER NOT EXISTS { ?patient a ?part }
  ?patient cg:hasUnknown ?unknown .
  ?unknown cg:ofCriterion ?part ; cg:needs ?need .
  ?opener cg:measures ?need .
  ?patient cg:isOpen ?opener
} ;

INSERT { ?answer cg:openedBy ?opener }
WHERE {
  ?answer cg:status cg:Blocked ; cg:blockedBy ?state ; cg:ofPatient ?patient ; cg:about/cg:requires ?state .
  ?state cg:hasConjunct ?part .
  FILTER NOT EXISTS { ?patient a ?part }
  ?part cg:opensBy ?opener
} ;

INSERT { ?answer cg:openedBy ?opener }
WHERE {
  ?answer cg:status cg:Blocked ; cg:blockedBy ?state ; cg:about/cg:requiresAbsenceOf ?state .
  ?state cg:opensBy ?opener
}
