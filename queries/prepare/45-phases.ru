#+ summary: When findings occur in relation to sessions
#+ description: The phase as recorded; without one, from the onset and the session times; a finding in progress in a running session, or counted by affected sessions, occurs during sessions. It is between sessions only where the record of sessions is kept up to the onset; otherwise it is unrecorded.
#+ tags: [prepare, time]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?finding cg:relativePhase ?kind }
WHERE  { ?patient cg:hasFinding ?finding . ?finding cg:phase/cg:phaseKind ?kind } ;

INSERT { ?finding cg:relativePhase cg:DuringSession }
WHERE {
  ?patient cg:hasFinding ?finding ; cg:hasRunningSession ?session .
  ?finding cg:state cg:InProgress .
  FILTER NOT EXISTS { ?finding cg:phase ?phase }
} ;

INSERT { ?finding cg:relativePhase cg:DuringSession }
WHERE {
  ?patient cg:hasFinding ?finding .
  ?finding cg:affectedSessions ?affected .
  FILTER(?affected > 0)
  FILTER NOT EXISTS { ?finding cg:phase ?phase }
} ;

INSERT { ?finding cg:recentlyAffected ?least }
WHERE {
  ?patient cg:hasFinding ?finding .
  ?finding cg:affectedSessions ?affected ; cg:ofSessions ?of ; a/cg:sessionWindow/cg:maxInclusive ?window .
  BIND(IF(?of > ?window, ?of - ?window, 0) AS ?outside)
  BIND(IF(?affected > ?outside, ?affected - ?outside, 0) AS ?least)
} ;

INSERT { ?finding cg:hasUnrecorded cg:RecentSessions }
WHERE {
  ?patient cg:hasFinding ?finding .
  ?finding cg:affectedSessions ?affected ; cg:recentlyAffected ?least .
  FILTER(?affected > ?least)
} ;

INSERT { ?finding cg:relativePhase ?kind }
WHERE {
  ?patient cg:hasFinding ?finding ; cg:hasSession ?session .
  ?finding cg:onsetSeconds ?onset .
  ?session cg:startSeconds ?start ; a/cg:aftermathHours ?hours .
  OPTIONAL { ?session cg:endSeconds ?end }
  FILTER NOT EXISTS { ?finding cg:phase ?phase }
  FILTER NOT EXISTS { ?patient cg:hasOpenSession ?session }
  FILTER(?start <= ?onset && (!BOUND(?end) || ?onset <= ?end + ?hours * 3600))
  BIND(IF(!BOUND(?end) || ?onset < ?end, cg:DuringSession, cg:AfterSession) AS ?kind)
} ;

INSERT { ?finding cg:relativePhase cg:BetweenSessions }
WHERE {
  ?patient cg:hasFinding ?finding ; cg:hasSession ?session .
  ?finding cg:onsetSeconds ?onset .
  ?session cg:startSeconds ?start ; a/cg:logHours ?hours .
  FILTER(?start <= ?onset && ?onset - ?start <= ?hours * 3600)
  FILTER NOT EXISTS { ?finding cg:relativePhase ?kind }
  FILTER NOT EXISTS { ?patient cg:hasOpenSession ?open }
} ;

INSERT { ?finding cg:hasUnrecorded cg:PhaseOfFinding }
WHERE  { ?patient cg:hasFinding ?finding . FILTER NOT EXISTS { ?finding cg:relativePhase ?kind } }
