#+ summary: Which quantities are current, and which a session disturbs
#+ description: An observation is current while it is final, within its currency and, unless its class outlives sessions, with no session begun since; the sample taken before a session stays current through that one session. A setting is current while it is the latest in force.
#+ tags: [prepare, time]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?quantity cg:canonicalValue ?canonical }
WHERE {
  ?quantity cg:value ?value ; cg:unit ?unit ; cg:kind/cg:acceptsUnit ?conversion .
  ?conversion cg:ucum ?unit ; cg:factor ?factor .
  OPTIONAL { ?conversion cg:offset ?offset }
  BIND(FLOOR((?value + COALESCE(?offset, 0)) * ?factor * 1000000 + 0.5) / 1000000 AS ?canonical)
} ;

INSERT { ?observation cg:knownFrom ?time }
WHERE  { ?patient cg:hasObservation ?observation . ?observation cg:timeSeconds ?time } ;

INSERT { ?observation cg:notUsedBecause cg:NotFinal }
WHERE  { ?patient cg:hasObservation ?observation . ?observation cg:state ?state . FILTER(?state != cg:Final) } ;

INSERT { ?observation cg:notUsedBecause ?reason }
WHERE {
  cg:Run cg:asOfSeconds ?now .
  ?patient cg:hasObservation ?observation .
  ?observation cg:timeSeconds ?time ; cg:kind/cg:currencyHours ?hours .
  BIND(IF(?time > ?now, cg:InFuture, cg:Stale) AS ?reason)
  FILTER(?time > ?now || ?now - ?time > ?hours * 3600)
} ;

INSERT { ?observation cg:interruptions ?count }
WHERE {
  SELECT ?observation (COUNT(DISTINCT ?start) AS ?count)
  WHERE {
    cg:Run cg:asOfSeconds ?now .
    ?patient cg:hasObservation ?observation .
    ?observation cg:timeSeconds ?time ; cg:kind/cg:currencyHours ?hours .
    FILTER(?now - ?time <= ?hours * 3600)
    ?patient cg:hasSession/cg:startSeconds ?start .
    FILTER(?start >= ?time && ?start <= ?now)
  } GROUP BY ?observation
} ;

INSERT { ?observation cg:notUsedBecause cg:Outdated }
WHERE {
  ?observation cg:interruptions ?count ; cg:kind ?class .
  ?class cg:currencyHours ?hours .
  FILTER NOT EXISTS { ?class cg:outlivesSessions true }
  OPTIONAL { ?observation cg:phase/cg:phaseKind ?kind }
  FILTER(?count > IF(BOUND(?kind) && ?kind = cg:BeforeSession, 1, 0))
} ;

INSERT { ?patient cg:hasCurrent ?observation }
WHERE {
  ?patient cg:hasObservation ?observation .
  ?observation cg:canonicalValue ?value ; cg:kind/cg:currencyHours ?hours .
  FILTER NOT EXISTS { ?observation cg:notUsedBecause ?reason }
} ;

INSERT { ?setting cg:knownFrom ?since }
WHERE {
  cg:Run cg:asOfSeconds ?now .
  ?patient cg:hasCurrentTreatment ?treatment .
  ?treatment cg:hasSetting ?setting .
  OPTIONAL { ?setting cg:startSeconds ?own }
  OPTIONAL { ?treatment cg:startSeconds ?start }
  BIND(COALESCE(?own, ?start, 0) AS ?since)
  FILTER(?since <= ?now)
} ;

INSERT { ?patient cg:hasCurrent ?setting }
WHERE {
  { SELECT ?patient ?class (MAX(?since) AS ?latest)
    WHERE {
      ?patient cg:hasCurrentTreatment/cg:hasSetting ?each .
      ?each cg:knownFrom ?since ; cg:kind ?class
    } GROUP BY ?patient ?class }
  ?patient cg:hasCurrentTreatment/cg:hasSetting ?setting .
  ?setting cg:kind ?class ; cg:knownFrom ?latest
} ;

INSERT { ?observation cg:sessionsLogged ?treatment }
WHERE {
  cg:Run cg:asOfSeconds ?now .
  ?patient cg:hasCurrent ?observation ; cg:hasSession ?session .
  ?observation cg:kind/cg:disturbedBy ?treatment ; cg:timeSeconds ?time .
  ?session a ?class ; cg:startSeconds ?start .
  ?class cg:sessionOf ?treatment ; cg:logHours ?hours .
  FILTER(?start <= ?now && ?time - ?start <= ?hours * 3600)
} ;

INSERT { ?observation cg:disturbable ?treatment }
WHERE {
  ?patient cg:hasCurrent ?observation .
  ?observation cg:kind/cg:disturbedBy ?treatment .
  ?patient cg:hasCurrentTreatment/a ?treatment
} ;

INSERT { ?observation cg:disturbable ?treatment }
WHERE  { ?observation cg:sessionsLogged ?treatment } ;

INSERT { ?observation cg:notUsedBecause cg:Disturbed }
WHERE {
  VALUES ?kind { cg:DuringSession cg:AfterSession }
  ?observation cg:disturbable ?treatment ; cg:phase/cg:phaseKind ?kind
} ;

INSERT { ?observation cg:notUsedBecause cg:Disturbed }
WHERE {
  ?observation cg:disturbable ?treatment ; cg:timeSeconds ?time ; cg:kind/cg:settlesHours ?hours .
  ?patient cg:hasCurrent ?observation ; cg:hasSession ?session .
  ?session a ?class ; cg:startSeconds ?start .
  ?class cg:sessionOf ?treatment ; cg:plausibleMaximum ?minutes .
  OPTIONAL { ?session cg:endSeconds ?recorded }
  OPTIONAL { ?observation cg:phase/cg:phaseKind ?phase }
  BIND(COALESCE(?recorded, ?start + ?minutes * 60) AS ?end)
  FILTER(?time < ?end + ?hours * 3600 && (?start < ?time || (?start = ?time && COALESCE(?phase, cg:DuringSession) != cg:BeforeSession)))
} ;

INSERT { ?observation cg:notUsedBecause cg:TimingUnknown }
WHERE {
  ?observation cg:disturbable ?treatment .
  FILTER NOT EXISTS { ?observation cg:phase ?phase }
  FILTER NOT EXISTS { ?observation cg:sessionsLogged ?treatment }
}
