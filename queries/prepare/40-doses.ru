#+ summary: Doses in canonical units, and how far they are from ceiling and step
#+ description: Doses of one substance are added up, for an order the latest change of any of its records counts, and records that follow one another are one use. What is not recorded is said so by cg:hasUnrecorded, which makes the criteria that rest on it unknown.
#+ tags: [prepare, dose]

PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?fact cg:canonicalDailyDose ?canonical }
WHERE {
  { ?patient cg:hasCurrentMedication ?fact . ?fact a ?substance }
  UNION
  { ?patient cg:hasActiveOrder ?fact . ?fact a ?class . ?class cg:ordersMedication ?substance }
  ?substance cg:acceptsUnit ?conversion .
  ?conversion cg:ucum ?unit ; cg:factor ?factor .
  ?fact cg:unit ?unit ; cg:dailyDose ?dose .
  BIND(FLOOR(?dose * ?factor * 1000000 + 0.5) / 1000000 AS ?canonical)
} ;

INSERT { ?fact cg:hasUnrecorded cg:DailyDose }
WHERE {
  { ?patient cg:hasCurrentMedication ?fact } UNION { ?patient cg:hasActiveOrder ?fact . ?fact a/cg:ordersMedication ?substance }
  FILTER NOT EXISTS { ?fact cg:canonicalDailyDose ?dose }
} ;

INSERT { ?medication cg:continues ?earlier }
WHERE {
  ?substance cg:continuityHours ?hours .
  ?patient cg:hasMedication ?medication , ?earlier .
  ?medication a ?substance ; cg:startSeconds ?start .
  ?earlier a ?substance ; cg:endSeconds ?end .
  OPTIONAL { ?earlier cg:startSeconds ?before }
  FILTER(?medication != ?earlier && ?end <= ?start + ?hours * 3600 && ?end >= ?start - ?hours * 3600 && (!BOUND(?before) || ?before < ?start))
} ;

INSERT { ?medication cg:daysOfUse ?days }
WHERE {
  { SELECT ?medication (MIN(?each) AS ?first)
    WHERE { ?patient cg:hasCurrentMedication ?medication . ?medication cg:continues* ?record . ?record cg:startSeconds ?each }
    GROUP BY ?medication }
  cg:Run cg:asOfSeconds ?now .
  BIND(FLOOR((?now - ?first) / 86400 * 1000000 + 0.5) / 1000000 AS ?days)
} ;

INSERT { ?medication cg:hasUnrecorded cg:StartDate }
WHERE {
  ?patient cg:hasCurrentMedication ?medication .
  ?medication cg:continues+ ?record .
  FILTER NOT EXISTS { ?record cg:startSeconds ?start }
} ;

INSERT { ?medication cg:hasUnrecorded cg:StartDate }
WHERE  { ?patient cg:hasCurrentMedication ?medication . FILTER NOT EXISTS { ?medication cg:startSeconds ?start } } ;

INSERT { ?medication cg:daysAtDose ?days }
WHERE {
  cg:Run cg:asOfSeconds ?now .
  ?patient cg:hasCurrentMedication ?medication .
  OPTIONAL { ?medication cg:doseSinceSeconds ?changed }
  OPTIONAL { ?medication cg:startSeconds ?start }
  BIND(COALESCE(?changed, ?start) AS ?since)
  FILTER(?since <= ?now)
  BIND(FLOOR((?now - ?since) / 86400 * 1000000 + 0.5) / 1000000 AS ?days)
} ;

INSERT { ?medication cg:hasUnrecorded cg:TimeAtDose }
WHERE  { ?patient cg:hasCurrentMedication ?medication . FILTER NOT EXISTS { ?medication cg:daysAtDose ?days } } ;

INSERT { ?medication cg:totalDailyDose ?total }
WHERE {
  { SELECT ?patient ?substance (SUM(?dose) AS ?total)
    WHERE {
      ?patient cg:hasCurrentMedication ?taken .
      ?taken a ?substance ; cg:canonicalDailyDose ?dose .
      FILTER EXISTS { ?substance cg:acceptsUnit ?conversion }
    } GROUP BY ?patient ?substance }
  ?patient cg:hasCurrentMedication ?medication .
  ?medication a ?substance ; cg:canonicalDailyDose ?own
} ;

INSERT { ?medication cg:doseMargin ?margin ; cg:nextDailyDose ?next }
WHERE {
  ?patient cg:hasCurrentMedication ?medication .
  ?medication a ?substance ; cg:totalDailyDose ?total .
  ?substance cg:doseCeiling/cg:maxInclusive ?ceiling .
  BIND(?ceiling - ?total AS ?margin)
  OPTIONAL { ?substance cg:doseStep/cg:maxInclusive ?step }
  BIND(IF(?total + ?step < ?ceiling, ?total + ?step, ?ceiling) AS ?next)
} ;

INSERT { ?order cg:doseMargin ?margin }
WHERE {
  ?patient cg:hasActiveOrder ?order .
  ?order cg:canonicalDailyDose ?dose ; a/cg:ordersMedication ?substance .
  ?substance cg:doseCeiling/cg:maxInclusive ?ceiling .
  BIND(?ceiling - ?dose AS ?margin)
} ;

INSERT { ?order cg:hasUnrecorded cg:DoseChange }
WHERE {
  ?patient cg:hasActiveOrder ?order .
  ?order a/cg:ordersMedication ?substance .
  OPTIONAL { ?patient cg:hasCurrentMedication ?medication . ?medication a ?substance ; cg:hasUnrecorded cg:DailyDose }
  OPTIONAL { ?order cg:hasUnrecorded ?own . FILTER(?own = cg:DailyDose) }
  FILTER(BOUND(?medication) || BOUND(?own))
} ;

INSERT { ?order cg:doseIncrease ?increase }
WHERE {
  ?patient cg:hasActiveOrder ?order .
  ?order cg:canonicalDailyDose ?dose ; a/cg:ordersMedication ?substance .
  FILTER NOT EXISTS { ?order cg:hasUnrecorded cg:DoseChange }
  OPTIONAL {
    SELECT ?patient ?substance (SUM(?taken) AS ?total)
    WHERE { ?patient cg:hasCurrentMedication ?medication . ?medication a ?substance ; cg:canonicalDailyDose ?taken }
    GROUP BY ?patient ?substance
  }
  BIND(?dose - COALESCE(?total, 0) AS ?increase)
} ;

INSERT { ?order cg:daysAtDose ?days }
WHERE {
  { SELECT ?patient ?substance (MIN(?each) AS ?days)
    WHERE { ?patient cg:hasCurrentMedication ?medication . ?medication a ?substance ; cg:daysAtDose ?each }
    GROUP BY ?patient ?substance }
  ?patient cg:hasActiveOrder ?order .
  ?order a/cg:ordersMedication ?substance
} ;

INSERT { ?order cg:hasUnrecorded cg:TimeAtDose }
WHERE {
  ?patient cg:hasActiveOrder ?order .
  ?order a/cg:ordersMedication ?substance .
  ?patient cg:hasCurrentMedication ?medication .
  ?medication a ?substance ; cg:hasUnrecorded cg:TimeAtDose
}
