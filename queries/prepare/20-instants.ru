#+ summary: Turn every time into seconds
#+ description: Seconds since 1970-01-01T00:00:00Z by the Julian day number, so that durations are plain arithmetic, subtracting dateTimes is an extension that engines do differently.
#+ tags: [prepare, time]

PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>

INSERT { ?node ?instant ?seconds }
WHERE {
  ?property cg:instant ?instant .
  ?node ?property ?time .
  BIND(TZ(?time) AS ?zone)
  BIND(FLOOR((14 - MONTH(?time)) / 12) AS ?a)
  BIND(YEAR(?time) + 4800 - ?a AS ?y)
  BIND(MONTH(?time) + 12 * ?a - 3 AS ?m)
  BIND(DAY(?time) + FLOOR((153 * ?m + 2) / 5) + 365 * ?y + FLOOR(?y / 4) - FLOOR(?y / 100) + FLOOR(?y / 400) - 2472633 AS ?day)
  BIND(IF(STRLEN(?zone) = 6,
          IF(STRSTARTS(?zone, "-"), -1, 1) * (xsd:integer(SUBSTR(?zone, 2, 2)) * 3600 + xsd:integer(SUBSTR(?zone, 5, 2)) * 60),
          0) AS ?shift)
  BIND(?day * 86400 + HOURS(?time) * 3600 + MINUTES(?time) * 60 + SECONDS(?time) - ?shift AS ?seconds)
}
