#+ summary: The latest eligible quantity of each kind
#+ description: Two current results of one kind on different sides of a criterion conflict. If they are of the same time, neither is used; otherwise the latest is. Runs after the quantities have been classified.
#+ tags: [prepare]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>

INSERT { ?one cg:conflictsWith ?other }
WHERE {
  ?patient cg:hasCurrent ?one , ?other .
  ?one cg:kind ?kind . ?other cg:kind ?kind .
  FILTER(?one != ?other)
  ?one a ?side . ?side a owl:Class .
  FILTER NOT EXISTS { ?other a ?side }
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

INSERT { ?patient cg:hasEligible ?quantity }
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

INSERT { ?quantity cg:notUsedBecause cg:Superseded }
WHERE {
  ?patient cg:hasCurrent ?quantity .
  FILTER NOT EXISTS { ?patient cg:hasEligible ?quantity }
  FILTER NOT EXISTS { ?quantity cg:notUsedBecause ?reason }
}
