"""A declarative clinical guideline knowledge base: load it, assess patients, read the answers.

kb = kbtool.load()
result = kb.assess("patient.ttl", as_of="2026-02-10T12:00:00Z")
result["P01"].recommended
"""

from kbtool.api import KnowledgeBase, Result, load
from kbtool.facts import FactsError
from kbtool.knowledge import KnowledgeError

__version__ = "0.1.0"
__all__ = ["FactsError", "KnowledgeBase", "KnowledgeError", "Result", "load"]
