"""JATS articles: text, metadata, licence, and whether they were retracted."""
