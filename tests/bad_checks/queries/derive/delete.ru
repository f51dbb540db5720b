#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
DELETE { ?patient cg:holds ?rule } INSERT { ?patient cg:possible ?rule } WHERE { ?patient cg:mayApply ?rule }
# expect: QueryRemoves 3 DELETE
