#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
DELETE WHERE { ?patient cg:holds ?rule }
# expect: QueryRemoves 3 DELETE
