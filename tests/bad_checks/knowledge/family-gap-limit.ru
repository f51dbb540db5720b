#+ summary: A limit that belonged to a band belongs to none
#+ module: guideline.ttl
#+ finds: FamilyGap AluminiumFamily

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE { ?facet xsd:maxInclusive 1000.0 } INSERT { ?facet xsd:maxExclusive 1000.0 } WHERE { ?facet xsd:maxInclusive 1000.0 } ;
DELETE { dk:AluminiumAboveRangeResult owl:equivalentClass ?old }
INSERT { dk:AluminiumAboveRangeResult owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( dk:PlasmaAluminium
  [ a owl:Restriction ; owl:onProperty cg:canonicalValue ; owl:someValuesFrom [ a rdfs:Datatype ; owl:onDatatype xsd:decimal ;
    owl:withRestrictions ( [ xsd:minExclusive 1000.0 ] ) ] ] ) ] }
WHERE { dk:AluminiumAboveRangeResult owl:equivalentClass ?old }
