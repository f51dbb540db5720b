"""FHIR: records in, answers out."""
