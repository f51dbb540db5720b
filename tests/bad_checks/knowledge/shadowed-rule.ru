#+ summary: Another recommendation of the same action for more patients
#+ module: guideline.ttl
#+ finds: ShadowedRule CorrectHypokalaemia

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

INSERT DATA { dk:GivePotassiumToAll a cg:Recommendation ; cg:action dk:GivePotassium ; cg:appliesTo dk:SymptomaticDialysisPatient ;
  cg:requires dk:MagnesiumAdequate ; cg:step dk:StepElectrolytes ; cg:rank 9 ; cg:strength cg:Do }
