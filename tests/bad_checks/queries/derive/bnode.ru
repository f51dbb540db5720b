#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:because ?node }
WHERE { ?patient cg:applies ?rule . BIND(BNODE() AS ?node) }
# expect: QueryBlankNode 4 BNODE
