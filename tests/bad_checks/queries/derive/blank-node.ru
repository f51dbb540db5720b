#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:holds ?rule } WHERE { ?patient cg:applies ?rule } ;

INSERT { ?patient cg:because [ cg:about ?rule ] }
WHERE { ?patient cg:applies ?rule . ?rule cg:action [] }
# expect: QueryBlankNode 3 blank node
