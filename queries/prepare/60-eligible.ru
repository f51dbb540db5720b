#+ summary: The latest eligible quantity of each kind
#+ description: Two current results of one kind on different sides of a criterion of the guideline conflict where they are of the same time or a session disturbs one of them. If they are of the same time, neither is used; otherwise the latest eligible one is. Runs after the quantities have been classified. A kind that can be computed gets its eligible one in the next step.
#+ tags: [prepare]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>

INSERT { ?one cg:disagreesWith ?other }
WHERE {
  ?patient cg:hasCurrent ?one , ?other .
  ?one cg:kind ?kind . ?other cg:kind ?kind .
  FILTER(?one != ?other)
  ?one a ?side .
  ?side a owl:Class ; rdfs:isDefinedBy/cg:scope ?scope .
  FILTER NOT EXISTS { ?other a ?side }
} ;

INSERT { ?one cg:conflictsWith ?other }
WHERE {
  ?one cg:disagreesWith ?other ; cg:knownFrom ?time .
  ?other cg:knownFrom ?time
} ;

INSERT { ?one cg:conflictsWith ?other }
WHERE {
  ?one cg:disagreesWith ?other ; cg:notUsedBecause cg:Disturbed .
  FILTER NOT EXISTS { ?other cg:notUsedBecause cg:Disturbed }
} ;

INSERT { ?one cg:conflictsWith ?other }
WHERE {
  ?one cg:disagreesWith ?other .
  ?other cg:notUsedBecause cg:Disturbed .
  FILTER NOT EXISTS { ?one cg:notUsedBecause cg:Disturbed }
} ;

INSERT { ?other cg:conflictsWith ?one }
WHERE  { ?one cg:conflictsWith ?other } ;

INSERT { ?one cg:notUsedBecause cg:Disagreeing }
WHERE {
  ?one cg:conflictsWith ?other ; cg:knownFrom ?time .
  ?other cg:knownFrom ?time .
  FILTER NOT EXISTS { ?one cg:notUsedBecause cg:Disturbed }
  FILTER NOT EXISTS { ?other cg:notUsedBecause cg:Disturbed }
  FILTER NOT EXISTS { ?one cg:notUsedBecause cg:TimingUnknown }
  FILTER NOT EXISTS { ?other cg:notUsedBecause cg:TimingUnknown }
} ;

INSERT { ?patient cg:hasCandidate ?quantity }
WHERE {
  { SELECT ?patient ?kind (MAX(?time) AS ?latest)
    WHERE {
      ?patient cg:hasCurrent ?each .
      ?each cg:knownFrom ?time ; cg:kind ?kind .
      FILTER NOT EXISTS { ?each cg:notUsedBecause ?reason . FILTER(?reason != cg:Disagreeing) }
    } GROUP BY ?patient ?kind }
  ?patient cg:hasCurrent ?quantity .
  ?quantity cg:kind ?kind ; cg:knownFrom ?latest .
  FILTER NOT EXISTS { ?quantity cg:notUsedBecause ?reason }
} ;

INSERT { ?patient cg:hasEligible ?quantity }
WHERE {
  ?patient cg:hasCandidate ?quantity .
  ?quantity cg:kind ?kind .
  FILTER NOT EXISTS { ?kind cg:differenceMinuend ?minuend }
  FILTER NOT EXISTS { ?kind cg:ratioNumerator ?numerator }
} ;

INSERT { ?quantity cg:notUsedBecause cg:Superseded }
WHERE {
  ?patient cg:hasCurrent ?quantity .
  FILTER NOT EXISTS { ?patient cg:hasCandidate ?quantity }
  FILTER NOT EXISTS { ?quantity cg:notUsedBecause ?reason }
}
