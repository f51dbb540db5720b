#+ summary: What is current, active and running at the as-of time
#+ description: Findings without a state count as unresolved, orders without one as active. A session without an end runs up to the longest plausible session; after that it is open, which is unknown, and once it is older than the record of sessions reaches it is over.
#+ tags: [prepare, time]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?finding cg:state cg:Unresolved }
WHERE  { ?patient cg:hasFinding ?finding . FILTER NOT EXISTS { ?finding cg:state ?state } } ;

INSERT { ?patient cg:hasActiveFinding ?finding }
WHERE  { VALUES ?state { cg:InProgress cg:Unresolved } ?patient cg:hasFinding ?finding . ?finding cg:state ?state } ;

INSERT { ?patient cg:hasActiveOrder ?order }
WHERE  {
  ?patient cg:hasOrder ?order .
  OPTIONAL { ?order cg:state ?state }
  FILTER(!BOUND(?state) || ?state = cg:Active)
} ;

INSERT { ?patient ?current ?fact }
WHERE {
  VALUES (?has ?current) { (cg:hasTreatment cg:hasCurrentTreatment) (cg:hasMedication cg:hasCurrentMedication) }
  cg:Run cg:asOfSeconds ?now .
  ?patient ?has ?fact .
  OPTIONAL { ?fact cg:startSeconds ?start }
  OPTIONAL { ?fact cg:endSeconds ?end }
  FILTER((!BOUND(?start) || ?start <= ?now) && (!BOUND(?end) || ?end > ?now))
} ;

INSERT { ?patient ?has ?session }
WHERE {
  cg:Run cg:asOfSeconds ?now .
  ?patient cg:hasSession ?session .
  ?session a ?class ; cg:startSeconds ?start .
  ?class cg:plausibleMaximum ?minutes .
  OPTIONAL { ?session cg:endSeconds ?end }
  OPTIONAL { ?class cg:logHours ?hours }
  FILTER(?start <= ?now && IF(BOUND(?end), ?end > ?now, !BOUND(?hours) || ?now - ?start <= ?hours * 3600))
  BIND(IF(BOUND(?end) || ?now - ?start <= ?minutes * 60, cg:hasRunningSession, cg:hasOpenSession) AS ?has)
} ;

INSERT { ?fact cg:daysSinceStart ?days }
WHERE {
  cg:Run cg:asOfSeconds ?now .
  ?fact cg:startSeconds ?start .
  FILTER(?start <= ?now)
  BIND(FLOOR((?now - ?start) / 86400 * 1000000 + 0.5) / 1000000 AS ?days)
}
