#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:holds ?rule } WHERE { ?patient cg:applies ?rule } ;

PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:possible ?rule } WHERE { ?patient cg:mayApply ?rule }
# expect: QueryPrefixTwice 5 cg: is declared twice
