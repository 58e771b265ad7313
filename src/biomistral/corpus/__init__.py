"""The corpus: from article archives and code lists to licensed, decontaminated, packed token shards."""
