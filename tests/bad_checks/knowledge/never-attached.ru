#+ summary: A caution that is lifted wherever what it touches concerns a patient
#+ module: safety.ttl
#+ finds: NeverAttached SO-05

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

INSERT DATA { dk:SO-05 cg:unless dk:DialysisPatient }
