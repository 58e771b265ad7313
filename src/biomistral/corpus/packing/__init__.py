"""From texts to token blocks: ids, pieces, shards."""
