#+ summary: A rule for some of the patients of another, with the same action
#+ module: guideline.ttl
#+ finds: RedundantRule AssessNutritionAgain

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX dk: <https://w3id.org/kbtool/dialysis/>
PREFIX owl: <http://www.w3.org/2002/07/owl#>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

INSERT DATA { dk:AssessNutritionAgain a cg:Recommendation ; cg:action dk:AssessNutritionAction ; cg:appliesTo dk:SymptomaticWithLowPotassium ;
  cg:step dk:StepMonitoring ; cg:rank 9 ; cg:strength cg:Do }
