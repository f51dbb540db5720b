#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:holds ?rule } WHERE { ?patient cg:applies ?rule } ;
CLEAR ALL
# expect: QueryRemoves 4 CLEAR
