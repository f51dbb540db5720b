#+ summary: Magnesium waits for potassium, and potassium for magnesium
#+ module: guideline.ttl
#+ finds: PrerequisiteCycle AdjustDialysateMagnesium

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

DELETE DATA { dk:AdjustDialysateMagnesium cg:appliesTo dk:SymptomaticWithLowMagnesium } ;
INSERT DATA { dk:AdjustDialysateMagnesium cg:requires dk:PotassiumNotLow ; cg:appliesTo dk:SymptomaticDialysisPatient }
