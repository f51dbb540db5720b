"""Cohorts: assess as many patients as there are, batch by batch, in many processes, and count what came of it.

from kbtool.cohort import Settings, run
about, total = run(Settings(["facts/"], Path("night.parquet"), as_of="2026-02-10T12:00:00Z"))
"""

from kbtool.cohort.publish import Total
from kbtool.cohort.running import Settings, Watch, run
from kbtool.cohort.units import CohortError

__all__ = ["CohortError", "Settings", "Total", "Watch", "run"]
