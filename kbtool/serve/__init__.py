"""Serve a knowledge base over HTTP: a SPARQL endpoint, assessment as a service, and a workbench. The extra `serve`."""
