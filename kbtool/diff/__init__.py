"""What changed between two knowledge bases, and whose advice changes by it: for those who review a change of a guideline.

What changed is said in words and not in triples, the most important to patients first. Whose advice changes is told for the
patients that are given, and nothing is claimed without any.
"""

from kbtool.diff.comparison import Comparison, DiffFormat, compare, render
from kbtool.diff.sources import DiffError, both

__all__ = ["Comparison", "DiffError", "DiffFormat", "both", "compare", "render"]
