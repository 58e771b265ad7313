"""Bulk packages over HTTP: what a server has, and fetching it so that nothing is fetched twice."""
