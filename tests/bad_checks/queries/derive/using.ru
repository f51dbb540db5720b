#+ summary: An example
PREFIX cg: <https://w3id.org/kbtool/cg/>
INSERT { ?patient cg:holds ?rule }
USING <https://w3id.org/kbtool/cg>
WHERE { ?patient cg:applies ?rule }
# expect: QueryReachesOut 4 USING
