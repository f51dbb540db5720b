#+ summary: Derived quantities, differences, then ratios
#+ description: A quantity that is the difference or the ratio of two others is computed where it is not stated itself, or only by an older statement. The difference takes the latest final subtrahend before the minuend; that it is before is said twice, because some stores give an empty row for a group in which nothing is found.
#+ tags: [prepare]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX prov: <http://www.w3.org/ns/prov#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>

INSERT {
  ?node a ?class , ?super ; cg:kind ?class ; cg:canonicalValue ?value ; cg:value ?value ; cg:unit ?unit ; cg:knownFrom ?time ; prov:wasDerivedFrom ?minuend , ?subtrahend .
  ?patient cg:hasFact ?node ; cg:hasEligible ?node
}
WHERE {
  ?class cg:differenceMinuend ?from ; cg:differenceSubtrahend ?less ; cg:canonicalUnit ?unit ; rdfs:subClassOf+ ?super .
  { SELECT ?patient ?from ?less (MAX(?each) AS ?before)
    WHERE {
      ?any cg:differenceMinuend ?from ; cg:differenceSubtrahend ?less .
      ?patient cg:hasEligible ?m ; cg:hasCurrent ?s .
      ?m cg:kind ?from ; cg:knownFrom ?at .
      ?s cg:kind ?less ; cg:knownFrom ?each .
      FILTER(?each < ?at)
    } GROUP BY ?patient ?from ?less }
  ?patient cg:hasEligible ?minuend ; cg:hasCurrent ?subtrahend .
  ?minuend cg:kind ?from ; cg:canonicalValue ?a ; cg:knownFrom ?time .
  ?subtrahend cg:kind ?less ; cg:canonicalValue ?b ; cg:knownFrom ?before .
  FILTER(?before < ?time)
  FILTER NOT EXISTS { ?patient cg:hasCandidate ?stated . ?stated cg:kind ?class ; cg:knownFrom ?when . FILTER(?when >= ?time) }
  BIND(?a - ?b AS ?value)
  BIND(IRI(CONCAT(STR(?patient), "/derived/", REPLACE(STR(?class), "^.*[/#]", ""))) AS ?node)
} ;

INSERT { ?patient cg:hasEligible ?stated }
WHERE {
  ?class cg:differenceMinuend ?input .
  ?patient cg:hasCandidate ?stated .
  ?stated cg:kind ?class .
  FILTER NOT EXISTS { ?patient cg:hasEligible ?computed . ?computed cg:kind ?class }
} ;

INSERT {
  ?node a ?class , ?super ; cg:kind ?class ; cg:canonicalValue ?value ; cg:value ?value ; cg:unit ?unit ; cg:knownFrom ?time ; prov:wasDerivedFrom ?numerator , ?denominator .
  ?patient cg:hasFact ?node ; cg:hasEligible ?node
}
WHERE {
  ?class cg:ratioNumerator ?top ; cg:ratioDenominator ?bottom ; cg:ratioFactor ?factor ; cg:canonicalUnit ?unit ; rdfs:subClassOf+ ?super .
  ?patient cg:hasEligible ?numerator , ?denominator .
  ?numerator cg:kind ?top ; cg:canonicalValue ?a ; cg:knownFrom ?time .
  ?denominator cg:kind ?bottom ; cg:canonicalValue ?b .
  FILTER NOT EXISTS { ?patient cg:hasCandidate ?stated . ?stated cg:kind ?class ; cg:knownFrom ?when . FILTER(?when >= ?time) }
  FILTER(?b > 0)
  BIND(FLOOR(?a * ?factor / ?b * 1000000 + 0.5) / 1000000 AS ?value)
  BIND(IRI(CONCAT(STR(?patient), "/derived/", REPLACE(STR(?class), "^.*[/#]", ""))) AS ?node)
} ;

INSERT { ?patient cg:hasEligible ?stated }
WHERE {
  ?class cg:ratioNumerator ?input .
  ?patient cg:hasCandidate ?stated .
  ?stated cg:kind ?class .
  FILTER NOT EXISTS { ?patient cg:hasEligible ?computed . ?computed cg:kind ?class }
} ;

INSERT { ?stated cg:notUsedBecause cg:Superseded }
WHERE {
  ?patient cg:hasCandidate ?stated .
  FILTER NOT EXISTS { ?patient cg:hasEligible ?stated }
}
