#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:holds ?rule } WHERE { ?patient cg:applies ?rule } ;

LOAD <https://w3id.org/kbtool/cg>
# expect: QueryReachesOut 5 LOAD
