#+ summary: A second name for a criterion
#+ module: guideline.ttl
#+ finds: EquivalentCriteria LowPotassium

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

INSERT DATA { dk:PotassiumIsLow a owl:Class ; owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( cg:Patient dk:LowPotassium ) ] }
