#+ summary: Nothing says how a state comes about
#+ module: guideline.ttl
#+ finds: NothingOpens StartBaclofen
#+ finds: NothingOpens IncreaseBaclofen
#+ finds: NothingOpens GiveMidodrine
#+ finds: NothingOpens GiveVitaminE

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE DATA { dk:PersistentMuscleSymptoms cg:opensBy cg:ClinicalRecord }
