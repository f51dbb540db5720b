#+ summary: Collect the facts of each patient and their superclasses
#+ description: Writes cg:hasFact for every fact and setting, every class above the class that was stated, and the kind of each quantity.
#+ tags: [prepare]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>

INSERT { ?patient cg:hasFact ?fact }
WHERE  { ?has rdfs:subPropertyOf cg:hasFact . ?patient ?has ?fact ; a cg:Patient } ;

INSERT { ?patient cg:hasFact ?setting }
WHERE  { ?patient cg:hasTreatment/cg:hasSetting ?setting } ;

INSERT { ?fact a ?super }
WHERE  { ?patient cg:hasFact ?fact . ?fact a ?class . ?class rdfs:subClassOf+ ?super } ;

INSERT { ?quantity cg:kind ?class }
WHERE  { ?patient cg:hasFact ?quantity . ?quantity a ?class . ?class cg:canonicalUnit ?unit }
