#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>

INSERT { ?patient cg:holds ?rule }
WHERE  { ?patient cg:applies ?rule . FILTER NOT EXISTS { ?rule cg:unless [] } } ;

INSERT DATA { cg:Run cg:about cg:Patient }
