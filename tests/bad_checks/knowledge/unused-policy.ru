#+ summary: A policy whose criterion no longer rests on its range
#+ module: guideline.ttl
#+ finds: UnusedPolicy LR-06

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE { ?x ?p dk:LowPotassiumRange } INSERT { ?x ?p dk:SevereLowPotassiumRange } WHERE { ?x ?p dk:LowPotassiumRange }
