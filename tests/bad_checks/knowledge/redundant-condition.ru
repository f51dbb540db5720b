#+ summary: A condition that another condition brings along
#+ module: guideline.ttl
#+ finds: RedundantCondition DialysisPatientWithOngoingSpasm

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE { dk:DialysisPatientWithOngoingSpasm owl:equivalentClass ?old }
INSERT { dk:DialysisPatientWithOngoingSpasm owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( cg:Patient dk:DialysisPatient dk:HaemodialysisPatient dk:OngoingSpasm ) ] }
WHERE { dk:DialysisPatientWithOngoingSpasm owl:equivalentClass ?old }
